"""Images that retraining added to the training set: `data/additions/CLASS/DIGEST.png`, beside the data set.

The digest is that of the pixels, so files can be verified, and a class has no image twice.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.dataset.cifar import ChecksumError
from tasks.dataset.labeled_images import LabeledImages
from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write

ADDITIONS_DIR = "additions"


def load_added_images(data: Path, classes: Sequence[str], size: int) -> tuple[LabeledImages, str]:
    """The images, `(N, size, size, 3)`, and an MD5 of all of them, empty if there are none.

    The order is the same on every machine. `ChecksumError` if a file is not what was added.
    """
    images, labels, digest = [], [], hashlib.md5(usedforsecurity=False)
    for file in sorted(file for file in (data / ADDITIONS_DIR).rglob("*") if file.is_file()):
        name = file.relative_to(data / ADDITIONS_DIR)
        if len(name.parts) != 2 or name.parts[0] not in classes or name.suffix != ".png":
            raise RunError(f"{file} is not an added image ({ADDITIONS_DIR}/CLASS/DIGEST.png); move it away")
        try:
            with Image.open(io.BytesIO(file.read_bytes())) as png:
                image = np.array(png.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a corrupt PNG
            raise ChecksumError(f"{file} cannot be read ({error}); restore it with: dvc checkout") from error
        if image.shape != (size, size, 3) or name.stem != pixel_sha256(image):
            raise ChecksumError(f"{file} is not the image that was added; restore it with: dvc checkout")
        images.append(image)
        labels.append(classes.index(name.parts[0]))
        digest.update(f"{name.as_posix()}\n".encode())
    if not images:
        return LabeledImages(np.empty((0, size, size, 3), np.uint8), np.empty(0, np.int64)), ""
    return LabeledImages(np.stack(images), np.array(labels, np.int64)), digest.hexdigest()


def add_image(data: Path, label: str, image: NDArray[np.uint8]) -> Path:
    """Save an image `(S, S, 3)` as an addition; returns its file."""
    file = addition_file(data, label, pixel_sha256(image))
    with atomic_write(file) as temp_path:
        Image.fromarray(image).save(temp_path, format="PNG")
    return file


def addition_file(data: Path, label: str, digest: str) -> Path:
    return data / ADDITIONS_DIR / label / f"{digest}.png"


def pixel_sha256(image: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:32]
