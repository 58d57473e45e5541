"""Write scikit-learn's handwritten digits as pictures: images to try a project with, without a download."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

DESCRIPTION = (
    "Handwritten digits of 8 x 8 pixels, which scikit-learn brings (UCI Machine Learning Repository)."
)


def write_digits(folder: Path) -> None:
    """Write 1,797 gray images of 8 x 8 pixels as `folder/DIGIT/NUMBER.png`."""
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # The values are 0 to 16.
    for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
        file = folder / str(label) / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
