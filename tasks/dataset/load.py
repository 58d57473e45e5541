"""The data set that `params.yaml` names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.dataset import cifar, folder

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.dataset.folder import ProgressCallback
    from tasks.dataset.labeled_images import Dataset
    from tasks.params import SplitConfig


def load_dataset(
    data: Path, dataset: str, config: SplitConfig, progress: ProgressCallback | None = None
) -> Dataset:
    """All images and labels from the folder `data`, verified."""
    if dataset == "folder":
        return folder.load(data, config, progress)
    return cifar.load(data, dataset)
