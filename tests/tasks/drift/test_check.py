"""Batches of the sample's images with and without drift: folders, recorded predictions, an intake."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flows.run.markdown import drift_markdown
from tasks.drift.check import MAX_RECORDED, check_drift, read_intakes, record_intake
from tasks.drift.recorded_outputs import OutputRecorder
from tasks.inference.onnx_classifier import load_model
from tasks.params import Params
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.splits import load_splits

NUM_IMAGES = 80


@pytest.fixture
def params(small_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """With a folder of new images and a page of its own, where no model has been promoted."""
    monkeypatch.chdir(tmp_path)
    values = small_run.model_dump()
    values["ingest"]["folder"] = "incoming"
    values["paths"]["page"] = "reports/index.html"
    return Params.model_validate(values)


def save_images(
    params: Params, folder: Path, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], *, labeled: bool
) -> None:
    """Test images in class directories, or all in one folder."""
    test = load_splits(Path(params.paths.splits)).test
    classes = load_model(Path(params.paths.onnx_model)).classes
    for i in range(NUM_IMAGES):
        below = folder / classes[test.labels[i]] if labeled else folder
        below.mkdir(parents=True, exist_ok=True)
        Image.fromarray(change(test.images[i].numpy())).save(below / f"{i}.png")


def keep(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image


def erase(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Nearly black: the model sees no shape."""
    return image // 64


def test_new_images_like_the_others_have_no_drift(params: Params) -> None:
    save_images(params, Path("incoming"), keep, labeled=True)
    check = check_drift(params)
    assert [test.shift for test in check.result.tests] == ["covariate", "label"]
    assert not check.result.shifts
    largest = r"the model's probability of [\w ]+ differs most \(KS 0\.\d+\)"
    assert re.match(rf"incoming: no drift in 80 images: {largest}, 0\.\d+ would be noticed", str(check))
    html = check.page.read_text()
    assert "<h1>No drift</h1>" in html
    assert "stand out" not in html


def test_changed_images_are_a_covariate_shift_that_the_page_shows(params: Params) -> None:
    save_images(params, Path("incoming"), erase, labeled=True)
    Path("incoming/unlabeled.png").write_bytes(next(Path("incoming").glob("*/*.png")).read_bytes())
    check = check_drift(params)
    assert [test.shift for test in check.result.shifts] == ["covariate"]
    assert "(left out: 1 file in no class folder (" in str(check)
    html = check.page.read_text()
    assert "<h1>Drift</h1>" in html
    assert html.count("<img src=") == len(check.result.outliers) > 0
    assert html.count("<svg ") == 3
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org", "")
    table = drift_markdown(check)
    assert table.startswith("# Drift\n")
    assert (
        f"| covariate | model's probability of {check.classes[check.result.tests[0].largest]} | +0." in table
    )


def test_folder_without_class_directories_is_tested_without_labels(params: Params) -> None:
    save_images(params, Path("holiday"), erase, labeled=False)
    check = check_drift(params, Path("holiday"))
    assert [test.shift for test in check.result.shifts] == ["output"]


def test_recorded_predictions_are_the_newest_of_this_model(params: Params) -> None:
    model_file, file = Path(params.paths.onnx_model), Path("asked.jsonl")
    model, test = load_model(model_file), load_splits(Path(params.paths.splits)).test
    Path("other.onnx").write_bytes(b"another model")
    OutputRecorder(file, Path("other.onnx")).append(np.eye(len(model.classes), dtype=np.float32))
    recorder = OutputRecorder(file, model_file)
    outputs = model.predict_proba(test.images.numpy())
    recorder.append(outputs)
    check = check_drift(params, file)
    assert (check.result.images, len(check.result.shifts)) == (len(outputs), 0)
    assert "(10 of another model left out)" in str(check)
    recorder.append(model.predict_proba(np.zeros((MAX_RECORDED, 32, 32, 3), np.uint8)))
    check = check_drift(params, file)
    assert check.result.images == MAX_RECORDED
    assert [test.shift for test in check.result.shifts] == ["output"]
    assert f"{len(outputs):,} older, 10 of another model left out" in str(check)
    assert "<img" not in check.page.read_text(), "no image was recorded"


def test_no_or_few_images_are_too_few_to_tell(params: Params) -> None:
    assert "too few images to test for drift: 0, from" in str(check_drift(params))
    save_images(params, Path("few"), erase, labeled=False)
    for file in [*Path("few").iterdir()][10:]:
        file.unlink()
    check = check_drift(params, Path("few"))
    assert "few: too few images to test for drift: 10, from" in str(check)
    assert drift_markdown(check).startswith("# No drift was found\n")


def test_intakes_since_the_last_decision_are_read(params: Params) -> None:
    assert read_intakes(params, "") == []
    record_intake(check_drift(params), params)
    (first,) = read_intakes(params, "")
    assert (first["images"], first["drifted"]) == (0, False)
    assert first["summary"].startswith("too few images")
    assert read_intakes(params, "2000-01-01T00:00:00+00:00") == [first]
    assert read_intakes(params, first["time"]) == []
    Path("incoming/accepted/drift.jsonl").write_text("no JSON\n")
    with pytest.raises(RunError, match=r"cannot read incoming/accepted/drift\.jsonl: .*; delete it"):
        read_intakes(params, "")


def test_missing_model_or_source_is_one_line(params: Params) -> None:
    values = params.model_dump()
    values["paths"]["onnx_model"] = "none.onnx"
    with pytest.raises(RunError, match=r"none\.onnx not found"):
        check_drift(Params.model_validate(values))
    with pytest.raises(InputError, match=r"^nowhere is neither a folder of images nor"):
        check_drift(params, Path("nowhere"))
