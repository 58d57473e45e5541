"""Find labels of new images that are likely wrong, before ingestion, and write `reports/incoming.html`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.dataset.image import LeftOut, Reason, load_image
from tasks.incoming.pending import list_pending
from tasks.inference.onnx_classifier import load_model
from tasks.params import Params
from tasks.registry.significance import compare_with_guessing
from tasks.reporting.gallery import find_label_errors, label_error_items
from tasks.reporting.page import render_page
from tasks.workspace.errors import InputError, RunError, escape_unprintable
from tasks.workspace.files import write_text
from tasks.workspace.splits import load_splits

PAGE = "incoming.html"
"""file name of the page, which is written beside the report"""
MAX_GUESSING_P = 0.05
"""a model is no judge unless its accuracy is better than that of guessing by a test with this p-value"""
MAX_VAL_DOUBTED = 0.5
"""nor if it doubts more than this share of the validation labels, most of which are right"""
TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class LabelCheck:
    """The result of the check, and the page that shows it."""

    checked: int
    """number of images; files that are no images of a class are not counted: the ingestion rejects them"""
    doubted: list[dict[str, Any]]
    """likely errors, the most certain first: `name` below `incoming/`, `actual`, `predicted`, `confidence`"""
    page: Path
    left_out: LeftOut = field(default_factory=LeftOut)
    """files that are not checked"""
    no_judge: str = ""
    """why the model cannot judge labels, so that `doubted` is empty; empty if it can"""

    def __str__(self) -> str:
        left_out = f" (left out: {self.left_out})" if self.left_out else ""
        if not self.checked:
            return f"no new images{left_out}"
        if self.no_judge:
            return f"{self.checked:,} new images{left_out}, but no label is checked: {self.no_judge}"
        checked = f"{self.checked:,} new images checked{left_out}"
        return f"{checked}, {len(self.doubted):,} labels in doubt: {self.page}"


@dataclass(frozen=True)
class ImageFiles:
    """The images of a folder, with their names and labels in the same order."""

    names: list[str]
    """paths below the folder"""
    images: list[NDArray[np.uint8]]
    labels: list[int | None]
    """class numbers; None for an image in no class directory"""
    left_out: LeftOut

    def labeled(self) -> "ImageFiles":
        """Return the images that have a label; the others are left out."""
        kept = []
        for row in zip(self.names, self.images, self.labels, strict=True):
            if row[2] is None:
                self.left_out.add(Reason.NO_CLASS, row[0])
            else:
                kept.append(row)
        names, images, labels = zip(*kept, strict=True) if kept else ((), (), ())
        return ImageFiles([*names], [*images], [*labels], self.left_out)


def load_images(folder: Path, classes: Sequence[str], size: int) -> ImageFiles:
    """Load the pending images of a folder; files that are no images are left to the ingestion to reject."""
    files = ImageFiles([], [], [], LeftOut())
    for file in list_pending(folder):
        label = file.relative_to(folder).parts[0]
        if file.is_symlink():
            files.left_out.add(Reason.LINK, file.relative_to(folder))
            continue
        try:
            files.images.append(load_image(file, size))
        except InputError:  # The ingestion says why.
            files.left_out.add(Reason.NO_IMAGE, file.relative_to(folder))
            continue
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
        return LabelCheck(0, [], page, incoming.left_out)
    labels = np.concatenate([np.array(incoming.labels), data.val.labels.numpy()])
    batches = np.stack(images), data.val.images.numpy()
    probabilities = np.concatenate([model.predict_proba(batch) for batch in batches])
    found = find_label_errors(labels, probabilities)
    num_val_doubted = int((found >= len(images)).sum())
    val_labels, val_predicted = labels[len(images) :], probabilities[len(images) :].argmax(1)
    no_judge = _judge(val_labels, val_predicted, num_val_doubted, model.classes)
    found = found[found < len(images)] if not no_judge else found[:0]
    doubted = label_error_items(
        found,
        [images[i] for i in found],
        labels,
        probabilities,
        model.classes,
        [incoming.names[i] for i in found],
    )
    check = LabelCheck(len(images), doubted, page, incoming.left_out, no_judge)
    html = render_page(
        {
            "check": check,
            "folder": folder,
            "model": params.paths.onnx_model,
            "accuracy": float((val_predicted == val_labels).mean()),
        },
        TEMPLATE,
    )
    write_text(page, html)
    return check


def _judge(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], num_doubted: int, classes: Sequence[str]
) -> str:
    """Say why the model cannot judge labels, from validation images that it was not trained on, or nothing.

    It has to be right more often than somebody who always names the most frequent class, by a one-sided
    binomial test. A model that barely is would still doubt most labels, right or wrong, and so has to accept
    most of the validation labels.
    """
    correct = predicted == labels
    guessed, p_value = compare_with_guessing(correct, labels)
    right, advice = (
        f"the model is right for {correct.mean():.1%} of the validation images",
        "train a better one first",
    )
    if p_value > MAX_GUESSING_P:
        always = escape_unprintable(classes[int(np.bincount(labels).argmax())])
        return f"{right}, and always saying {always} would be for {guessed:.1%}; {advice}"
    if num_doubted > MAX_VAL_DOUBTED * len(labels):
        return f"{right}, and doubts {num_doubted / len(labels):.0%} of their labels; {advice}"
    return ""
