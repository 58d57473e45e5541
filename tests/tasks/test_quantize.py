import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from models.classifier import Classifier
from models.net import Net
from tasks.export import export
from tasks.inference.onnx_classifier import Images, Probabilities, load_model
from tasks.onnx.net_int8 import build_int8_graph
from tasks.params import ExportConfig, Params, QuantizeConfig, read_params
from tasks.quantize import quantize
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.splits import load_splits, load_tensors, save_tensors
from tests.conftest import ROOT
from tests.shipped_params import PARAMS_FILE

HIGHEST_OPSET = onnx.defs.onnx_opset_version()


def is_opset_of_onnx_runtime(opset: int) -> bool:
    """Whether ONNX Runtime loads the smallest model of this operator set."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    imports = [helper.make_opsetid("", opset)]
    version = helper.find_min_ir_version_for(imports)
    model = helper.make_model(graph, opset_imports=imports, ir_version=version)
    try:
        onnxruntime.InferenceSession(model.SerializeToString())
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
        return False
    return True


@pytest.fixture(scope="module")
def model(small_run: Params) -> Path:
    return Path(small_run.paths.int8_model)


@pytest.fixture(scope="module")
def images(small_run: Params) -> Images:
    return np.asarray(load_splits(Path(small_run.paths.splits)).test.images.numpy())


def run_quantize(
    small_run: Params,
    folder: Path,
    weights: str = "",
    onnx_model: str = "",
    export: ExportConfig | None = None,
    **changes: object,
) -> tuple[Path, dict[str, Any]]:
    """The stage with another output folder, other files, other config; its file and its metrics."""
    metrics = quantize(
        Path(small_run.paths.splits),
        Path(weights or small_run.paths.weights),
        Path(onnx_model or small_run.paths.onnx_model),
        folder / "model.int8.onnx",
        export or small_run.export,
        QuantizeConfig.model_validate(small_run.quantize.model_dump() | changes),
    )
    return folder / "model.int8.onnx", metrics


def read_metadata(file: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(file).metadata_props}


def test_quantize_stores_both_accuracies(small_run: Params, model: Path, images: Images) -> None:
    metadata = read_metadata(model)
    labels = load_splits(Path(small_run.paths.splits)).test.labels.numpy()
    accuracy = (load_model(model).predict_proba(images).argmax(1) == labels).mean()
    assert json.loads(metadata["test_accuracy"]) == pytest.approx(accuracy)
    metrics = json.loads(Path(small_run.paths.metrics).read_text(encoding="utf-8"))
    assert json.loads(metadata["fp32_test_accuracy"]) == pytest.approx(metrics["test"]["accuracy"])


def test_quantize_keeps_metadata_of_the_exported_model(small_run: Params, model: Path) -> None:
    loaded, metadata = onnx.load(model), read_metadata(model)
    exported = read_metadata(Path(small_run.paths.onnx_model))
    own = {"test_accuracy", "fp32_test_accuracy", "precision", "calibration"}
    assert {key: metadata[key] for key in metadata.keys() - own} == {
        key: exported[key] for key in exported.keys() - {"test_accuracy"}
    }
    assert metadata["precision"] == "int8"
    assert json.loads(metadata["calibration"]) == {
        "images": small_run.quantize.calibration_images,
        "of": "train",
        "seed": small_run.quantize.seed,
        "method": "minmax",
    }
    assert "8-bit" in loaded.graph.doc_string
    assert [(entry.domain, entry.version) for entry in loaded.opset_import] == [("", 13)]
    assert (loaded.producer_name, loaded.producer_version, loaded.doc_string) == ("cifarflow", "", "")
    assert not any(node.doc_string for node in loaded.graph.node)


def test_quantize_writes_no_local_path_and_no_other_file(model: Path) -> None:
    content = model.read_bytes()
    for path in (str(ROOT), tempfile.gettempdir(), str(Path.home()), str(model.parent), "site-packages"):
        assert path.encode() not in content
    assert not [t for t in onnx.load(model, load_external_data=False).graph.initializer if t.external_data]
    assert not list(model.parent.glob("*.data"))


def test_quantize_is_deterministic_per_seed(small_run: Params, model: Path, tmp_path: Path) -> None:
    again, _ = run_quantize(small_run, tmp_path)
    assert again.read_bytes() == model.read_bytes()
    other, _ = run_quantize(small_run, tmp_path, seed=1, calibration_images=10)
    assert other.read_bytes() != model.read_bytes()


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_quantize_by_each_calibration_method(
    small_run: Params, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, metrics = run_quantize(small_run, tmp_path, method=method, calibration_images=50_000)
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.removeprefix("warning: ").startswith(str(file)) for line in lines)
    assert metrics["argmax_agreement"] > 0.8
    calibration = json.loads(read_metadata(file)["calibration"])
    train = load_splits(Path(small_run.paths.splits)).train
    assert (calibration["images"], calibration["method"]) == (len(train.images), method)


def test_quantize_warns_of_accuracy_drop(
    small_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)

    def build_untrained(classifier: Classifier, opset: int) -> onnx.ModelProto:
        other = Classifier(Net(), classifier.mean.flatten().tolist(), classifier.std.flatten().tolist())
        return build_int8_graph(other.eval(), opset)

    monkeypatch.setattr("tasks.onnx.qdq.build_int8_graph", build_untrained)
    file, metrics = run_quantize(small_run, tmp_path)
    drop = 100 * (metrics["fp32_test_accuracy"] - metrics["test_accuracy"])
    (_, warning) = capsys.readouterr().out.splitlines()
    assert warning == (
        f"warning: {file} loses {drop:.2f} points of accuracy, "
        "more than the 0.50 of quantize.max_accuracy_drop"
    )
    assert json.loads(read_metadata(file)["test_accuracy"]) == metrics["test_accuracy"]


def test_quantize_writes_nothing_if_configurations_differ(
    small_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where one configuration takes two classes of the third image for one another."""

    def predict(file: Path, images: Images, *_: Any) -> Iterator[tuple[str, Probabilities]]:
        probabilities = load_model(file).predict_proba(images)
        yield "batch size 1, threads 1", probabilities
        other = probabilities.copy()
        other[2] = np.roll(other[2], 1)
        yield "batch size 7, threads 2", other

    monkeypatch.setattr("tasks.onnx.graph.predict_in_every_configuration", predict)
    with pytest.raises(
        RunError,
        match=r"^int8 predictions differ between configurations: at batch size 7, threads 2, "
        r"1 of 500 classes differ, .* test image 2$",
    ):
        run_quantize(small_run, tmp_path)
    assert not list(tmp_path.iterdir())


def test_quantize_of_other_weights_raises(small_run: Params, tmp_path: Path) -> None:
    tensors, metadata = load_tensors(Path(small_run.paths.weights))
    other = tmp_path / "other.safetensors"
    save_tensors(other, tensors | {"fc3.bias": torch.zeros(10)}, metadata)
    with pytest.raises(RunError, match=r"was not exported from .*; run the export stage first"):
        run_quantize(small_run, tmp_path, weights=str(other))
    save_tensors(other, tensors | {"fc3.bias": torch.zeros(11)}, metadata)
    with pytest.raises(RunError, match=r"does not hold the weights of 'net'.*fc3\.bias"):
        run_quantize(small_run, tmp_path, weights=str(other))
    assert not (tmp_path / "model.int8.onnx").exists()


@pytest.mark.parametrize("share", [0, 50, 99])
def test_quantize_of_truncated_file_raises_one_line(small_run: Params, tmp_path: Path, share: int) -> None:
    content = Path(small_run.paths.onnx_model).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) * share // 100])
    with pytest.raises(InputError, match=r"cut\.onnx cannot be loaded by ONNX Runtime: ") as caught:
        run_quantize(small_run, tmp_path, onnx_model=str(tmp_path / "cut.onnx"))
    assert len(str(caught.value).splitlines()) == 1


def test_quantize_of_foreign_model_raises(small_run: Params, tmp_path: Path) -> None:
    shape: list[str | int | None] = ["N", 10]
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"])],
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    opset_imports = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset_imports, ir_version=7), tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match=r"foreign\.onnx is not a cifarflow model"):
        run_quantize(small_run, tmp_path, onnx_model=str(tmp_path / "foreign.onnx"))


@pytest.mark.parametrize("opset", [opset for opset in range(13, 29) if opset <= HIGHEST_OPSET])
def test_each_opset_gives_both_files_and_the_same_probabilities(
    small_run: Params, model: Path, images: Images, tmp_path: Path, opset: int
) -> None:
    config = ExportConfig.model_validate(small_run.export.model_dump() | {"opset": opset})
    paths = small_run.paths
    exported = (Path(paths.splits), Path(paths.weights), tmp_path / "model.onnx", config, small_run.project)
    if not is_opset_of_onnx_runtime(opset):
        with pytest.raises(InputError, match="cannot be loaded by ONNX Runtime"):
            export(*exported)
        return
    export(*exported)
    int8, metrics = run_quantize(small_run, tmp_path, onnx_model=str(tmp_path / "model.onnx"), export=config)
    for file, reference in ((tmp_path / "model.onnx", Path(paths.onnx_model)), (int8, model)):
        loaded = onnx.load(file)
        assert [(entry.domain, entry.version) for entry in loaded.opset_import] == [("", opset)]
        assert loaded.ir_version == helper.find_min_ir_version_for(loaded.opset_import)
        actual, expected = (load_model(each).predict_proba(images) for each in (file, reference))
        assert np.abs(actual - expected).max() < 1e-5
    assert metrics["argmax_agreement"] > 0.8


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "  calibration_images: ",
            "  calibration_images: 0 #",
            "calibration_images should be an integer from 1 to 50000, not 0",
        ),
        (
            "  method: ",
            "  method: mean #",
            "method should be 'minmax', 'percentile' or 'entropy', not 'mean'",
        ),
        (
            "  percentile: ",
            "  percentile: 101.0 #",
            "percentile should be a number greater than 50 and at most 100, not 101.0",
        ),
        ("  weight_bits: ", "  weight_bits: 4 #", "weight_bits should be 7 or 8, not 4"),
        (
            "  max_accuracy_drop: ",
            "  max_accuracy_drop: -1.0 #",
            "max_accuracy_drop should be a number from 0 to 1, not -1.0",
        ),
    ],
)
def test_quantize_params_out_of_range_raise(tmp_path: Path, before: str, after: str, message: str) -> None:
    head, rest = (PARAMS_FILE).read_text(encoding="utf-8").split("\nquantize:")
    assert before in rest
    (tmp_path / "params.yaml").write_text(
        f"{head}\nquantize:{rest.replace(before, after, 1)}", encoding="utf-8"
    )
    with pytest.raises(InputError) as caught:
        read_params(tmp_path / "params.yaml")
    assert str(caught.value).startswith(f"params.yaml: quantize.{message}")
    assert len(str(caught.value).splitlines()) == 1
