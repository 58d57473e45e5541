"""Check new labeled images in `incoming/CLASS/`, and add them to training or validation.

An accepted image is added at the size that the network takes, to the split that its content decides
(`tasks.dataset.additions`), and its file moves to `incoming/accepted/`. A rejected one moves to
`incoming/rejected/`, with the reason in `reasons.csv` there. Nothing is deleted. Before an image is added, a
journal names it. So where a run ends before the file is moved, the next run moves it.
"""

from __future__ import annotations

import csv
import datetime as dt
import itertools
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import imagehash
import numpy as np
from PIL import Image

from tasks.dataset.additions import add_image, is_added, load_added_images, pixel_sha256
from tasks.dataset.base import LoadOptions
from tasks.dataset.catalog import open_dataset
from tasks.dataset.image import load_image
from tasks.incoming.pending import ACCEPTED_DIR, REJECTED_DIR, list_pending
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.dataset.base import LabeledImages
    from tasks.params import IngestConfig, SplitConfig

REASONS = "reasons.csv"
JOURNAL = ".accepting.json"


@dataclass(frozen=True)
class ClassGrowth:
    """How many images of a class were added, beside those of the data set."""

    published: int
    """number of training and validation images of the data set itself"""
    train: int
    """number of images that were added to training"""
    val: int
    """number of images that were added to validation"""

    @property
    def share(self) -> float:
        """Return the number of added images, divided by the number of the data set's own."""
        return (self.train + self.val) / self.published


@dataclass(frozen=True)
class IngestResult:
    """What was done with the new images."""

    accepted: Counter[str]
    """number of images per class"""
    rejected: dict[str, str]
    """the reason for each rejected file, by its path below `incoming/`"""
    growth: dict[str, ClassGrowth] = field(default_factory=dict)
    """all additions so far, by class; empty if nothing was pending"""

    def __str__(self) -> str:
        return f"{self.accepted.total():,} new images accepted, {len(self.rejected):,} rejected"


def ingest(
    incoming: Path, data: Path, dataset: str, config: IngestConfig, split_config: SplitConfig
) -> IngestResult:
    """Process every pending file once, and add each accepted image to training or validation.

    A file is rejected if it does not decode, if it is in no class directory, or if its image duplicates a
    training, validation or test image: exactly, by its pixels, or nearly, by its perceptual hash (Zauner
    2010, ImageHash's `phash`) up to a distance of `config.max_hamming_distance` of 64 bits.
    """
    result = IngestResult(Counter(), {})
    _finish_interrupted(incoming, data, result)
    files = list_pending(incoming)
    if not files and not result.accepted:
        return result
    published = open_dataset(dataset).load(data, LoadOptions(**split_config.model_dump()))
    known = DuplicateIndex(config.max_hamming_distance)
    size = published.train.images.shape[1]
    known.add(published.test.images, "an image of the test set")
    known.add(published.train.images, "a training image of the data set")
    if published.val is not None:
        known.add(published.val.images, "a validation image of the data set")
    added = load_added_images(data, published.classes, size)
    known.add(added.train.images, "an image that was added before")
    known.add(added.val.images, "an image that was added before")
    counts = {"train": _count(added.train, published.classes), "val": _count(added.val, published.classes)}
    for file in files:
        label = file.relative_to(incoming).parts[0]
        try:
            _check_path(file, incoming, published.classes)
            image = load_image(file, size)
            known.check(image)
            known.add(image[None], "another new image")
        except InputError as error:
            reason = str(error)
            _move(file, incoming, REJECTED_DIR, reason)
            result.rejected[str(file.relative_to(incoming))] = reason
        else:
            counts[_accept(file, incoming, data, image)][label] += 1
            result.accepted[label] += 1
    print(result)
    own = _count(published.train, published.classes)
    own += _count(published.val, published.classes) if published.val else Counter()
    for name in published.classes:
        result.growth[name] = ClassGrowth(own[name], counts["train"][name], counts["val"][name])
    return result


def _count(images: LabeledImages, classes: Sequence[str]) -> Counter[str]:
    """Count the images per class."""
    return Counter(classes[label] for label in images.labels)


def _accept(file: Path, incoming: Path, data: Path, image: NDArray[np.uint8]) -> str:
    """Add the image to the data and move its file; return the split that the image was added to."""
    name = file.relative_to(incoming)
    write_json(incoming / JOURNAL, {"file": str(name), "digest": pixel_sha256(image)})
    split = add_image(data, name.parts[0], image)
    _move(file, incoming, ACCEPTED_DIR)
    (incoming / JOURNAL).unlink()
    return split


def _finish_interrupted(incoming: Path, data: Path, result: IngestResult) -> None:
    """Move the file of an image that an interrupted run has added but not moved."""
    try:
        journal = read_json(incoming / JOURNAL)
        file, digest = incoming / journal["file"], journal["digest"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"cannot read {incoming / JOURNAL}: {error}; delete it") from error
    label = file.relative_to(incoming).parts[0]
    if file.exists() and is_added(data, label, digest):
        _move(file, incoming, ACCEPTED_DIR)
        result.accepted[label] += 1
    (incoming / JOURNAL).unlink()


def _check_path(file: Path, incoming: Path, classes: Sequence[str]) -> None:
    """Raise `InputError` if the file is to be rejected without being read."""
    if file.is_symlink() or not file.is_file():
        raise InputError("not a regular file")
    if file.parent.parent != incoming or file.parent.name not in classes:
        raise InputError(f"not in a class directory; classes: {', '.join(classes)}")


class DuplicateIndex:
    """Known images, for the detection of exact duplicates and near-duplicates."""

    def __init__(self, max_distance: int) -> None:
        self._max_distance = max_distance
        self._exact: dict[str, str] = {}
        self._hashes = np.empty(0, np.uint64)
        self._kinds: list[str] = []

    def add(self, images: NDArray[np.uint8], kind: str) -> None:
        """Add images `(N, S, S, 3)`; `kind` says in a rejection what the known image is."""
        for image in images:
            self._exact.setdefault(pixel_sha256(image), kind)
        self._hashes = np.concatenate([self._hashes, np.array([*map(_phash, images)], np.uint64)])
        self._kinds += [kind] * len(images)

    def check(self, image: NDArray[np.uint8]) -> None:
        """Raise `InputError` if the image, or one that is nearly the same, is known."""
        exact = self._exact.get(pixel_sha256(image))
        if exact is not None:
            raise InputError(f"exact duplicate of {exact}")
        distances = np.bitwise_count(self._hashes ^ _phash(image))
        nearest = int(distances.argmin())
        if distances[nearest] <= self._max_distance:
            raise InputError(
                f"near-duplicate of {self._kinds[nearest]} ({distances[nearest]} of 64 bits differ)"
            )


def _phash(image: NDArray[np.uint8]) -> np.uint64:
    """Compute the perceptual hash of an image as one number of 64 bits."""
    bits = imagehash.phash(Image.fromarray(image)).hash.ravel()
    return np.packbits(bits).view(">u8").astype(np.uint64)[0]  # type: ignore[no-any-return]


def _move(file: Path, incoming: Path, folder: str, reason: str = "") -> None:
    """Move the file to the same path below `folder` without overwriting; append a reason to `reasons.csv`."""
    target = incoming / folder / file.relative_to(incoming)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target = next(name for name in _candidate_names(target) if not os.path.lexists(name))
        file.rename(target)
        if reason:
            table = incoming / folder / REASONS
            is_new = not table.exists()
            with table.open("a", newline="", encoding="utf-8", errors="surrogateescape") as rows:
                writer = csv.writer(rows, lineterminator="\n")
                if is_new:
                    writer.writerow(["file", "reason", "time"])
                now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
                writer.writerow([target.relative_to(incoming / folder), reason, now])
    except OSError as error:
        raise RunError(f"cannot move {file} to {target.parent}: {error.strerror or error}") from error


def _candidate_names(target: Path) -> Iterator[Path]:
    """Yield names to try: x.png, x-2.png, x-3.png, ..."""
    yield target
    for number in itertools.count(2):
        yield target.with_name(f"{target.stem}-{number}{target.suffix}")
