"""Labels of new images that the model doubts, before the images are taken in: `reports/incoming.html`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.dataset.image import load_image
from tasks.dataset.ingest import list_pending
from tasks.inference.onnx_classifier import load_model
from tasks.params import Params
from tasks.reporting.gallery import label_error_items
from tasks.reporting.label_errors import find_label_errors
from tasks.reporting.page import INCOMING_TEMPLATE, render_page
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import atomic_write
from tasks.workspace.splits import load_splits

PAGE = "incoming.html"  # beside the report


@dataclass(frozen=True)
class LabelCheck:
    checked: int
    """Number of images; a file that is no image of a class is left to the ingestion, which rejects it."""
    doubted: list[dict[str, Any]]
    """`name` (below `incoming/`), `actual` (the label), `predicted` and `confidence`; most certain first"""
    page: Path

    def __str__(self) -> str:
        return f"{self.checked:,} new images checked, {len(self.doubted):,} labels in doubt: {self.page}"


def check_incoming_labels(params: Params) -> LabelCheck:
    """Check pending images with the exported model, together with the validation images; write the page.

    The model was trained on neither, and the validation images say how sure it usually is of each class.
    `RunError` without a model, or without the splits that it was trained on.
    """
    model = load_model(Path(params.paths.onnx_model))
    data = load_splits(Path(params.paths.splits))
    if model.metadata.get("data_md5") != data.metadata["data_md5"]:
        raise RunError(f"{params.paths.onnx_model} was trained on different data than {params.paths.splits}")
    incoming = Path(params.ingest.folder)
    names, images, given = [], [], []
    for file in list_pending(incoming):
        label = file.relative_to(incoming).parts[0]
        if label not in model.classes or file.is_symlink():
            continue
        try:
            images.append(load_image(file, model.image_size))
        except InputError:
            continue  # the ingestion rejects it, and says why
        names.append(str(file.relative_to(incoming)))
        given.append(model.classes.index(label))

    page = Path(params.paths.page).with_name(PAGE)
    if not images:
        return LabelCheck(0, [], page)
    labels = np.concatenate([np.array(given), data.val.labels.numpy()])
    batches = np.stack(images), data.val.images.numpy()
    probabilities = np.concatenate([model.predict_proba(batch) for batch in batches])
    found = find_label_errors(labels, probabilities)
    found = found[found < len(images)]
    doubted = label_error_items(
        found, [images[i] for i in found], labels, probabilities, model.classes, [names[i] for i in found]
    )
    check = LabelCheck(len(images), doubted, page)
    html = render_page(
        {
            "check": check,
            "folder": incoming,
            "model": params.paths.onnx_model,
            "accuracy": float((probabilities.argmax(1) == labels)[len(images) :].mean()),
        },
        INCOMING_TEMPLATE,
    )
    with atomic_write(page) as temp_path:
        temp_path.write_text(html, encoding="utf-8")
    return check
