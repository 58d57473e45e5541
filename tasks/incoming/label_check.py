"""Find labels of new images that are likely wrong, before ingestion, and write `reports/incoming.html`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.dataset.image import load_image
from tasks.incoming.ingest import list_pending
from tasks.inference.onnx_classifier import load_model
from tasks.params import Params
from tasks.reporting.gallery import find_label_errors, label_error_items
from tasks.reporting.page import render_page
from tasks.workspace.errors import InputError, RunError, escape_unprintable
from tasks.workspace.files import write_text
from tasks.workspace.splits import load_splits

PAGE = "incoming.html"
"""file name of the page, which is written beside the report"""
TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class LabelCheck:
    """The result of the check, and the page that shows it."""

    checked: int
    """number of images; files that are no images of a class are not counted: the ingestion rejects them"""
    doubted: list[dict[str, Any]]
    """likely errors, the most certain first: `name` below `incoming/`, `actual`, `predicted`, `confidence`"""
    page: Path

    def __str__(self) -> str:
        return f"{self.checked:,} new images checked, {len(self.doubted):,} labels in doubt: {self.page}"


@dataclass(frozen=True)
class ImageFiles:
    """The images of a folder, with their names and labels in the same order."""

    names: list[str]
    """paths below the folder"""
    images: list[NDArray[np.uint8]]
    labels: list[int | None]
    """class numbers; None for an image in no class directory"""

    def labeled(self) -> "ImageFiles":
        """Return the images that have a label."""
        rows = zip(self.names, self.images, self.labels, strict=True)
        kept = [row for row in rows if row[2] is not None]
        return ImageFiles([row[0] for row in kept], [row[1] for row in kept], [row[2] for row in kept])


def load_images(folder: Path, classes: Sequence[str], size: int) -> ImageFiles:
    """Load the pending images of a folder; files that are no images are left to the ingestion to reject."""
    files = ImageFiles([], [], [])
    for file in list_pending(folder):
        label = file.relative_to(folder).parts[0]
        if file.is_symlink():
            continue
        try:
            files.images.append(load_image(file, size))
        except InputError:
            continue  # The ingestion says why.
        files.names.append(escape_unprintable(str(file.relative_to(folder))))
        files.labels.append(classes.index(label) if label in classes else None)
    return files


def check_incoming_labels(params: Params) -> LabelCheck:
    """Check the labels of pending images with the exported model, and write the page.

    Validation images are checked together with them: the model was trained on neither, and the validation
    images show how sure it usually is of each class.
    `RunError` without a model, or without the splits that it was trained on.
    """
    model = load_model(Path(params.paths.onnx_model))
    data = load_splits(Path(params.paths.splits))
    if model.metadata.get("data_md5") != data.metadata["data_md5"]:
        raise RunError(f"{params.paths.onnx_model} was trained on different data than {params.paths.splits}")
    folder = Path(params.ingest.folder)
    incoming = load_images(folder, model.classes, model.image_size).labeled()
    images = incoming.images

    page = Path(params.paths.page).with_name(PAGE)
    if not images:
        return LabelCheck(0, [], page)
    labels = np.concatenate([np.array(incoming.labels), data.val.labels.numpy()])
    batches = np.stack(images), data.val.images.numpy()
    probabilities = np.concatenate([model.predict_proba(batch) for batch in batches])
    found = find_label_errors(labels, probabilities)
    found = found[found < len(images)]
    doubted = label_error_items(
        found,
        [images[i] for i in found],
        labels,
        probabilities,
        model.classes,
        [incoming.names[i] for i in found],
    )
    check = LabelCheck(len(images), doubted, page)
    html = render_page(
        {
            "check": check,
            "folder": folder,
            "model": params.paths.onnx_model,
            "accuracy": float((probabilities.argmax(1) == labels)[len(images) :].mean()),
        },
        TEMPLATE,
    )
    write_text(page, html)
    return check
