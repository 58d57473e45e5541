from pathlib import Path

import numpy as np
import pytest

from tasks.inference.onnx_classifier import CPU, create_session, load_model, predict_in_every_configuration
from tasks.params import Params
from tasks.workspace.errors import InputError


def test_a_provider_that_is_not_installed(small_run: Params) -> None:
    with pytest.raises(InputError, match=r"^CUDAExecutionProvider is not part of this ONNX Runtime, which"):
        create_session(Path(small_run.paths.onnx_model), provider="CUDAExecutionProvider")


def test_a_provider_that_does_not_start_is_no_silent_fall_back(
    small_run: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with ONNX Runtime's GPU package on a machine without a GPU."""
    known = ["CUDAExecutionProvider", CPU]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: known)
    monkeypatch.setattr("onnxruntime.InferenceSession.get_providers", lambda _: [CPU])
    with pytest.raises(InputError, match=r"CUDAExecutionProvider"):
        create_session(Path(small_run.paths.onnx_model), provider="CUDAExecutionProvider")


def test_every_way_gives_the_same_and_says_which_it_is(small_run: Params) -> None:
    file = Path(small_run.paths.onnx_model)
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    expected = load_model(file).predict_proba(images)
    providers = ["TensorrtExecutionProvider", CPU]
    found = dict(predict_in_every_configuration(file, images, [1, 3, 64], [1, 2], providers))
    assert list(found) == [
        f"batch size {size}, threads {threads}, {CPU}" for threads in (1, 2) for size in (1, 3, 64)
    ]
    for probabilities in found.values():
        assert np.abs(probabilities - expected).max() < 1e-6


def test_the_cpu_itself_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"cut\.onnx is no ONNX model"):
        list(
            predict_in_every_configuration(
                tmp_path / "cut.onnx", np.zeros((1, 32, 32, 3), np.uint8), [1], [1], [CPU]
            )
        )
