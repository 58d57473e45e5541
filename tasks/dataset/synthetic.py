"""`generate_sample` generates a small stand-in for CIFAR-10: ten shapes in random colors, with noise."""

import pickle
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.dataset.cifar import CIFAR10, MD5_FILE, write_batch
from tasks.workspace.files import hash_file

CLASSES = (
    "disc", "ring", "square", "frame", "triangle", "plus", "diagonal cross", "rows", "columns", "chequers",
)  # fmt: skip
BATCH_SIZE = 500
NOISE = 25


def generate_sample(data: Path, seed: int = 0) -> None:
    """Write the folder `data` with 2,500 training and 500 test images, in the file format of CIFAR-10.

    Equal seeds give equal bytes. The folder appears only when it is complete.
    """
    # RandomState is the generator whose stream NumPy promises never to change (NEP 19).
    rng = np.random.RandomState(seed)
    temp_dir = data.with_name(f".{data.name}.partial")
    shutil.rmtree(temp_dir, ignore_errors=True)
    folder = temp_dir / CIFAR10.folder
    folder.mkdir(parents=True)
    for name in (*CIFAR10.train, CIFAR10.test):
        labels = rng.permutation(np.arange(BATCH_SIZE) % len(CLASSES))
        images = np.stack([_draw_image(int(label), rng) for label in labels])
        write_batch(folder / name, images, labels.tolist(), name)
    meta = {"num_cases_per_batch": BATCH_SIZE, "label_names": list(CLASSES), "num_vis": 3072}
    (folder / CIFAR10.meta).write_bytes(pickle.dumps(meta, protocol=3))
    listing = [f"{hash_file(file, 'md5')}  {file.name}" for file in sorted(folder.iterdir())]
    (folder / MD5_FILE).write_text("\n".join(listing) + "\n", encoding="utf-8")
    temp_dir.rename(data)


def _draw_image(label: int, rng: np.random.RandomState) -> NDArray[np.uint8]:
    """Draw an image, uint8 `(32, 32, 3)`, in integers, so that it is the same on every machine."""
    radius, center_x, center_y = rng.randint(7, 12), rng.randint(12, 20), rng.randint(12, 20)
    y, x = np.mgrid[0:32, 0:32]
    mask = _draw_shape(CLASSES[label], x - center_x, y - center_y, radius)
    background, foreground = rng.randint(0, 256, (2, 3))
    # A shape whose color is too close to the background's could not be seen.
    if np.abs(background - foreground).sum() < 150:
        foreground = (
            255 - foreground if np.abs(255 - 2 * foreground).sum() > 150 else (foreground + 128) % 256
        )
    noise = rng.randint(-NOISE, NOISE + 1, (32, 32, 3))
    image: NDArray[np.uint8] = np.clip(
        np.where(mask[..., None], foreground, background) + noise, 0, 255
    ).astype(np.uint8)
    return image


def _draw_shape(name: str, x: NDArray[np.int64], y: NDArray[np.int64], r: int) -> NDArray[np.bool_]:
    """Return the mask of the shape, from each pixel's coordinates `x`, `y` relative to the center."""
    inside = np.maximum(np.abs(x), np.abs(y)) <= r
    distance2 = x * x + y * y
    masks = {
        "disc": distance2 <= r * r,
        "ring": (distance2 <= r * r) & (distance2 > (r - 4) * (r - 4)),
        "square": inside,
        "frame": inside & (np.maximum(np.abs(x), np.abs(y)) > r - 4),
        "triangle": (np.abs(y) <= r) & (2 * np.abs(x) <= y + r),
        "plus": inside & (np.minimum(np.abs(x), np.abs(y)) <= 2),
        "diagonal cross": inside & (np.abs(np.abs(x) - np.abs(y)) <= 2),
        "rows": inside & (y // 3 % 2 == 0),
        "columns": inside & (x // 3 % 2 == 0),
        "chequers": inside & ((x // 4 + y // 4) % 2 == 0),
    }
    mask: NDArray[np.bool_] = masks[name]
    return mask
