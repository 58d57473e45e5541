"""Folders of generated images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def save_image_folder(folder: Path, classes: Sequence[str], count: int, size: int, seed: int = 0) -> Path:
    """`folder/CLASS/`: `count` images each, noise around the class's color, in several formats and sizes."""
    rng = np.random.default_rng(seed)
    colors = np.random.default_rng(99).integers(40, 216, (len(classes), 3))
    for name, color in zip(classes, colors, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            noise = rng.integers(-40, 40, (size + i % 3, size, 3))
            suffix = ("png", "jpg", "webp")[i % 3]
            image = Image.fromarray((color + noise).clip(0, 255).astype(np.uint8))
            image.save(folder / name / f"{seed}-{i:05}.{suffix}")
    return folder
