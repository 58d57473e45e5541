"""Every data set is a `Dataset` of `LabeledImages` once it is loaded."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LabeledImages:
    """Images of one split have labels, in the same order."""

    images: NDArray[np.uint8]
    """`(N, S, S, 3)`, RGB"""
    labels: NDArray[np.int64]
    """`(N,)`, indices into the classes"""


@dataclass(frozen=True)
class Dataset:
    """A loaded data set has up to three splits, its classes' names in the order of labels, and a hash."""

    train: LabeledImages
    val: LabeledImages | None
    """None if the stage `split` has to take it from the training images"""
    test: LabeledImages
    classes: tuple[str, ...]
    md5: str
    """hash of all files of the data set"""
