"""New images with right and wrong labels, before they are taken in."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flows.run.markdown import ingest_markdown
from tasks.incoming.ingest import IngestResult
from tasks.incoming.label_check import _judge, check_incoming_labels
from tasks.incoming.pending import list_pending
from tasks.inference.onnx_classifier import OnnxClassifier, load_model
from tasks.params import Params
from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_splits


@pytest.fixture
def params(small_run: Params, tmp_path: Path) -> Params:
    """With new images that are test images: two with their labels, one with another, and a broken one."""
    values = small_run.model_dump()
    values["ingest"]["folder"] = str(tmp_path / "incoming")
    values["paths"]["page"] = str(tmp_path / "index.html")
    params = Params.model_validate(values)
    test, model = load_splits(Path(params.paths.splits)).test, load_model(Path(params.paths.onnx_model))
    images, labels, classes = test.images.numpy(), test.labels.numpy(), model.classes
    probabilities = model.predict_proba(images)
    surest = np.argsort(-probabilities[np.arange(len(labels)), labels], kind="stable")[:3]
    for index, given in zip(surest, (0, 0, 1), strict=True):
        folder = tmp_path / "incoming" / classes[(labels[index] + given) % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[index]).save(folder / f"{index}-{given}.png")
    (folder / "broken.png").write_bytes(b"")
    return params


def test_check_incoming_labels_doubts_the_wrong_one(params: Params) -> None:
    pending = list_pending(Path(params.ingest.folder))
    check = check_incoming_labels(params)
    assert check.checked == 3
    assert [row["name"].endswith("-1.png") for row in check.doubted] == [True]
    label, name = check.doubted[0]["name"].split("/")
    assert check.doubted[0]["actual"] == label != check.doubted[0]["predicted"]
    assert list_pending(Path(params.ingest.folder)) == pending  # nothing is moved

    html = check.page.read_text(encoding="utf-8")
    assert "1 of 3 new labels are in doubt" in html
    assert re.findall(r'<img src="data:image/png;[^>]+ alt="([^"]+)"', html) == [f"{label}/{name}"]
    assert "http" not in html.replace("http-equiv", "")
    table = ingest_markdown(IngestResult(Counter(), {}), check.doubted)
    assert f"| {label}/{name} | {label} | {check.doubted[0]['predicted']} " in table


def test_check_incoming_labels_without_images_writes_no_page(params: Params) -> None:
    values = params.model_dump()
    values["ingest"]["folder"] = "none"
    check = check_incoming_labels(Params.model_validate(values))
    assert (check.checked, check.doubted, check.page.exists()) == (0, [], False)


def test_check_incoming_labels_names_what_is_not_checked(params: Params) -> None:
    folder = Path(params.ingest.folder)
    (folder / "dragon").mkdir()
    for target in ("dragon/d.png", "top.png"):
        (folder / target).write_bytes(next(folder.glob("*/*-0.png")).read_bytes())
    (folder / "dragon/link.png").symlink_to("/dev/zero")
    check = check_incoming_labels(params)
    assert check.checked == 3
    assert "3 new images checked (left out: 1 file that cannot be read as an image (" in str(check)
    rest = "2 files in no class folder (dragon/d.png, top.png), 1 link (dragon/link.png)"
    assert f", {rest}), 1 labels in doubt: " in str(check)
    assert f"{rest}.</small>" in check.page.read_text(encoding="utf-8")


def test_model_that_guesses_is_no_judge_and_doubts_nothing(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    def guess(_: OnnxClassifier, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        drawn = np.random.default_rng(0).random((len(images), 10), np.float32)
        return drawn / drawn.sum(1, keepdims=True)

    monkeypatch.setattr(OnnxClassifier, "predict_proba", guess)
    check = check_incoming_labels(params)
    assert check.doubted == []
    assert "3 new images (left out: " in str(check)
    assert "but no label is checked: the model is right for " in str(check)
    html = check.page.read_text(encoding="utf-8")
    assert "The model is no judge of labels" in html
    assert "<img" not in html


@pytest.mark.parametrize(
    ("hits", "doubted", "said"),
    [
        # Six of 36 images are right by guessing. In 36 throws of a die, ten or more sixes have a chance of
        # 0.0652, and eleven or more of 0.0285.
        (8, 0, "right for 22.2% of the validation images, and always saying a would be for 16.7%; train"),
        (10, 0, "right for 27.8% of the validation images, and always saying a would be for 16.7%; train"),
        (11, 0, ""),
        (20, 18, ""),
        (20, 19, "right for 55.6% of the validation images, and doubts 53% of their labels; train"),
    ],
)
def test_judge_by_a_test_against_guessing(hits: int, doubted: int, said: str) -> None:
    labels = np.arange(36) % 6
    predicted = np.where(np.arange(36) < hits, labels, (labels + 1) % 6)
    found = _judge(labels, predicted, doubted, "abcdef")
    assert found.startswith(f"the model is {said}") if said else not found


def test_check_incoming_labels_without_model_raises(params: Params) -> None:
    values = params.model_dump()
    values["paths"]["onnx_model"] = "none.onnx"
    with pytest.raises(RunError, match=r"none\.onnx not found"):
        check_incoming_labels(Params.model_validate(values))
