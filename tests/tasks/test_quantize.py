import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from models.classifier import Classifier
from models.net import Net
from tasks import quantize as module
from tasks.export import torch_onnx_export
from tasks.inference.onnx_classifier import load_model
from tasks.params import ExportConfig, Params, QuantizeConfig, read_params
from tasks.quantize import quantize, quantize_static_qdq
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.splits import load_splits, load_tensors, save_tensors
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def model(small_run: Params) -> Path:
    return Path(small_run.paths.int8_model)


@pytest.fixture(scope="module")
def images(small_run: Params) -> np.ndarray:
    return np.asarray(load_splits(Path(small_run.paths.splits)).test.images.numpy())


def made(
    small_run: Params,
    folder: Path,
    weights: str = "",
    onnx_model: str = "",
    export: ExportConfig | None = None,
    **changes: object,
) -> tuple[Path, dict[str, Any]]:
    """The stage with another folder to write to, other files, other config."""
    reported = quantize(
        Path(small_run.paths.splits),
        Path(weights or small_run.paths.weights),
        Path(onnx_model or small_run.paths.onnx_model),
        folder / "model.int8.onnx",
        export or small_run.export,
        QuantizeConfig.model_validate(small_run.quantize.model_dump() | changes),
    )
    return folder / "model.int8.onnx", reported


def metadata(file: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


def in_integers(file: Path, images: np.ndarray) -> np.ndarray:
    """What the file says, computed by NumPy in whole numbers: the sums of the last layer as they are."""
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer}

    def layer(x: np.ndarray, name: str, given: str, taken: str = "") -> np.ndarray:
        weight = tensors[f"{name}.weight_quantized"].astype(np.int64)
        sums = x.astype(np.int64) @ weight + tensors[f"{name}.bias_quantized"]
        scale = tensors[f"{name}.weight_scale"] * tensors[f"{given}_scale"]
        if not taken:
            return np.asarray(sums * scale)
        return np.clip(np.rint(sums * (scale / tensors[f"{taken}_scale"])), 0, 255).astype(np.uint8)

    def convolution(x: np.ndarray, name: str, given: str, taken: str, step: int) -> np.ndarray:
        weight = tensors[f"{name}.weight_quantized"]
        outputs, _, height, width = weight.shape
        windows = np.lib.stride_tricks.sliding_window_view(x, (height, width), axis=(1, 2))[:, ::step]
        tensors[f"{name}.weight_quantized"] = weight.reshape(outputs, -1).T
        return layer(windows.reshape(*windows.shape[:3], -1), name, given, taken)

    x = convolution(images.reshape(-1, 32, 8, 12), "conv1", "x1", "r1", 2)
    x = x.reshape(*x.shape[:3], 4, 12).max(3)
    x = convolution(x, "conv2", "x2", "r2", 1).reshape(-1, 5, 2, 5, 2, 16).max((2, 4))
    x = layer(x.reshape(len(x), 400), "fc1", "features", "a1")
    return layer(layer(x, "fc2", "a1", "a2"), "fc3", "a2")


def test_the_file_computes_in_integers(model: Path, images: np.ndarray) -> None:
    logits = in_integers(model, images)
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    actual = load_model(model).predict_proba(images)
    # A sum that lies between two steps may be rounded to either: of 500 images, to the other one for a few.
    differences = np.abs(actual - expected).max(1)
    assert np.median(differences) < 1e-6
    assert differences.max() < 0.05
    assert (actual.argmax(1) == expected.argmax(1)).mean() > 0.99


def test_it_is_nearly_the_fp32_model(small_run: Params, model: Path, images: np.ndarray) -> None:
    actual, expected = (
        load_model(Path(file)).predict_proba(images) for file in (model, Path(small_run.paths.onnx_model))
    )
    assert (actual.argmax(1) == expected.argmax(1)).mean() > 0.9
    assert np.abs(actual - expected).mean() < 0.02


def test_both_accuracies_are_in_the_file(small_run: Params, model: Path, images: np.ndarray) -> None:
    about, labels = metadata(model), load_splits(Path(small_run.paths.splits)).test.labels.numpy()
    accuracy = (load_model(model).predict_proba(images).argmax(1) == labels).mean()
    assert json.loads(about["test_accuracy"]) == pytest.approx(accuracy)
    metrics = json.loads(Path(small_run.paths.metrics).read_text(encoding="utf-8"))
    assert json.loads(about["fp32_test_accuracy"]) == pytest.approx(metrics["test"]["accuracy"])


def test_the_file_explains_itself(small_run: Params, model: Path) -> None:
    read, about = onnx.load(model), metadata(model)
    exported = metadata(Path(small_run.paths.onnx_model))
    own = {"test_accuracy", "fp32_test_accuracy", "precision", "calibration"}
    assert {key: about[key] for key in about.keys() - own} == {
        key: exported[key] for key in exported.keys() - {"test_accuracy"}
    }
    assert about["precision"] == "int8"
    assert json.loads(about["calibration"]) == {
        "images": small_run.quantize.calibration_images,
        "of": "train",
        "seed": small_run.quantize.seed,
        "method": "minmax",
    }
    assert "8-bit" in read.graph.doc_string
    assert [(entry.domain, entry.version) for entry in read.opset_import] == [("", 13)]
    assert (read.producer_name, read.producer_version, read.doc_string) == ("cifarflow", "", "")
    assert not any(node.doc_string for node in read.graph.node)


def test_no_path_of_the_machine_and_no_other_file(model: Path) -> None:
    content = model.read_bytes()
    for path in (str(ROOT), tempfile.gettempdir(), str(Path.home()), str(model.parent), "site-packages"):
        assert path.encode() not in content
    assert not [t for t in onnx.load(model, load_external_data=False).graph.initializer if t.external_data]
    assert not list(model.parent.glob("*.data"))


def test_the_picture_is_quantized_as_it_is(model: Path) -> None:
    graph = onnx.load(model).graph
    (given,) = graph.input
    assert given.type.tensor_type.elem_type == TensorProto.UINT8
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    first = next(node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] == "x1")
    assert (tensors[first.input[1]], tensors[first.input[2]]) == (1, 0)
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["QuantizeLinear"] == 4  # behind each layer but the last
    assert "Cast" not in kinds


def test_onnx_runtime_keeps_it_in_integers(model: Path, tmp_path: Path) -> None:
    """Nothing between the picture and Softmax is a float, or moved to another layout: else it is slow."""
    config = onnxruntime.SessionOptions()
    config.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    config.log_severity_level = 3  # such a file is for this machine, the runtime warns
    onnxruntime.InferenceSession(model, config, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds == {
        "QLinearConv": 2,
        "QGemm": 3,
        "Split": 1,
        "Max": 1,
        "NhwcMaxPool": 1,
        "Reshape": kinds["Reshape"],  # which costs nothing, as Flatten
        "Flatten": 1,
        "Softmax": 1,
    }


@pytest.mark.parametrize("bits", [7, 8])
def test_two_products_fit_into_16_bits(small_run: Params, tmp_path: Path, bits: int) -> None:
    """x86 without VNNI adds two products of a uint8 and an int8 in 16 bits, and cuts off the rest."""
    file, _ = made(small_run, tmp_path, weight_bits=bits)
    weights = [
        numpy_helper.to_array(tensor).astype(int)
        for tensor in onnx.load(file).graph.initializer
        if tensor.name.endswith("weight_quantized")
    ]
    assert len(weights) == 5
    largest = max(np.abs(weight).max() for weight in weights)
    assert largest == 2 ** (bits - 1) - (bits == 8)
    assert (2 * 255 * largest < 2**15) == (bits == 7)


def test_same_weights_same_bytes(small_run: Params, model: Path, tmp_path: Path) -> None:
    again, _ = made(small_run, tmp_path)
    assert again.read_bytes() == model.read_bytes()
    other, _ = made(small_run, tmp_path, seed=1, calibration_images=10)
    assert other.read_bytes() != model.read_bytes()


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_methods_of_calibration(
    small_run: Params, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, reported = made(small_run, tmp_path, method=method, calibration_images=50_000)
    assert all(line.startswith(str(file)) for line in capsys.readouterr().out.splitlines())
    assert reported["argmax_agreement"] > 0.8
    calibration = json.loads(metadata(file)["calibration"])
    train = load_splits(Path(small_run.paths.splits)).train
    assert (calibration["images"], calibration["method"]) == (len(train.images), method)


def test_a_range_is_that_of_the_images(small_run: Params, tmp_path: Path) -> None:
    """By PyTorch: the largest activation of the images drawn is 255 steps."""
    file, _ = made(small_run, tmp_path, calibration_images=50_000)
    data = load_splits(Path(small_run.paths.splits))
    classifier, _ = module.load_classifier(Path(small_run.paths.weights))
    network = classifier.network
    assert isinstance(network, Net)
    with torch.inference_mode():
        first = torch.relu(network.conv1(classifier.normalize(data.train.images)))
        second = torch.relu(network.conv2(network.pool(first)))
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer}
    assert 255 * tensors["r1_scale"] == pytest.approx(first.max().item(), rel=1e-5)
    assert 255 * tensors["r2_scale"] == pytest.approx(second.max().item(), rel=1e-5)
    for given, taken in (("r1", "x2"), ("r2", "features")):
        assert tensors[f"{given}_scale"] == tensors[f"{taken}_scale"]
        assert tensors[f"{given}_zero_point"] == tensors[f"{taken}_zero_point"] == 0


def test_a_loss_of_accuracy_is_said(
    small_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = module.build_int8_graph
    torch.manual_seed(0)

    def untrained(classifier: Classifier, opset: int) -> onnx.ModelProto:
        other = Classifier(Net(), classifier.mean.flatten().tolist(), classifier.std.flatten().tolist())
        return graph(other.eval(), opset)

    monkeypatch.setattr(module, "build_int8_graph", untrained)
    file, reported = made(small_run, tmp_path)
    lost = 100 * (reported["fp32_test_accuracy"] - reported["test_accuracy"])
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{file} loses {lost:.2f} points of accuracy, more than the 0.50 of quantize.max_accuracy_drop"
    ]
    assert json.loads(metadata(file)["test_accuracy"]) == reported["test_accuracy"]


def test_what_depends_on_how_it_is_run_is_not_written(
    small_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where one way to run it takes two classes of the third picture for one another."""

    def ways(file: Path, images: np.ndarray, *_: Any) -> Iterator[tuple[str, np.ndarray]]:
        found = load_model(file).predict_proba(images)
        yield "batch size 1, threads 1", found
        other = found.copy()
        other[2] = np.roll(other[2], 1)
        yield "batch size 7, threads 2", other

    monkeypatch.setattr(module, "predict_in_every_configuration", ways)
    with pytest.raises(
        RunError, match=r"at batch size 7, threads 2, 1 of 500 classes are others, .* test image 2$"
    ):
        made(small_run, tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_network_is_quantized_where_it_stands(
    small_run: Params, images: np.ndarray, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 32, 5, 2), nn.GELU(), nn.Conv2d(32, 32, 5, 2), nn.Flatten(), nn.Linear(800, 10))
    exported = torch_onnx_export(Classifier(nn.Sequential(*layers), [0.5] * 3, [0.2] * 3).eval(), 18)
    onnx.save(exported, tmp_path / "fp32.onnx")
    made = quantize_static_qdq(tmp_path / "fp32.onnx", images[:300], small_run.quantize)
    onnx.checker.check_model(made, full_check=True)
    operators = Counter(node.op_type for node in made.graph.node)
    assert operators["DequantizeLinear"] > 2 * operators["Conv"] == 4
    fp32, int8 = (
        onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"images": images})[0]
        for model in (exported, made)
    )
    assert 0 < np.abs(int8 - fp32).max() < 0.02
    assert len(made.SerializeToString()) < 0.4 * len(exported.SerializeToString())


def test_other_weights(small_run: Params, tmp_path: Path) -> None:
    tensors, about = load_tensors(Path(small_run.paths.weights))
    other = str(tmp_path / "other.safetensors")
    save_tensors(Path(other), tensors | {"fc3.bias": torch.zeros(10)}, about)
    with pytest.raises(RunError, match=r"was not made from .*; the stage export has to run first"):
        made(small_run, tmp_path, weights=other)
    save_tensors(Path(other), tensors | {"fc3.bias": torch.zeros(11)}, about)
    with pytest.raises(RunError, match=r"does not hold the weights of 'net'.*fc3\.bias"):
        made(small_run, tmp_path, weights=other)
    assert not (tmp_path / "model.int8.onnx").exists()


@pytest.mark.parametrize("share", [0, 50, 99])
def test_a_truncated_file(small_run: Params, tmp_path: Path, share: int) -> None:
    content = Path(small_run.paths.onnx_model).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) * share // 100])
    with pytest.raises(InputError, match=r"cut\.onnx is no ONNX model") as caught:
        made(small_run, tmp_path, onnx_model=str(tmp_path / "cut.onnx"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_foreign_file(small_run: Params, tmp_path: Path) -> None:
    shape = ["N", 10]
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"])],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    operators = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=operators, ir_version=7), tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match=r"foreign\.onnx is a model of another kind"):
        made(small_run, tmp_path, onnx_model=str(tmp_path / "foreign.onnx"))


@pytest.mark.parametrize("opset", [1, 12, 99])
def test_an_opset_that_does_not_do(small_run: Params, tmp_path: Path, opset: int) -> None:
    export = ExportConfig.model_validate(small_run.export.model_dump() | {"opset": opset})
    with pytest.raises(InputError, match=rf"export\.opset {opset} is not possible, but 13 to \d+ are"):
        made(small_run, tmp_path, export=export)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("  calibration_images: ", "  calibration_images: 0 #", "calibration_images should be greater than"),
        (
            "  method: ",
            "  method: mean #",
            "method should be 'minmax', 'percentile' or 'entropy', not 'mean'",
        ),
        ("  percentile: ", "  percentile: 101.0 #", "percentile should be less than or equal to 100"),
        ("  weight_bits: ", "  weight_bits: 4 #", "weight_bits should be 7 or 8, not 4"),
        ("  max_accuracy_drop: ", "  max_accuracy_drop: -1.0 #", "max_accuracy_drop should be greater"),
    ],
)
def test_parameters_out_of_range(tmp_path: Path, before: str, after: str, message: str) -> None:
    head, rest = (ROOT / "params.yaml").read_text(encoding="utf-8").split("\nquantize:")
    assert before in rest
    (tmp_path / "params.yaml").write_text(
        f"{head}\nquantize:{rest.replace(before, after, 1)}", encoding="utf-8"
    )
    with pytest.raises(InputError) as caught:
        read_params(tmp_path / "params.yaml")
    assert str(caught.value).startswith(f"params.yaml: quantize.{message}")
    assert len(str(caught.value).splitlines()) == 1
