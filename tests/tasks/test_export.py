import json
import re
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from models.classifier import Classifier
from models.net import Net
from tasks.export import export
from tasks.inference.onnx_classifier import load_model
from tasks.onnx.graph import build_graph
from tasks.onnx.net_fp32 import MIN_OPSET
from tasks.params import ExportConfig, Params, ProjectConfig, read_params
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.splits import load_splits, load_tensors, save_tensors
from tasks.workspace.weights import load_classifier
from tests.conftest import ROOT
from tests.shipped_params import PARAMS_FILE


@pytest.fixture(scope="module")
def model(small_run: Params) -> Path:
    return Path(small_run.paths.onnx_model)


def run_export(
    small_run: Params,
    folder: Path,
    weights: Path | None = None,
    project: ProjectConfig | None = None,
    **changes: object,
) -> Path:
    """The stage `export` with another output folder, other weights, other config; its file."""
    config = ExportConfig.model_validate(small_run.export.model_dump() | changes)
    export(
        Path(small_run.paths.splits),
        weights or Path(small_run.paths.weights),
        folder / "model.onnx",
        config,
        project or small_run.project,
    )
    return folder / "model.onnx"


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_export_agrees_with_pytorch(small_run: Params, model: Path, batch_size: int) -> None:
    images = np.random.default_rng(batch_size).integers(0, 256, (batch_size, 32, 32, 3), dtype=np.uint8)
    classifier, _ = load_classifier(Path(small_run.paths.weights))
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(images)).numpy()
    actual = load_model(model).predict_proba(images)
    assert actual.shape == (batch_size, 10)
    assert np.abs(actual - expected).max() < 1e-5
    assert actual.argmax(1).tolist() == expected.argmax(1).tolist()


@pytest.mark.parametrize("value", [0, 255])
def test_export_agrees_with_pytorch_on_black_and_white(small_run: Params, model: Path, value: int) -> None:
    images = np.full((3, 32, 32, 3), value, dtype=np.uint8)
    classifier, _ = load_classifier(Path(small_run.paths.weights))
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(images)).numpy()
    assert np.abs(load_model(model).predict_proba(images) - expected).max() < 1e-5


def test_export_stores_metadata(small_run: Params, model: Path) -> None:
    loaded = onnx.load(model)
    metadata = {entry.key: entry.value for entry in loaded.metadata_props}
    data = load_splits(Path(small_run.paths.splits)).metadata
    assert json.loads(metadata["classes"]) == data["classes"]
    assert json.loads(metadata["mean"]) == data["mean"]
    assert json.loads(metadata["std"]) == data["std"]
    run = json.loads(metadata["run"])
    assert (run["dataset"], run["data_md5"]) == ("sample", data["data_md5"])
    assert run["train"]["epochs"] == 2
    assert re.fullmatch("[0-9a-f]{64}", run["weights_sha256"])
    assert re.fullmatch("[0-9a-f]{64}", run["params_sha256"])
    metrics = json.loads(Path(small_run.paths.metrics).read_text(encoding="utf-8"))
    assert json.loads(metadata["test_accuracy"]) == pytest.approx(metrics["test"]["accuracy"])
    assert "uint8 (N, 32, 32, 3)" in metadata["input"]
    assert "float32 (N, 10)" in metadata["output"]
    assert metadata["license"] == "MIT"
    assert "uint8 (N, 32, 32, 3)" in loaded.graph.doc_string
    assert loaded.opset_import[0].version == MIN_OPSET


def test_export_writes_no_local_path_and_no_other_file(model: Path) -> None:
    content = model.read_bytes()
    for path in (str(ROOT), tempfile.gettempdir(), str(Path.home()), str(model.parent), "site-packages"):
        assert path.encode() not in content
    assert not [t for t in onnx.load(model, load_external_data=False).graph.initializer if t.external_data]
    assert not list(model.parent.glob("*.data"))


@pytest.mark.parametrize("text", ["CC-BY-4.0", "All rights reserved, © Jane Doe", ""])
def test_export_names_the_license_of_the_project_or_none(
    small_run: Params, tmp_path: Path, text: str
) -> None:
    file = run_export(small_run, tmp_path, project=ProjectConfig(license=text))
    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert metadata.get("license") == (text or None)
    assert text or b"MIT" not in file.read_bytes()


def test_export_names_the_project_and_its_owner_if_it_has_any(small_run: Params, tmp_path: Path) -> None:
    said = {"name": "flowers", "description": "what grows here", "license": "", "owner": "Jane Doe"}
    file = run_export(small_run, tmp_path, project=ProjectConfig(**said))
    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert {key: metadata.get(key, "") for key in said} == said
    assert "license" not in metadata
    assert onnx.load(file).graph.doc_string.startswith("flowers classifier. ")
    loaded = load_model(file)
    assert loaded.project == said
    assert loaded.dataset_label == "trained on the images of flowers"


def test_export_is_deterministic(small_run: Params, model: Path, tmp_path: Path) -> None:
    assert run_export(small_run, tmp_path).read_bytes() == model.read_bytes()


def test_export_with_opset_that_onnx_does_not_know_raises_one_line(
    small_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx.defs.onnx_opset_version", lambda: 20)
    with pytest.raises(InputError, match=r"export\.opset 21 is not supported; 13 to 20 are") as caught:
        run_export(small_run, tmp_path, opset=21)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_export_of_other_weights_raises_one_line(small_run: Params, tmp_path: Path) -> None:
    tensors, metadata = load_tensors(Path(small_run.paths.weights))
    save_tensors(tmp_path / "weights", tensors | {"conv1.weight": torch.zeros(8, 3, 5, 5)}, metadata)
    with pytest.raises(RunError, match=r"does not hold the weights of 'net'.*conv1\.weight") as caught:
        run_export(small_run, tmp_path, tmp_path / "weights")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "model.onnx").exists()


def test_export_writes_nothing_if_parity_fails(
    small_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, metadata = load_classifier(Path(small_run.paths.weights))
    other = Classifier(Net(), metadata["mean"], metadata["std"]).eval()
    monkeypatch.setattr("tasks.export.load_classifier", lambda _: (classifier, metadata))
    monkeypatch.setattr("tasks.export.build_graph", lambda _, *rest: build_graph(other, *rest))
    with pytest.raises(
        RunError,
        match=r"^ONNX Runtime differs from PyTorch: at batch size 1, threads 1, CPU.* on test image \d+$",
    ):
        run_export(small_run, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("opset: ", "opset: 0 #", "export.opset should be 'auto' or an integer from 13 to 28, not 0"),
        (
            "opset: ",
            "opset: automatic #",
            "export.opset should be 'auto' or an integer from 13 to 28, not 'auto",
        ),
        ("parity_providers: ", "parity_providers: [ROCm] #", "export.parity_providers.0 should be"),
        ("parity_batch_sizes: ", "parity_batch_sizes: [0] #", "export.parity_batch_sizes.0 should be"),
        ("parity_batch_sizes: ", "parity_batch_sizes: [] #", "export.parity_batch_sizes"),
        ("parity_threads: ", "parity_threads: [-1] #", "export.parity_threads.0 should be"),
        (
            "parity_atol: ",
            "parity_atol: 0.0 #",
            "export.parity_atol should be a number greater than 0 and at most 1, not 0.0",
        ),
    ],
)
def test_export_params_out_of_range_raise(tmp_path: Path, before: str, after: str, message: str) -> None:
    text = (PARAMS_FILE).read_text(encoding="utf-8")
    section, rest = text.split("\nexport:", 1)
    assert before in rest
    (tmp_path / "params.yaml").write_text(
        section + "\nexport:" + rest.replace(before, after, 1), encoding="utf-8"
    )
    with pytest.raises(InputError) as caught:
        read_params(tmp_path / "params.yaml")
    assert str(caught.value).startswith(f"params.yaml: {message}")
    assert len(str(caught.value).splitlines()) == 1
