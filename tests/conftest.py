"""What several test files need: a temporary Prefect server, started once, and data."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DVC_NO_ANALYTICS"] = "1"
os.environ["WANDB_MODE"] = "offline"
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
    from tasks.params import Download

    if "CIFAR10_URL" not in os.environ:
        if "CIFARFLOW_REQUIRE_DATA" in os.environ:
            pytest.fail("CIFARFLOW_REQUIRE_DATA is set, but CIFAR10_URL is not")
        pytest.skip("needs CIFAR-10: set CIFAR10_URL to a URL or path of its archive")
    data = tmp_path_factory.mktemp("cifar10") / "data"
    download(data, "CIFAR-10", Download(sources=[], timeout_s=20.0, min_speed_kb_per_s=0.0, attempts=3))
    return data


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `data` of a generated sample."""
    from tasks.sample import generate

    data = tmp_path_factory.mktemp("sample") / "data"
    generate(data)
    return data
