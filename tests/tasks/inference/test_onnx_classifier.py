import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tasks.inference.onnx_classifier import CPU, OnnxClassifier, create_session, load_model
from tasks.params import Params
from tasks.workspace.errors import InputError, RunError


def test_create_session_with_missing_provider_raises(small_run: Params) -> None:
    with pytest.raises(InputError, match=r"^CUDAExecutionProvider is not part of this ONNX Runtime, which"):
        create_session(Path(small_run.paths.onnx_model), provider="CUDAExecutionProvider")


def test_create_session_does_not_fall_back_to_cpu(small_run: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ONNX Runtime's GPU package on a machine without a GPU."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    session = onnxruntime.InferenceSession
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda file, *_, **__: session(file, providers=[CPU]))
    with pytest.raises(InputError, match=r"^CUDAExecutionProvider failed to initialize"):
        create_session(Path(small_run.paths.onnx_model), provider="CUDAExecutionProvider")


def test_load_model_of_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none\.onnx not found; create it with `cifarflow run`$"):
        load_model(tmp_path / "none.onnx")


@pytest.mark.parametrize("share", [0, 1, 50, 99])
def test_load_model_of_truncated_file_raises_one_line(small_run: Params, tmp_path: Path, share: int) -> None:
    content = Path(small_run.paths.onnx_model).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) * share // 100])
    with pytest.raises(InputError) as caught:
        load_model(tmp_path / "cut.onnx")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("key", "value"), [("classes", '["cat"]'), ("classes", "3"), ("run", "not JSON"), ("run", None)]
)
def test_load_model_with_other_metadata_raises(
    small_run: Params, tmp_path: Path, key: str, value: str | None
) -> None:
    model = onnx.load(small_run.paths.onnx_model)
    properties = {entry.key: entry.value for entry in model.metadata_props} | {key: value}
    onnx.helper.set_model_props(model, {name: text for name, text in properties.items() if text is not None})
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match=r"other\.onnx is not a cifarflow model: ") as caught:
        load_model(tmp_path / "other.onnx")
    assert len(str(caught.value).splitlines()) == 1


def test_top_k_sorts_descending_and_keeps_order_of_ties(small_run: Params) -> None:
    model = load_model(Path(small_run.paths.onnx_model))
    few = OnnxClassifier(model.session, ["a", "b", "c", "d"], {})
    top = few.top_k(np.array([0.25, 0.125, 0.375, 0.25], np.float32), 3)
    assert top == [("c", 0.375), ("a", 0.25), ("d", 0.25)]


def test_dataset_label_says_sample_or_dataset(small_run: Params) -> None:
    model = load_model(Path(small_run.paths.onnx_model))
    assert json.loads(model.session.get_modelmeta().custom_metadata_map["run"]) == model.metadata
    assert model.dataset_label == "trained on a generated sample, not CIFAR-10"
    other = OnnxClassifier(model.session, model.classes, {"dataset": "CIFAR-10"})
    assert other.dataset_label == "trained on CIFAR-10"
