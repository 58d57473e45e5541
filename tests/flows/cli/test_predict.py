import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from flows.cli.predict import BATCH_SIZE, classify_files, find_images, predict_images
from tasks.dataset.image import LeftOut
from tasks.drift.recorded_outputs import read_outputs
from tasks.inference.onnx_classifier import OnnxClassifier, load_model
from tasks.params import Params
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.weights import load_classifier
from tests.conftest import ROOT


@pytest.fixture
def model(small_run: Params) -> Path:
    return Path(small_run.paths.onnx_model)


@pytest.fixture
def images_dir(tmp_path: Path) -> Path:
    """A folder with three images, one of them truncated, and a text."""
    folder = tmp_path / "images_dir"
    (folder / "below").mkdir(parents=True)
    for name in ("b.png", "below/a.jpg"):
        Image.effect_noise((50, 40), 60).save(folder / name)
    (folder / "c.png").write_bytes((folder / "b.png").read_bytes()[:200])
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder


def records(printed: str) -> dict[str, dict[str, object]]:
    return {record["image"]: record for record in map(json.loads, printed.splitlines())}


def test_predict_proba_matches_pytorch(small_run: Params, model: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    classifier, _ = load_classifier(Path(small_run.paths.weights))
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(images)).numpy()
    assert np.abs(load_model(model).predict_proba(images) - expected).max() < 1e-5


def test_predict_prints_an_aligned_table(
    model: Path, images_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images_dir)
    assert predict_images(["b.png", "below/a.jpg"], model) == 0
    captured = capsys.readouterr()
    head, *rows = captured.out.splitlines()
    assert head.split() == ["image", "top-1", "top-2", "top-3"]
    assert [row.split()[0] for row in rows] == ["b.png", "below/a.jpg"]
    assert len({row.index("%") for row in rows}) == 1, "the columns stand below each other"
    assert captured.err == f"by {model}, trained on a generated sample, not CIFAR-10\n"


def test_predict_as_json_prints_one_record_per_image(
    model: Path, images_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict_images([str(images_dir / "b.png")], model, as_json=True) == 0
    (record,) = records(capsys.readouterr().out).values()
    predictions = record["predictions"]
    assert isinstance(predictions, list)
    probabilities = [entry["probability"] for entry in predictions]
    assert len(predictions) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    assert {entry["class"] for entry in predictions} <= set(load_model(model).classes)


def test_predict_is_not_sure_below_the_probability_that_was_asked_for(
    model: Path, images_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(images_dir / "b.png")
    predict_images([image], model, as_json=True, confident=0.0)
    (record,) = records(capsys.readouterr().out).values()
    first = record["predictions"][0]  # type: ignore[index]
    assert record["answer"] == first["class"]
    for confident, answer in ((first["probability"] - 1e-4, first["class"]), (1.0, None)):
        predict_images([image], model, as_json=True, confident=confident)
        (record,) = records(capsys.readouterr().out).values()
        assert record["answer"] == answer
        predict_images([image], model, confident=confident)
        head, row = capsys.readouterr().out.splitlines()
        assert head.split() == ["image", "answer", "top-1", "top-2", "top-3"]
        start = head.index("answer")
        assert row[start : head.index("top-1")].strip() == (answer or "not sure")


def test_predict_skips_corrupt_and_missing_files(
    model: Path, images_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict_images([str(images_dir), "no-such-file.png"], model, as_json=True) == 1
    captured = capsys.readouterr()
    found = records(captured.out)
    assert set(found) == {
        *(str(images_dir / name) for name in ("b.png", "below/a.jpg", "c.png")),
        "no-such-file.png",
    }
    assert {name for name, record in found.items() if "error" in record} == {
        str(images_dir / "c.png"),
        "no-such-file.png",
    }
    assert captured.err.splitlines()[-1] == "2 of 4 could not be read"


def test_predict_records_probabilities_where_asked(
    model: Path, images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "asked.jsonl"
    assert predict_images([str(images_dir)], model, as_json=True, record_file=file) == 1  # one is corrupt
    found = records(capsys.readouterr().out)
    recorded = read_outputs(file, model, 10).probabilities
    assert len(recorded) == 2
    shown = [record["predictions"] for record in found.values() if "predictions" in record]
    tops = sorted(top[0]["probability"] for top in shown)  # type: ignore[index]
    assert sorted(recorded.max(1)) == pytest.approx(tops, abs=1e-5)
    assert "b.png" not in file.read_text()
    with pytest.raises(InputError, match=r"cannot record in .*: not a regular file"):
        predict_images([str(images_dir)], model, record_file=tmp_path)


def test_predict_expands_glob_patterns(
    model: Path, images_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images_dir / "[b].png").write_bytes((images_dir / "b.png").read_bytes())
    assert (
        predict_images([str(images_dir / "**" / "?.jpg"), str(images_dir / "[b].png")], model, as_json=True)
        == 0
    )
    assert set(records(capsys.readouterr().out)) == {
        str(images_dir / "below" / "a.jpg"),
        str(images_dir / "[b].png"),
    }


def test_predict_reads_standard_input(
    model: Path, images_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (images_dir / "b.png").read_bytes()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert predict_images(["-", str(images_dir / "b.png")], model, as_json=True) == 0
    found = records(capsys.readouterr().out)
    assert found["-"]["predictions"] == found[str(images_dir / "b.png")]["predictions"]


def test_predict_of_several_batches_keeps_the_order(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE + 5, 32, 32, 3), dtype=np.uint8)
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index:03}.png")
    assert predict_images([str(tmp_path)], model, as_json=True) == 0
    found = records(capsys.readouterr().out)
    loaded = load_model(model)
    expected = [loaded.classes[i] for i in loaded.predict_proba(images).argmax(1)]
    assert [record["predictions"][0]["class"] for record in found.values()] == expected  # type: ignore[index]


def test_predict_without_any_image_raises(model: Path, tmp_path: Path) -> None:
    for nothing in (str(tmp_path), str(tmp_path / "no.png"), str(tmp_path / "*.png")):
        with pytest.raises(InputError, match="no image found") as raised:
            predict_images([nothing], model)
        assert raised.value.exit_code == 2


def test_predict_escapes_control_characters_in_names(
    model: Path, images_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = images_dir / "x\x1b[2J\udce4.png"
    odd.write_bytes((images_dir / "b.png").read_bytes())
    assert predict_images([str(odd)], model) == 0
    assert "x\\x1b[2J\\udce4.png" in capsys.readouterr().out


def test_predict_with_a_missing_or_foreign_model_raises(tmp_path: Path, images_dir: Path) -> None:
    file = tmp_path / "other.onnx"
    with pytest.raises(RunError, match="cifarflow run"):
        predict_images([str(images_dir)], file)
    file.write_text("no model")
    with pytest.raises(InputError, match="cannot be loaded by ONNX Runtime"):
        predict_images([str(images_dir)], file)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)
    with pytest.raises(InputError, match="not a cifarflow model"):
        predict_images([str(images_dir)], file)


def test_top_k_sorts_by_probability() -> None:
    probabilities = np.array([0.2, 0.5, 0.3], np.float32)
    model = OnnxClassifier(session=None, classes=["a", "b", "c"], metadata={})  # type: ignore[arg-type]
    assert [name for name, _ in model.top_k(probabilities, 2)] == ["b", "c"]


def test_predict_imports_no_heavy_package(model: Path, images_dir: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from flows.cli.predict import predict_images;"
        f"predict_images([{str(images_dir / 'b.png')!r}], Path({str(model)!r}));"
        "sys.exit(', '.join({'torch', 'prefect', 'dvc', 'pydantic', 'scipy', 'onnx'} & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 1, "sys.exit of a text, which is empty"
    assert not [line for line in process.stderr.splitlines() if line and not line.startswith("by ")]


def test_predict_names_what_it_leaves_out_of_a_directory(
    model: Path, images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("1.HEIC", "2.heic", ".git/config"):
        (images_dir / name).parent.mkdir(exist_ok=True)
        (images_dir / name).write_bytes(b"")
    (tmp_path / "elsewhere.png").write_bytes((images_dir / "b.png").read_bytes())
    (images_dir / "link.png").symlink_to("../elsewhere.png")
    (images_dir / "zero.png").symlink_to("/dev/zero")
    (images_dir / "again").symlink_to("..")
    predict_images([str(images_dir)], model, as_json=True)
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3
    (line,) = (line for line in captured.err.splitlines() if line.startswith("left out"))
    assert line == (
        "left out: 3 files that cannot be read as images (1.HEIC, 2.heic, notes.txt), "
        "2 hidden files (.git/, .hidden.png), 3 links (again/, link.png, zero.png)"
    )
    (tmp_path / "only").mkdir()
    (tmp_path / "only/1.heic").write_bytes(b"")
    with pytest.raises(InputError, match=r"no image found at .*; left out: 1 file that .* \(1\.heic\)"):
        predict_images([str(tmp_path / "only")], model)


def test_find_images_names_what_is_no_regular_file(tmp_path: Path) -> None:
    """It is refused with a reason, as a corrupt image is, and not left out without a word."""
    os.mkfifo(tmp_path / "pipe.png")
    model = SimpleNamespace(image_size=8)
    ((_, result),) = classify_files(find_images(str(tmp_path), LeftOut()), [], cast("OnnxClassifier", model))
    assert str(result) == "not a regular file"
