"""The stage `split`: CIFAR-10 as three splits in one file, which training maps into memory."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tasks.dataset import cifar10
from tasks.dataset.additions import load_added_images
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.splits import save_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.params import SplitConfig


def split(data: Path, splits: Path, dataset: str, config: SplitConfig) -> dict[str, Any]:
    """Write `splits`, a safetensors file that `tasks.workspace.splits.load_splits` loads.

    The test split is the data set's own; validation is a stratified sample of its training images. Added
    images are all for training, so that validation stays the same.
    """
    published = cifar10.load(data, dataset)
    for name, labels in (("training", published.train_labels), ("test", published.test_labels)):
        counts = np.bincount(labels, minlength=len(published.classes))
        if not counts.all():
            raise RunError(
                f"{data} has no {name} image of the class {published.classes[int(counts.argmin())]}"
            )
    train, val = stratified_split(published.train_labels, config.val_fraction, config.seed)
    added_images, added_labels, added_md5 = load_added_images(
        data, published.classes, published.train_images.shape[1]
    )
    train_images = np.concatenate([published.train_images[train], added_images])
    mean, std = channel_mean_std(train_images)
    arrays = {
        "train_images": train_images,
        "train_labels": np.concatenate([published.train_labels[train], added_labels]),
        "val_images": published.train_images[val],
        "val_labels": published.train_labels[val],
        "test_images": published.test_images,
        "test_labels": published.test_labels,
    }
    md5 = published.md5
    if added_md5:
        md5 = hashlib.md5(f"{md5} {added_md5}".encode(), usedforsecurity=False).hexdigest()
    metadata = {"dataset": dataset, "classes": published.classes, "data_md5": md5, "mean": mean, "std": std}
    save_tensors(splits, {name: torch.from_numpy(array) for name, array in arrays.items()}, metadata)
    print(
        f"{len(train_images):,} training images, {len(added_images):,} of them added, "
        f"{len(val):,} validation and {len(published.test_labels):,} test images"
    )
    return {"train": len(train_images), "val": len(val), "test": len(published.test_labels)}


def stratified_split(
    labels: NDArray[np.int64], val_fraction: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of training and of validation images, each in ascending order; the same on every machine."""
    # RandomState is the generator whose stream NumPy promises never to change (NEP 19).
    rng = np.random.RandomState(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(len(members) * val_fraction)
        if not 0 < count < len(members):
            raise InputError(
                f"split.val_fraction {val_fraction} leaves a class without images in one of the splits"
            )
        held_out[rng.permutation(members)[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def channel_mean_std(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, of values in 0 to 1, from exact sums."""
    mean, std = [], []
    for channel in range(3):
        counts = np.bincount(images[..., channel].ravel(), minlength=256).tolist()
        n = sum(counts)
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value * value * count for value, count in enumerate(counts))
        mean.append(total / (255 * n))
        std.append(math.sqrt(n * squares - total * total) / (255 * n))
    return mean, std
