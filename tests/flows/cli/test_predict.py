import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from flows.cli.predict import BATCH_SIZE, predict
from tasks.inference.onnx_classifier import OnnxClassifier, load_model
from tasks.params import Params
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.weights import load_classifier
from tests.conftest import ROOT


@pytest.fixture
def model(small_run: Params) -> Path:
    return Path(small_run.paths.onnx_model)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with three pictures, one of them broken, and a text."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for name in ("b.png", "below/a.jpg"):
        Image.effect_noise((50, 40), 60).save(folder / name)
    (folder / "c.png").write_bytes((folder / "b.png").read_bytes()[:200])
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    return folder


def records(printed: str) -> dict[str, dict[str, object]]:
    return {record["image"]: record for record in map(json.loads, printed.splitlines())}


def test_probabilities_are_those_of_pytorch(small_run: Params, model: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    classifier, _ = load_classifier(Path(small_run.paths.weights))
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(images)).numpy()
    assert np.abs(load_model(model).predict_proba(images) - expected).max() < 1e-5


def test_table(
    model: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures)
    assert predict(["b.png", "below/a.jpg"], model) == 0
    captured = capsys.readouterr()
    head, *rows = captured.out.splitlines()
    assert head.split() == ["picture", "likeliest", "second", "third"]
    assert [row.split()[0] for row in rows] == ["b.png", "below/a.jpg"]
    assert len({row.index("%") for row in rows}) == 1, "the columns stand below each other"
    assert captured.err == f"by {model}, trained on a generated sample, not on CIFAR-10\n"


def test_json_lines(model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict([str(pictures / "b.png")], model, as_json=True) == 0
    (record,) = records(capsys.readouterr().out).values()
    likeliest = record["predictions"]
    assert isinstance(likeliest, list)
    probabilities = [entry["probability"] for entry in likeliest]
    assert len(likeliest) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    assert {entry["class"] for entry in likeliest} <= set(load_model(model).classes)


def test_goes_on_after_a_broken_file(model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict([str(pictures), "no-such-file.png"], model, as_json=True) == 1
    captured = capsys.readouterr()
    found = records(captured.out)
    assert set(found) == {
        *(str(pictures / name) for name in ("b.png", "below/a.jpg", "c.png")),
        "no-such-file.png",
    }
    assert {name for name, record in found.items() if "error" in record} == {
        str(pictures / "c.png"),
        "no-such-file.png",
    }
    assert captured.err.splitlines()[-1] == "2 of 4 could not be read"


def test_patterns(model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "[b].png").write_bytes((pictures / "b.png").read_bytes())
    assert predict([str(pictures / "**" / "?.jpg"), str(pictures / "[b].png")], model, as_json=True) == 0
    assert set(records(capsys.readouterr().out)) == {
        str(pictures / "below" / "a.jpg"),
        str(pictures / "[b].png"),
    }


def test_standard_input(
    model: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (pictures / "b.png").read_bytes()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(given)))
    assert predict(["-", str(pictures / "b.png")], model, as_json=True) == 0
    found = records(capsys.readouterr().out)
    assert found["-"]["predictions"] == found[str(pictures / "b.png")]["likeliest"]


def test_more_than_a_batch_in_order(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE + 5, 32, 32, 3), dtype=np.uint8)
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index:03}.png")
    assert predict([str(tmp_path)], model, as_json=True) == 0
    found = records(capsys.readouterr().out)
    loaded = load_model(model)
    expected = [loaded.classes[i] for i in loaded.predict_proba(images).argmax(1)]
    assert [record["predictions"][0]["class"] for record in found.values()] == expected  # type: ignore[index]


def test_no_picture_at_all(model: Path, tmp_path: Path) -> None:
    for nothing in (str(tmp_path), str(tmp_path / "no.png"), str(tmp_path / "*.png")):
        with pytest.raises(InputError, match="no picture found") as raised:
            predict([nothing], model)
        assert raised.value.exit_code == 2


def test_a_name_cannot_move_the_cursor(
    model: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = pictures / "x\x1b[2J\udce4.png"
    odd.write_bytes((pictures / "b.png").read_bytes())
    assert predict([str(odd)], model) == 0
    assert "x\\x1b[2J\\udce4.png" in capsys.readouterr().out


def test_models_that_do_not_fit(tmp_path: Path, pictures: Path) -> None:
    file = tmp_path / "other.onnx"
    with pytest.raises(RunError, match="cifarflow run"):
        predict([str(pictures)], file)
    file.write_text("no model")
    with pytest.raises(InputError, match="cannot be loaded by ONNX Runtime"):
        predict([str(pictures)], file)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)
    with pytest.raises(InputError, match="not a cifarflow model"):
        predict([str(pictures)], file)


def test_likeliest() -> None:
    shares = np.array([0.2, 0.5, 0.3], np.float32)
    model = OnnxClassifier(session=None, classes=["a", "b", "c"], metadata={})  # type: ignore[arg-type]
    assert [name for name, _ in model.top_k(shares, 2)] == ["b", "c"]


def test_needs_neither_pytorch_nor_an_engine(model: Path, pictures: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from flows.cli.predict import predict;"
        f"predict([{str(pictures / 'b.png')!r}], Path({str(model)!r}));"
        "sys.exit(', '.join({'torch', 'prefect', 'dvc', 'pydantic', 'scipy', 'onnx'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1, "sys.exit of a text, which is empty"
    assert not [line for line in ended.stderr.splitlines() if line and not line.startswith("by ")]
