from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tasks.evaluate import evaluate
from tasks.export import export
from tasks.overrides import read_recipe, with_overrides
from tasks.params import read_params
from tasks.params.train import TrainConfig
from tasks.train import train
from tasks.workspace.files import read_json
from tasks.workspace.splits import load_splits
from tests.brightness import save_brightness_splits
from tests.conftest import ROOT
from tests.shipped_params import PARAMS_FILE


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fast94", "strong96"])
def test_gpu_recipe_trains_evaluates_and_exports_on_cpu(tmp_path: Path, recipe: str) -> None:
    """Scaled down to a few steps, with the code of a full run. ONNX Runtime gives the evaluated accuracy."""
    splits = save_brightness_splits(tmp_path / "splits", train=40, val=10)
    params = with_overrides(read_params(PARAMS_FILE), read_recipe(recipe, ROOT / "recipes"))
    small = {"device": "cpu", "epochs": 1, "batch_size": 20, "warmup_epochs": 0.0}
    weights, metrics_file, onnx_model = tmp_path / "w", tmp_path / "m", tmp_path / "o"
    config = TrainConfig.model_validate(params.train.model_dump() | small)
    train(splits, weights, tmp_path / "h", config)
    evaluate(splits, weights, metrics_file, tmp_path / "p", params.evaluate)
    metrics = read_json(metrics_file)
    assert metrics["tta"] == "flip_translate"
    assert {"accuracy", "accuracy_no_tta"} <= metrics["test"].keys()
    # PyTorch's exporter writes opset 18 for it.
    quick = {"opset": 18, "parity_batch_sizes": [7], "parity_threads": [2]}
    export_config = params.export.model_copy(update=quick)
    exported = export(splits, weights, onnx_model, export_config, params.project)
    assert exported["parity_images"] == 10
    test = load_splits(splits).test
    session = onnxruntime.InferenceSession(onnx_model.read_bytes())
    (probabilities,) = session.run(None, {"images": test.images.numpy()})
    predicted = np.asarray(probabilities).argmax(1)
    assert (predicted == test.labels.numpy()).mean() == pytest.approx(metrics["test"]["accuracy"])
