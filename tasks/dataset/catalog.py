"""`open_dataset` returns a data set by the name that `dataset` in `params.yaml` gives.

To add a data set, write its class, which has the methods of `Dataset`, in a module of this package, and name
it twice here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tasks.dataset.base import Dataset

DatasetName = Literal["CIFAR-10", "CIFAR-100", "folder", "sample"]


def open_dataset(name: str) -> Dataset:
    """Return the data set of this name, which is a `DatasetName`; nothing is read yet."""
    # The parameters are checked by the names above, which must not cost the time of these imports.
    from tasks.dataset import cifar, folder

    datasets: dict[str, Dataset] = {
        "CIFAR-10": cifar.CIFAR10,
        "CIFAR-100": cifar.CIFAR100,
        "folder": folder.IMAGE_FOLDER,
        "sample": cifar.SAMPLE,
    }
    return datasets[name]
