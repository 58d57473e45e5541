"""The stage `split` writes the data set as three splits into one file, which training maps into memory."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tasks.dataset.additions import load_added_images
from tasks.dataset.base import LabeledImages, LoadOptions
from tasks.dataset.catalog import open_dataset
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.splits import save_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tasks.dataset.base import ProgressCallback
    from tasks.params import SplitConfig


def split(
    data: Path, splits: Path, dataset: str, config: SplitConfig, progress: ProgressCallback | None = None
) -> dict[str, Any]:
    """Write `splits`, a safetensors file that `tasks.workspace.splits.load_splits` loads.

    The test split is the data set's own. So is the validation split, if there is one; otherwise it is a
    stratified sample of the training images. Images that retraining added follow the data set's own, in
    training and in validation. `RunError` if a class has no images for training or testing.
    """
    kind = open_dataset(dataset)
    published = kind.load(data, LoadOptions(**config.model_dump()), progress)
    for name, part in (("training", published.train), ("test", published.test)):
        counts = np.bincount(part.labels, minlength=len(published.classes))
        if not counts.all():
            raise RunError(
                f"{data} has no {name} image of the class {published.classes[int(counts.argmin())]}"
            )
    train, val = published.train, published.val
    if val is None:
        in_train, in_val = stratified_split(train.labels, config.val_fraction, config.seed)
        val = LabeledImages(train.images[in_val], train.labels[in_val])
        train = LabeledImages(train.images[in_train], train.labels[in_train])
    added = load_added_images(data, published.classes, train.images.shape[1])
    train, val = _concatenate(train, added.train), _concatenate(val, added.val)
    mean, std = channel_mean_std(train.images)
    tensors = {}
    for name, part in (("train", train), ("val", val), ("test", published.test)):
        tensors[f"{name}_images"] = torch.from_numpy(part.images)
        tensors[f"{name}_labels"] = torch.from_numpy(part.labels)
    md5 = published.md5
    if added.md5:
        md5 = hashlib.md5(f"{md5} {added.md5}".encode(), usedforsecurity=False).hexdigest()
    metadata: dict[str, Any] = {
        "dataset": dataset,
        "classes": published.classes,
        "data_md5": md5,
        "mean": mean,
        "std": std,
    }
    if kind.description != kind.name:
        metadata["dataset_description"] = kind.description
    if kind.warning:
        metadata["dataset_warning"] = kind.warning
    if len(added.val.labels):
        metadata["val_added"] = len(added.val.labels)
    save_tensors(splits, tensors, metadata)
    sizes = {"train": len(train.labels), "val": len(val.labels), "test": len(published.test.labels)}
    print(
        f"{sizes['train']:,} training images, {len(added.train.labels):,} of them added, "
        f"{sizes['val']:,} validation images, {len(added.val.labels):,} of them added, "
        f"and {sizes['test']:,} test images"
    )
    return sizes


def _concatenate(first: LabeledImages, second: LabeledImages) -> LabeledImages:
    return LabeledImages(
        np.concatenate([first.images, second.images]), np.concatenate([first.labels, second.labels])
    )


def stratified_split(
    labels: NDArray[np.int64], val_fraction: float, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of training and of validation images, in ascending order, equal on every machine.

    Every class has the same fraction of validation images. `InputError` if one of the splits then has no
    image of a class.
    """
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
    """Compute mean and standard deviation per channel, of values in 0 to 1, from uint8 `(N, S, S, 3)`."""
    mean, std = [], []
    for channel in range(3):
        # Sums over a histogram are exact in Python's integers, and so are the same on every machine.
        counts = np.bincount(images[..., channel].ravel(), minlength=256).tolist()
        n = sum(counts)
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value * value * count for value, count in enumerate(counts))
        mean.append(total / (255 * n))
        std.append(math.sqrt(n * squares - total * total) / (255 * n))
    return mean, std
