from pathlib import Path

import numpy as np
import torch

from tasks.inference.onnx_classifier import load_model
from tasks.params import Params
from tasks.reproduce.difference import PredictionDifference, compare_predictions, describe_difference
from tasks.workspace.splits import load_splits, save_tensors

A, B = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])


def test_difference_of_tensors_is_the_largest(tmp_path: Path) -> None:
    before, now = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_tensors(
        before, {"x": A, "y": A.clone(), "z": A.clone()}, {"seed": 1, "train": {"lr": 1, "epochs": 2}}
    )
    save_tensors(now, {"x": A, "y": B, "z": torch.zeros(3)}, {"seed": 1, "train": {"lr": 3, "epochs": 2}})
    assert describe_difference(before, now) == (
        "1 of its 3 tensors differ, by up to 0.5; its train.lr is 3, and was 1; z has another shape"
    )
    assert describe_difference(before, before) == "its tensors and its metadata are the same"


def test_other_files_are_compared_by_size(tmp_path: Path) -> None:
    before, now = tmp_path / "a.csv", tmp_path / "b.csv"
    before.write_text("12")
    now.write_text("123")
    assert describe_difference(before, now) == "it has 3 bytes, and had 2"


def test_predictions_are_compared_on_validation_and_test_images(small_run: Params) -> None:
    model, int8 = (load_model(Path(getattr(small_run.paths, name))) for name in ("onnx_model", "int8_model"))
    data = load_splits(Path(small_run.paths.splits))
    images = np.concatenate([data.val.images.numpy(), data.test.images.numpy()])
    same = compare_predictions(model, model, data, 1e-5)
    assert same == PredictionDifference(len(images), 0, 0.0)
    assert same.is_within(1e-5)
    before, now = model.predict_proba(images), int8.predict_proba(images)
    found = compare_predictions(model, int8, data, 0.0)
    assert found.num_classes_differ == (before.argmax(1) != now.argmax(1)).sum() > 0
    assert np.isclose(found.max_abs_diff, np.abs(before - now).max())
    assert not found.is_within(1.0)
    assert compare_predictions(model, int8, data, 1.0).num_classes_differ == 0, "within 1, rounding decides"
