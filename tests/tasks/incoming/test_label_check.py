"""New images with right and wrong labels, before they are taken in."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.run.markdown import ingest_markdown
from tasks.incoming.ingest import IngestResult, list_pending
from tasks.incoming.label_check import check_incoming_labels
from tasks.inference.onnx_classifier import load_model
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


def test_check_incoming_labels_without_model_raises(params: Params) -> None:
    values = params.model_dump()
    values["paths"]["onnx_model"] = "none.onnx"
    with pytest.raises(RunError, match=r"none\.onnx not found"):
        check_incoming_labels(Params.model_validate(values))
