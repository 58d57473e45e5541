"""The stage `split`: CIFAR-10 as three splits, written so that training has its arrays at once."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tasks.dataset import cifar10
from tasks.dataset.additions import read_additions
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.splits import write_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.params import Split


def split(data: Path, splits: Path, dataset: str, options: Split) -> dict[str, Any]:
    """Write `splits` (safetensors, as `tasks.workspace.splits.Splits` says).

    Test is the data set's own; validation is drawn from its training images, from each class the same share.
    Pictures that were added are all for training, so that validation stays what it was.
    """
    whole = cifar10.read(data, dataset)
    for name, labels in (("training", whole.train_labels), ("test", whole.test_labels)):
        counts = np.bincount(labels, minlength=len(whole.classes))
        if not counts.all():
            raise RunError(f"{data} has no {name} image of the class {whole.classes[int(counts.argmin())]}")
    train, val = stratified(whole.train_labels, options.val_fraction, options.seed)
    added_images, added_labels, added_md5 = read_additions(data, whole.classes)
    train_images = np.concatenate([whole.train_images[train], added_images])
    mean, std = channel_statistics(train_images)
    arrays = {
        "train_images": train_images,
        "train_labels": np.concatenate([whole.train_labels[train], added_labels]),
        "val_images": whole.train_images[val],
        "val_labels": whole.train_labels[val],
        "test_images": whole.test_images,
        "test_labels": whole.test_labels,
    }
    md5 = whole.md5
    if added_md5:
        md5 = hashlib.md5(f"{md5} {added_md5}".encode(), usedforsecurity=False).hexdigest()
    about = {"dataset": dataset, "classes": whole.classes, "data_md5": md5, "mean": mean, "std": std}
    write_tensors(splits, {name: torch.from_numpy(array) for name, array in arrays.items()}, about)
    print(
        f"{len(train_images):,} training images, {len(added_images):,} of them added, "
        f"{len(val):,} validation and {len(whole.test_labels):,} test images"
    )
    return {"train": len(train_images), "val": len(val), "test": len(whole.test_labels)}


def stratified(
    labels: NDArray[np.int64], val_fraction: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of training and of validation images, each in ascending order; the same on every machine."""
    # RandomState is the generator whose stream NumPy promises never to change (NEP 19).
    random = np.random.RandomState(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(len(members) * val_fraction)
        if not 0 < count < len(members):
            raise InputError(
                f"split.val_fraction {val_fraction} leaves no image of some class in one of the splits"
            )
        held_out[random.permutation(members)[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def channel_statistics(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation a channel, of values in 0 to 1, from exact sums."""
    mean, std = [], []
    for channel in range(3):
        counts = np.bincount(images[..., channel].ravel(), minlength=256).tolist()
        n = sum(counts)
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value * value * count for value, count in enumerate(counts))
        mean.append(total / (255 * n))
        std.append(math.sqrt(n * squares - total * total) / (255 * n))
    return mean, std
