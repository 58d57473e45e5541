import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tasks.benchmarking.backend_process import SUSPENDS, BackendProcess
from tasks.benchmarking.backends import Backend, BackendUnavailableError, ModelPaths
from tasks.inference.onnx_classifier import CPU, load_model
from tasks.params import Params
from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_splits
from tests.conftest import ROOT
from tests.e2e.deployment_server import wait_until

FP32 = Backend("onnxruntime", "fp32", CPU)
SIZES = [1, 8]


@pytest.fixture(scope="module")
def models(small_run: Params) -> ModelPaths:
    return ModelPaths(small_run.paths.weights, small_run.paths.onnx_model, small_run.paths.int8_model)


@pytest.fixture(scope="module")
def images(small_run: Params) -> tuple[Path, int, tuple[int, ...]]:
    test = load_splits(Path(small_run.paths.splits)).test
    assert test.location is not None
    return *test.location, tuple(test.images.shape)


@pytest.fixture
def process(models: ModelPaths, images: tuple[Path, int, tuple[int, ...]]) -> Iterator[BackendProcess]:
    with BackendProcess(FP32, models, [1, 2], SIZES, images) as started:
        yield started


def test_process_predicts_the_test_images(small_run: Params, process: BackendProcess) -> None:
    process.wait_until_loaded()
    test = load_splits(Path(small_run.paths.splits)).test
    expected = load_model(Path(small_run.paths.onnx_model), threads=1).predict_proba(test.images.numpy())
    for threads in (1, 2):
        assert np.abs(process.call("predict", threads, 8) - expected).max() < 1e-6


def test_process_measures_calls_and_requests(process: BackendProcess) -> None:
    process.wait_until_loaded()
    short, long = (process.call("time_calls", 1, 8, seconds) for seconds in (0, 0.1))
    assert len(short) == 1
    assert len(long) > 1
    assert 0.05 < sum(long) < 1
    assert all(seconds > 0 for seconds in long)
    process.call("warm_up_server", 1, 8)
    assert 0 < process.call("serve", 1, 8, 50.0, 0.2, 0) < 1000


def test_memory_is_of_a_process_with_nothing_else(
    models: ModelPaths, images: tuple[Path, int, tuple[int, ...]], process: BackendProcess
) -> None:
    """PyTorch's libraries alone are several times what ONNX Runtime needs."""
    with BackendProcess(Backend("pytorch", "fp32", "cpu"), models, [1], SIZES, images) as other:
        lean = process.wait_until_loaded()["rss_mb"]
        assert 20 < lean < 300
        assert other.wait_until_loaded()["rss_mb"] > 2 * lean


def test_missing_file_or_provider_raises_as_in_this_process(
    tmp_path: Path, models: ModelPaths, images: tuple[Path, int, tuple[int, ...]]
) -> None:
    missing = ModelPaths(*[str(tmp_path / "none.onnx")] * 3)
    with (
        BackendProcess(FP32, missing, [1], SIZES, images) as process,
        pytest.raises(RunError, match=r"none\.onnx cannot be loaded by ONNX Runtime"),
    ):
        process.wait_until_loaded()
    tensorrt = Backend("onnxruntime", "fp32", "TensorrtExecutionProvider")
    with (
        BackendProcess(tensorrt, models, [1], SIZES, images) as process,
        pytest.raises(BackendUnavailableError, match="TensorrtExecutionProvider is not part of"),
    ):
        process.wait_until_loaded()


def test_process_that_is_killed_raises_one_line(process: BackendProcess) -> None:
    process.wait_until_loaded()
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(RunError, match=r"^onnxruntime-fp32 was killed by SIGKILL, possibly out of memory"):
        process.call("predict", 1, 8)


def test_process_that_crashes_raises_its_last_line(
    models: ModelPaths, images: tuple[Path, int, tuple[int, ...]]
) -> None:
    with (
        BackendProcess(FP32, models, [1], [1, "8"], images) as process,
        pytest.raises(
            RunError, match=r"^onnxruntime-fp32 failed with exit code 1: TypeError: '<' not supported"
        ),
    ):
        process.wait_until_loaded()


@pytest.mark.skipif(not SUSPENDS, reason="needs Linux")
def test_process_is_suspended_between_calls(process: BackendProcess) -> None:
    process.wait_until_loaded()
    watched = psutil.Process(process.pid)
    for _ in range(2):
        wait_until(lambda: watched.status() == psutil.STATUS_STOPPED)
        process.call("predict", 1, 8)


@pytest.mark.skipif(not SUSPENDS, reason="needs Linux")
def test_suspended_process_ends_with_a_parent_that_is_killed(
    models: ModelPaths, images: tuple[Path, int, tuple[int, ...]]
) -> None:
    code = f"""
import time
from pathlib import PosixPath
from tasks.benchmarking.backend_process import BackendProcess
from tasks.benchmarking.backends import Backend, ModelPaths
process = BackendProcess({FP32!r}, {models!r}, [1], [1], {images!r})
process.wait_until_loaded()
print(process.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        suspended = psutil.Process(int(parent.stdout.readline()))
        wait_until(lambda: suspended.status() == psutil.STATUS_STOPPED)
        parent.kill()
    wait_until(lambda: not suspended.is_running() or suspended.status() == psutil.STATUS_ZOMBIE)


def test_no_process_is_left(models: ModelPaths, images: tuple[Path, int, tuple[int, ...]]) -> None:
    with BackendProcess(FP32, models, [1], SIZES, images) as process:
        assert psutil.pid_exists(process.pid)
    assert not psutil.pid_exists(process.pid)
