"""Fixtures that several test files share. What is expensive is made once for all workers of a session."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tasks.params import Params
    from tests.s3 import S3

ROOT = Path(__file__).parents[1]
QUICK = [
    "train.epochs=1",
    "train.num_threads=1",
    "benchmark.backends=[onnxruntime-fp32, pytorch-fp32]",
    "benchmark.batch_sizes=[1]",
    "benchmark.threads=[1]",
    "benchmark.round_duration_s=0.005",
    "benchmark.warmup_s=0.01",
    "benchmark.server_duration_s=0.01",
]

# A test's first example loads what it needs; on a busy machine that takes longer than Hypothesis allows.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

# Programs that tests start need not compile the project each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Tests run side by side: a second thread gains no time, and costs a sixth of a training step's. A test about
# threads sets their number itself; they must not spin while they wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["CIFARFLOW_SERVER"] = "temporary"  # leaves no server behind
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DVC_NO_ANALYTICS"] = "1"
os.environ["WANDB_MODE"] = "disabled"  # where a test is not about tracking
# `dvc repro` starts `python`, which is the environment's where that is active.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures that they use."""
    for item in items:
        for fixture, mark in (("prefect_server", "server"), ("browser", "browser"), ("cifar10", "data")):
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(mark)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """No child outlives the session: one that hangs cannot hold up whoever waits for the suite."""
    if session.config.pluginmanager.hasplugin("dsession"):
        return  # its children are the workers, each of which does this itself
    for child in psutil.Process().children(recursive=True):
        child.kill()


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Gives `once(name, make)`: a folder that `make` fills, one for all workers of the session."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def fill(name: str, make: Callable[[Path], None]) -> Path:
        folder = base / f"once-{name}"
        with FileLock(base / f"once-{name}.lock"):
            if not (folder / ".done").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                (folder / ".done").touch()
        return folder

    return fill


@pytest.fixture(scope="session")
def prefect_database(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """An empty database of Prefect's server, to copy: to make it takes longer than to start the server."""

    def make(folder: Path) -> None:
        command = [str(Path(sys.executable).parent / "prefect"), "server", "database", "upgrade", "-y"]
        environment = os.environ | {"PREFECT_HOME": str(folder)}
        environment.pop("PREFECT_API_DATABASE_CONNECTION_URL", None)
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=240)

    return once("prefect-database", make) / "prefect.db"


@pytest.fixture
def prefect_home(prefect_database: Path, tmp_path: Path) -> Path:
    """A folder for `PREFECT_HOME`, where a server has started before."""
    home = tmp_path / "prefect-home"
    home.mkdir()
    shutil.copy(prefect_database, home)
    return home


@pytest.fixture(scope="session")
def prefect_server(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A temporary Prefect server with its own database; it takes seconds to start, so all tests share it."""
    from prefect.testing import utilities

    folder = tmp_path_factory.mktemp("prefect-server")
    shutil.copy(prefect_database, folder / "prefect-test.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utilities, "mkdtemp", lambda: str(folder))
        with utilities.prefect_test_harness(server_startup_timeout=120):
            yield


@pytest.fixture(scope="session")
def cifar10(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The folder `data` with CIFAR-10: a copy of the project's own, or downloaded from `CIFAR10_URL`."""
    from tasks.dataset.cifar import CIFAR10
    from tasks.download import download
    from tasks.params import DownloadConfig

    ours = ROOT / "data"

    def make(folder: Path) -> None:
        data = folder / "data"
        if (ours / CIFAR10.folder).is_dir():
            shutil.copytree(ours / CIFAR10.folder, data / CIFAR10.folder)
            CIFAR10.verify(data)
        else:
            config = DownloadConfig(
                sources=[], cifar100_sources=[], timeout_s=20.0, min_speed_kb_per_s=0.0, max_attempts=3
            )
            download(data, "CIFAR-10", config)

    if not (ours / CIFAR10.folder).is_dir() and "CIFAR10_URL" not in os.environ:
        if "CIFARFLOW_REQUIRE_DATA" in os.environ:
            pytest.fail("CIFARFLOW_REQUIRE_DATA is set, but there is neither data/ nor CIFAR10_URL")
        pytest.skip("needs CIFAR-10: python -m tasks download, or set CIFAR10_URL to its archive")
    return once("cifar10", make) / "data"


@pytest.fixture(scope="session")
def sample_data(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The folder `data` of a generated sample."""
    from tasks.dataset.synthetic import generate_sample

    return once("sample", lambda folder: generate_sample(folder / "data")) / "data"


@pytest.fixture(scope="session")
def small_run(once: Callable[[str, Callable[[Path], None]], Path], sample_data: Path) -> "Params":
    """The parameters of a run on the sample that went as far as the benchmark; its paths are absolute."""
    from tasks.params import Params, read_params
    from tasks.stages import run_stage
    from tests.shipped_params import PARAMS_FILE

    values = read_params(PARAMS_FILE).model_dump()
    values["dataset"] = "sample"
    values["train"] |= {"epochs": 2, "batch_size": 32, "device": "cpu", "num_threads": 1}
    values["benchmark"] |= {
        "batch_sizes": [1, 8],
        "threads": [1],
        "warmup_s": 0.01,
        "round_duration_s": 0.005,
        "server_duration_s": 0.02,
    }

    def params_in(folder: Path) -> Params:
        paths = {name: str(folder / path) for name, path in values["paths"].items()}
        return Params.model_validate(values | {"paths": paths | {"data": str(sample_data)}})

    def make(folder: Path) -> None:
        for stage in ("split", "train", "evaluate", "export", "quantize", "benchmark"):
            run_stage(stage, params_in(folder))

    return params_in(once("small-run", make))


@pytest.fixture(scope="session")
def s3_server() -> Iterator["S3"]:
    """An S3 API; clients that have its `env` use it."""
    from tests.s3 import serve_s3

    with serve_s3() as server:
        yield server


@pytest.fixture
def s3(s3_server: "S3", monkeypatch: pytest.MonkeyPatch) -> "S3":
    """The same as the S3 API of this process."""
    for name, value in s3_server.env.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(scope="session")
def other_uid() -> int:
    """The id of another user of the machine, to start programs with (`subprocess.run(..., user=other_uid)`).

    A folder such as `tmp_path` is closed to that user. Only root may become another user, or give files away.
    """
    if os.geteuid() != 0:
        if "CIFARFLOW_REQUIRE_UID" in os.environ:
            pytest.fail("CIFARFLOW_REQUIRE_UID is set, but the tests do not run as root")
        pytest.skip("needs a second user, so the tests must run as root")
    return 65534  # nobody


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
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


def copy_of_project(folder: Path) -> Path:
    """Copy what `dvc repro` needs; the parameters are those that cifarflow comes with."""
    from tests.shipped_params import PARAMS_FILE

    for name in ("tasks", "models", "pretrained"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (ROOT / ".dvcignore", ROOT / "dvc.yaml", ROOT / "data.dvc", PARAMS_FILE):
        shutil.copy(file, folder)
    return folder


def enter_copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder for one test, which becomes the current folder."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture(scope="session")
def finished_workspace(once: Callable[[str, Callable[[Path], None]], Path], prefect_server: None) -> Path:
    """A sample workspace in which the pipeline ran once."""
    from flows.cli.sample_workspace import prepare_sample_workspace
    from flows.pipeline import pipeline
    from tasks.overrides import parse_overrides

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(copy_of_project(folder))
            workspace = prepare_sample_workspace(Path()).resolve()
            assert pipeline(parse_overrides(QUICK), workspace=workspace, return_state=True).is_completed()

    return once("finished", make) / "sample"


@pytest.fixture
def workspace(finished_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    return enter_copy(finished_workspace, tmp_path, monkeypatch)
