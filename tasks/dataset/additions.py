"""Retraining adds images to the data set, as `data/additions/CLASS/DIGEST.{train,val}.png` beside it.

The digest is that of the pixels, so files can be verified, and no image is there twice. It decides once and
for all whether the image is for training or for validation, so no model is ever trained on an image of
validation, and validation only grows. `DIGEST.png`, without a split, was added before this rule existed and
stays in training, whatever its digest says.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.dataset.base import ChecksumError, LabeledImages
from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write

ADDITIONS_DIR = "additions"
VAL_SHARE = 0.1
"""part of all digests that is for validation; a constant: a change would move images between splits"""


@dataclass(frozen=True)
class AddedImages:
    """Images that retraining added are for training or for validation."""

    train: LabeledImages
    val: LabeledImages
    md5: str
    """hash of the names of all added images, which hold their digests; empty if there are no images"""


def load_added_images(data: Path, classes: Sequence[str], size: int) -> AddedImages:
    """Load the added images, `(N, size, size, 3)`, in an order that is the same on every machine.

    `ChecksumError` if a file is not what was added; `RunError` if a file is no addition, or an image is there
    twice.
    """
    images: dict[str, list[NDArray[np.uint8]]] = {"train": [], "val": []}
    labels: dict[str, list[int]] = {"train": [], "val": []}
    files: dict[str, Path] = {}
    md5 = hashlib.md5(usedforsecurity=False)
    for file in sorted(file for file in (data / ADDITIONS_DIR).rglob("*") if file.is_file()):
        name = file.relative_to(data / ADDITIONS_DIR)
        if len(name.parts) != 2 or name.parts[0] not in classes or name.suffix != ".png":
            raise RunError(f"{file} is not an added image ({ADDITIONS_DIR}/CLASS/DIGEST.png); move it away")
        digest, _, split = name.stem.partition(".")
        image = _read_png(file)
        if (
            image.shape != (size, size, 3)
            or digest != pixel_sha256(image)
            or split not in {"", assign_split(digest)}
        ):
            raise ChecksumError(f"{file} is not the image that was added; restore it with: dvc checkout")
        other = files.setdefault(digest, file)
        if other != file:  # happens after a merge; a model may have been trained on the one without a split
            later, earlier = (file, other) if split else (other, file)
            raise RunError(f"{later} is the same image as {earlier}; delete {later}")
        images[split or "train"].append(image)
        labels[split or "train"].append(classes.index(name.parts[0]))
        md5.update(f"{name.as_posix()}\n".encode())
    train, val = (
        LabeledImages(
            np.stack(images[split]) if images[split] else np.empty((0, size, size, 3), np.uint8),
            np.array(labels[split], np.int64),
        )
        for split in ("train", "val")
    )
    return AddedImages(train, val, md5.hexdigest() if files else "")


def _read_png(file: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(file.read_bytes())) as png:
            return np.array(png.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # Pillow raises these for a corrupt PNG
        raise ChecksumError(f"{file} cannot be read ({error}); restore it with: dvc checkout") from error


def add_image(data: Path, label: str, image: NDArray[np.uint8]) -> str:
    """Save an image, uint8 `(S, S, 3)`, as an addition, and return the split that it is for."""
    digest = pixel_sha256(image)
    split = assign_split(digest)
    with atomic_write(data / ADDITIONS_DIR / label / f"{digest}.{split}.png") as temp_path:
        Image.fromarray(image).save(temp_path, format="PNG")
    return split


def is_added(data: Path, label: str, digest: str) -> bool:
    """Whether the image with this digest of its pixels was added to the class `label`."""
    return any((data / ADDITIONS_DIR / label).glob(f"{digest}.*png"))


def assign_split(digest: str) -> str:
    """Return `val` for `VAL_SHARE` of all digests, else `train`; the first 32 bits decide."""
    return "val" if int(digest[:8], 16) < VAL_SHARE * 2**32 else "train"


def pixel_sha256(image: NDArray[np.uint8]) -> str:
    """Hash the pixels, whatever the image's file format; the first 128 bits as 32 hex digits."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:32]
