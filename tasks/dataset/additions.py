"""Pictures that retraining added to the training set: `data/additions/CLASS/DIGEST.png`, beside CIFAR-10.

A file is named by its pixels, so each is known to be what was added, and none is there twice in a class.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.dataset.cifar10 import AlteredDataError
from tasks.dataset.image import SIDE
from tasks.workspace.errors import RunError
from tasks.workspace.files import written_whole

FOLDER = "additions"


def read_additions(data: Path, classes: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64], str]:
    """Images `(N, 32, 32, 3)`, labels `(N,)` and an MD5 of all of them, which is empty where there are none.

    In an order that is the same on every machine. `AlteredDataError` where a file is not what was added.
    """
    images, labels, digest = [], [], hashlib.md5(usedforsecurity=False)
    for file in sorted(file for file in (data / FOLDER).rglob("*") if file.is_file()):
        name = file.relative_to(data / FOLDER)
        if len(name.parts) != 2 or name.parts[0] not in classes or name.suffix != ".png":
            raise RunError(f"{file} is no added picture: those are {FOLDER}/CLASS/DIGEST.png; move it away")
        try:
            with Image.open(io.BytesIO(file.read_bytes())) as picture:
                image = np.array(picture.convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a broken PNG
            raise AlteredDataError(f"{file} cannot be read ({error}); bring it back: dvc checkout") from error
        if image.shape != (SIDE, SIDE, 3) or name.stem != pixel_digest(image):
            raise AlteredDataError(f"{file} is not the picture that was added; bring it back: dvc checkout")
        images.append(image)
        labels.append(classes.index(name.parts[0]))
        digest.update(f"{name.as_posix()}\n".encode())
    if not images:
        return np.empty((0, SIDE, SIDE, 3), np.uint8), np.empty(0, np.int64), ""
    return np.stack(images), np.array(labels, np.int64), digest.hexdigest()


def add(data: Path, label: str, image: NDArray[np.uint8]) -> Path:
    """Put a picture `(32, 32, 3)` among the additions; gives its file."""
    file = data / FOLDER / label / f"{pixel_digest(image)}.png"
    with written_whole(file) as partial:
        Image.fromarray(image).save(partial, format="PNG")
    return file


def pixel_digest(image: NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:32]
