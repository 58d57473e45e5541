"""`load_dataset` loads the data set that `params.yaml` names."""

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
    """Load all images and labels from the folder `data`. `RunError` if a file is not what was published.

    For the user's own images (`folder`), `InputError` if they cannot be used.
    """
    if dataset == "folder":
        return folder.load(data, config, progress)
    return cifar.load(data, dataset)
