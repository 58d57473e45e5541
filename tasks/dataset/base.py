"""`Dataset` says what the project has to know about a data set; `tasks.dataset.catalog` lists all of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.workspace.errors import RunError

ProgressCallback = Callable[[float, str], None]
"""a function that gets the fraction done, and a description of what is being done"""


class ChecksumError(RunError):
    """A file of the data set is missing or is not the published one."""


@dataclass(frozen=True)
class LabeledImages:
    """Images of one split have labels, in the same order."""

    images: NDArray[np.uint8]
    """`(N, S, S, 3)`, RGB"""
    labels: NDArray[np.int64]
    """`(N,)`, indices into the classes"""


@dataclass(frozen=True)
class LoadedDataset:
    """A loaded data set has up to three splits, its classes' names in the order of labels, and a hash."""

    train: LabeledImages
    val: LabeledImages | None
    """None if the stage `split` has to take it from the training images"""
    test: LabeledImages
    classes: tuple[str, ...]
    md5: str
    """hash of all files of the data set"""


@dataclass(frozen=True)
class LoadOptions:
    """The section `split` of `params.yaml` has these; a data set with its own splits and size needs none."""

    seed: int
    val_fraction: float
    test_fraction: float
    image_size: int


@dataclass(frozen=True)
class Archive:
    """A published data set can be downloaded as an archive."""

    folder: str
    """name of the folder in the archive and in `data/`"""
    num_bytes: int
    """size of all files in the folder together"""
    url_variable: str
    """environment variable with the archive's URL or path, which is tried first"""
    sources: tuple[str, ...] = ()
    """URLs or paths of the archive, in the order in which they are tried"""
    sources_key: str = ""
    """key in the section `download` of `params.yaml` that holds the sources instead"""


class Dataset(ABC):
    """A data set that `params.yaml` can name is an object of this class."""

    name: str
    """value of `dataset` in `params.yaml`"""
    is_own: bool = False
    """whether the user records the images (`dvc add`), since nobody has published checksums of them"""
    warning: str = ""
    """sentences that the report begins with, if its results must not be taken for those of real images"""

    @property
    def description(self) -> str:
        """Return what pages and messages call the data set, as in `trained on …`."""
        return self.name

    def find_missing(self, data: Path) -> Archive | None:
        """Return the archive to download, or None if the folder `data` is left as it is."""
        del data  # Most data sets are not downloaded.
        return None

    def unpack(self, archive: Path, target: Path) -> None:
        """Write the verified files of the downloaded archive to the folder `target`.

        `ArchiveError` or `ChecksumError` if the archive does not hold the data set.
        """
        raise NotImplementedError(f"{self.name} is not downloaded: {archive} is not for {target}")

    @abstractmethod
    def verify(self, data: Path) -> str:
        """Check the files in the folder `data`, and say in a few words what they are.

        `ChecksumError` if a file is not the published one, `InputError` if the user's images cannot be used.
        """

    @abstractmethod
    def load(
        self, data: Path, options: LoadOptions | None = None, progress: ProgressCallback | None = None
    ) -> LoadedDataset:
        """Load all images and labels from the folder `data`, which is verified on the way."""
