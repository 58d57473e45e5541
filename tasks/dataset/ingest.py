"""New labeled pictures, from `incoming/CLASS/` into the training set, each checked first.

A picture that is taken is added to the training set as the network will see it, and its file moves to
`incoming/accepted/`. One that is refused moves to `incoming/rejected/`, and `reasons.csv` there says why. Nothing
is deleted.
"""

from __future__ import annotations

import csv
import datetime as dt
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import imagehash
import numpy as np
from PIL import Image

from tasks.dataset import cifar10
from tasks.dataset.additions import add_image, load_added_images, pixel_sha256
from tasks.dataset.image import load_image
from tasks.workspace.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from tasks.params import IngestConfig

ACCEPTED_DIR, REJECTED_DIR = "accepted", "rejected"
REASONS = "reasons.csv"
FORMATS = {".png", ".jpg", ".jpeg"}


@dataclass(frozen=True)
class IngestResult:
    """What became of the pictures: files taken by class, and the reason of each that was refused."""

    accepted: Counter[str]
    rejected: dict[str, str]
    """by path below `incoming/`"""

    def __str__(self) -> str:
        return f"{self.accepted.total():,} new pictures taken, {len(self.rejected):,} refused"


def list_pending(incoming: Path) -> list[Path]:
    """The files that nobody has looked at yet, in a fixed order. Hidden ones are none of ours."""
    if not incoming.exists():
        return []
    if not incoming.is_dir():
        raise InputError(f"{incoming} is no folder; new pictures go into {incoming}/CLASS/")
    found = []
    for folder, folders, files in os.walk(incoming):
        top = Path(folder) == incoming
        folders[:] = [
            d for d in folders if not d.startswith(".") and not (top and d in {ACCEPTED_DIR, REJECTED_DIR})
        ]
        links = [d for d in folders if Path(folder, d).is_symlink()]  # os.walk does not go in
        found += [Path(folder, name) for name in [*files, *links] if not name.startswith(".")]
    return sorted(found)


def ingest(incoming: Path, data: Path, dataset: str, config: IngestConfig) -> IngestResult:
    """Look at every waiting picture once, and add to the training set those that pass.

    Refused is what does not decode, stands in no class's folder, is a training, validation or test image
    already, or resembles one so closely that it is one altered: by exact comparison of pixels, and by
    perceptual hash (Zauner 2010, as ImageHash's `phash`) up to `config.max_hamming_distance` bits of 64.
    """
    files = list_pending(incoming)
    intake = IngestResult(Counter(), {})
    if not files:
        return intake
    published = cifar10.load(data, dataset)
    known = DuplicateIndex(config.max_hamming_distance)
    known.add(published.test_images, "an image of the test set")
    known.add(published.train_images, "a training image of the data set")
    added, _, _ = load_added_images(data, published.classes)
    known.add(added, "a picture that was added before")
    for file in files:
        label = file.relative_to(incoming).parts[0]
        try:
            _check_path(file, incoming, published.classes)
            image = load_image(file)
            known.check(image)
            add_image(data, label, image)
            known.add(image[None], "a picture that came with this one")
        except InputError as error:
            reason = str(error)
            _move(file, incoming, REJECTED_DIR, reason)
            intake.rejected[str(file.relative_to(incoming))] = reason
        else:
            _move(file, incoming, ACCEPTED_DIR)
            intake.accepted[label] += 1
    print(intake)
    return intake


def _check_path(file: Path, incoming: Path, classes: Sequence[str]) -> None:
    """`InputError` for what need not even be opened."""
    if file.is_symlink() or not file.is_file():
        raise InputError("a link, or no plain file")
    if file.parent.parent != incoming or file.parent.name not in classes:
        raise InputError(f"in no class's folder; the classes are {', '.join(classes)}")
    if file.suffix.lower() not in FORMATS:
        raise InputError("neither PNG nor JPEG by its name")


class DuplicateIndex:
    """The images that nothing new may repeat, exactly or nearly."""

    def __init__(self, max_distance: int) -> None:
        self._max_distance = max_distance
        self._exact: dict[str, str] = {}
        self._hashes = np.empty(0, np.uint64)
        self._kinds: list[str] = []

    def add(self, images: NDArray[np.uint8], kind: str) -> None:
        for image in images:
            self._exact.setdefault(pixel_sha256(image), kind)
        self._hashes = np.concatenate([self._hashes, np.array([*map(_phash, images)], np.uint64)])
        self._kinds += [kind] * len(images)

    def check(self, image: NDArray[np.uint8]) -> None:
        """`InputError` where the image is known."""
        exact = self._exact.get(pixel_sha256(image))
        if exact is not None:
            raise InputError(f"the same pixels as {exact}")
        distances = np.bitwise_count(self._hashes ^ _phash(image))
        nearest = int(distances.argmin())
        if distances[nearest] <= self._max_distance:
            raise InputError(
                f"nearly the same as {self._kinds[nearest]} ({distances[nearest]} of 64 bits differ)"
            )


def _phash(image: NDArray[np.uint8]) -> np.uint64:
    bits = imagehash.phash(Image.fromarray(image)).hash.ravel()
    return np.packbits(bits).view(">u8").astype(np.uint64)[0]  # type: ignore[no-any-return]


def _move(file: Path, incoming: Path, where: str, reason: str = "") -> None:
    """To the same place below `where`, beside what lies there; a refused one with a row that says why."""
    goal = incoming / where / file.relative_to(incoming)
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        for free in _candidate_names(goal):
            if not free.exists() and not free.is_symlink():
                break
        file.rename(free)
        if reason:
            table = incoming / where / REASONS
            new = not table.exists()
            with table.open("a", newline="", encoding="utf-8", errors="surrogateescape") as rows:
                writer = csv.writer(rows, lineterminator="\n")
                if new:
                    writer.writerow(["file", "reason", "time"])
                now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
                writer.writerow([free.relative_to(incoming / where), reason, now])
    except OSError as error:
        raise RunError(f"cannot move {file} to {goal.parent}: {error.strerror or error}") from error


def _candidate_names(goal: Path) -> Iterator[Path]:
    yield goal
    number = 2
    while True:
        yield goal.with_name(f"{goal.stem}-{number}{goal.suffix}")
        number += 1


def rejected_markdown(refused: Iterable[tuple[str, str]], shown: int = 20) -> list[str]:
    """A Markdown table of what was refused, the first of them."""
    refused = list(refused)
    if not refused:
        return []
    rows = [f"| {_escape_cell(file)} | {_escape_cell(reason)} |" for file, reason in refused[:shown]]
    rows += (
        [f"| … | {len(refused) - shown:,} more, in {REJECTED_DIR}/{REASONS} |"]
        if len(refused) > shown
        else []
    )
    return ["| refused | why |", "| --- | --- |", *rows]


def _escape_cell(text: str) -> str:
    return text.encode(errors="replace").decode().replace("|", "\\|").replace("\n", " ")
