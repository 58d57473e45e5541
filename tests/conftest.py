"""What several test files need: a temporary Prefect server, started once, data, a small run, a browser."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tasks.params import Params

ROOT = Path(__file__).parents[1]
QUICK = [
    "train.epochs=1",
    "benchmark.backends=[onnxruntime-fp32, pytorch-fp32]",
    "benchmark.batch_sizes=[1]",
    "benchmark.min_duration_s=0.02",
    "benchmark.warmup_s=0.01",
    "benchmark.server_min_duration_s=0.01",
]

os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DVC_NO_ANALYTICS"] = "1"
os.environ["WANDB_MODE"] = "disabled"  # where a test is not about tracking
# `dvc repro` starts `python`, which is the environment's where that is active.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary Prefect server with its own database; it takes seconds to start, so all tests share it."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `data` with CIFAR-10, got from `CIFAR10_URL` by the project's own download."""
    from tasks.download import download
    from tasks.params import DownloadConfig

    if "CIFAR10_URL" not in os.environ:
        if "CIFARFLOW_REQUIRE_DATA" in os.environ:
            pytest.fail("CIFARFLOW_REQUIRE_DATA is set, but CIFAR10_URL is not")
        pytest.skip("needs CIFAR-10: set CIFAR10_URL to a URL or path of its archive")
    data = tmp_path_factory.mktemp("cifar10") / "data"
    download(data, "CIFAR-10", DownloadConfig(sources=[], timeout_s=20.0, min_speed_kb_per_s=0.0, attempts=3))
    return data


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `data` of a generated sample."""
    from tasks.dataset.synthetic import generate_sample

    data = tmp_path_factory.mktemp("sample") / "data"
    generate_sample(data)
    return data


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, sample_data: Path) -> "Params":
    """The parameters of a run on the sample that went as far as the benchmark; its paths are absolute."""
    from tasks.params import Params, read_params
    from tasks.stages import run_stage

    workspace = tmp_path_factory.mktemp("run")
    values = read_params(Path(__file__).parents[1] / "params.yaml").model_dump()
    values["dataset"] = "sample"
    values["paths"] = {name: str(workspace / path) for name, path in values["paths"].items()}
    values["paths"]["data"] = str(sample_data)
    values["train"] |= {"epochs": 2, "batch_size": 32, "device": "cpu"}
    values["benchmark"] |= {
        "batch_sizes": [1, 8],
        "threads": [1],
        "warmup_s": 0.01,
        "min_duration_s": 0.02,
        "server_min_duration_s": 0.02,
    }
    params = Params.model_validate(values)
    for stage in ("split", "train", "evaluate", "export", "quantize", "benchmark"):
        run_stage(stage, params)
    return params


@pytest.fixture(scope="module")  # while it is open, its event loop stands in the way of any other
def browser() -> Iterator["Browser"]:
    """A headless Chromium, the one that is installed."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        if "CIFARFLOW_REQUIRE_BROWSER" in os.environ:
            pytest.fail("CIFARFLOW_REQUIRE_BROWSER is set, but no Chromium is found")
        pytest.skip("needs Chromium; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def copy_of_project(folder: Path) -> Path:
    for name in ("tasks", "models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".dvcignore", "dvc.yaml", "params.yaml", "data.dvc"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:
    """A sample workspace in which the pipeline ran once."""
    from flows.pipeline import pipeline
    from flows.runtime.sample_workspace import prepare_sample_workspace
    from tasks.overrides import parse_overrides

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy_of_project(tmp_path_factory.mktemp("project")))
        workspace = prepare_sample_workspace(Path()).resolve()
        assert pipeline(parse_overrides(QUICK), workspace=workspace, return_state=True).is_completed()
    return workspace


@pytest.fixture
def workspace(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"
