"""torchvision's networks through the stages, scaled down."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.evaluate import evaluate
from tasks.export import export
from tasks.inference.onnx_classifier import load_model
from tasks.params import read_params
from tasks.quantize import quantize
from tasks.train import train
from tasks.workspace.errors import InputError
from tasks.workspace.files import read_json
from tests.brightness import build_config, save_brightness_splits
from tests.shipped_params import PARAMS_FILE

PARAMS = read_params(PARAMS_FILE)
EXPORT = PARAMS.export.model_copy(update={"parity_batch_sizes": [7], "parity_threads": [1]})
TINY = {"epochs": 1, "batch_size": 32, "lr": 0.001}


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_brightness_splits(tmp_path_factory.mktemp("data") / "splits", train=64, val=20, test=20)


@pytest.mark.slow
@pytest.mark.parametrize(
    "network", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf"]
)
def test_network_goes_from_training_to_int8(splits: Path, tmp_path: Path, network: str) -> None:
    weights, onnx_model, int8_model = (tmp_path / name for name in ("w", "model.onnx", "int8.onnx"))
    train(splits, weights, tmp_path / "history.csv", build_config(network=network, **TINY))
    evaluate(splits, weights, tmp_path / "metrics.json", tmp_path / "p.csv", PARAMS.evaluate)
    assert export(splits, weights, onnx_model, EXPORT, PARAMS.project)["max_abs_diff"] <= EXPORT.parity_atol
    config = PARAMS.quantize.model_copy(update={"calibration_images": 32})
    metrics = quantize(splits, weights, onnx_model, int8_model, EXPORT, config)
    assert metrics["argmax_agreement"] >= 0.8
    assert int8_model.stat().st_size < 0.4 * onnx_model.stat().st_size
    assert load_model(onnx_model).metadata["network"] == network
    assert read_json(tmp_path / "metrics.json")["model"].lower().startswith(network[:5])


def test_training_with_dropout_resumes_bit_identically(splits: Path, tmp_path: Path) -> None:
    config = build_config(network="mobilenet_v3_small", **TINY | {"epochs": 2})

    class KilledError(Exception):
        pass

    def kill_in_second_epoch(_fraction: float, text: str) -> None:
        if "2/2" in text:
            raise KilledError

    train(splits, tmp_path / "a" / "w", tmp_path / "history.csv", config, progress=lambda *_: None)
    with pytest.raises(KilledError):
        train(splits, tmp_path / "b" / "w", tmp_path / "history.csv", config, progress=kill_in_second_epoch)
    torch.rand(5)  # the state of the global generator must not matter
    train(splits, tmp_path / "b" / "w", tmp_path / "history.csv", config, progress=lambda *_: None)
    assert (tmp_path / "a" / "w").read_bytes() == (tmp_path / "b" / "w").read_bytes()


def test_training_from_weights_with_frozen_layers_changes_the_others_alone(
    splits: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second"
    train(splits, first, tmp_path / "history.csv", build_config())
    config = build_config(weights=first.name, freeze=["conv1", "conv2"])
    train(splits, second, tmp_path / "history.csv", config, pretrained=tmp_path)
    before, after = load_file(first), load_file(second)
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc1", "fc2", "fc3"}


def test_training_from_a_missing_file_is_an_input_error(splits: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found"):
        train(splits, tmp_path / "w", tmp_path / "h", build_config(weights="no.pt"), pretrained=tmp_path)
