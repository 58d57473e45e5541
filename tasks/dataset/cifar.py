"""The files of CIFAR-10 and CIFAR-100 are verified, loaded and written here.

Their format is the "Python version" of https://www.cs.toronto.edu/~kriz/cifar.html. A batch is a pickled
dictionary of labels and of `data`, uint8 `(N, 3072)`, which has one row per image: its red, green and blue
plane.
"""

import hashlib
import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.dataset.archive import extract
from tasks.dataset.base import (
    Archive,
    ChecksumError,
    Dataset,
    LabeledImages,
    LoadedDataset,
    LoadOptions,
    ProgressCallback,
)
from tasks.workspace.errors import RunError

MD5_FILE = "md5sums.txt"  # holds the checksums of a generated sample, for which none are published
_FIX = "move the directory away to download it again"


@dataclass(frozen=True)
class Cifar(Dataset):
    """CIFAR has these files, and these keys in them."""

    name: str
    archive: Archive
    train: tuple[str, ...]
    test: str
    meta: str
    labels_key: str
    """key of the labels in a batch"""
    classes_key: str
    """key of the classes' names in the file `meta`"""
    published_md5: Mapping[str, str]
    max_bytes: Mapping[str, int]
    """size of each published file, or an upper bound of it"""

    @property
    def folder(self) -> str:
        """Return the name of the folder in the archive and in `data/`."""
        return self.archive.folder

    def find_missing(self, data: Path) -> Archive | None:
        """Return the archive, unless there is a folder of its name in `data`, altered or not."""
        return None if (data / self.folder).exists() else self.archive

    def unpack(self, archive: Path, target: Path) -> None:
        """Write the published files to `target`, and none of the archive's other files."""
        extract(archive, target, self.folder, self.max_bytes)
        self.verify(target)

    def checksums(self, data: Path) -> Mapping[str, str]:
        """Return the MD5 of each file by name."""
        del data  # They are published.
        return self.published_md5

    def verify(self, data: Path) -> str:
        """Compare every file with its checksum; `ChecksumError` names the first that differs."""
        for name, md5 in self.checksums(data).items():
            read_verified(data / self.folder / name, md5)
        return f"{self.name}, every file as published"

    def load(
        self, data: Path, options: LoadOptions | None = None, progress: ProgressCallback | None = None
    ) -> LoadedDataset:
        """Load all images and labels, from the very bytes whose checksums were verified.

        `ChecksumError` if a file is missing or not the published one.
        """
        del options, progress  # The images have their size and their splits, and load in a second.
        md5s = self.checksums(data)
        contents = {name: read_verified(data / self.folder / name, md5) for name, md5 in md5s.items()}
        meta = restricted_loads(contents[self.meta], self.meta)
        classes = tuple(str(name) for name in meta[self.classes_key])
        train = [_parse_batch(contents.pop(name), name, self.labels_key, classes) for name in self.train]
        test = _parse_batch(contents.pop(self.test), self.test, self.labels_key, classes)
        listing = "".join(f"{md5}  {name}\n" for name, md5 in sorted(md5s.items()))
        return LoadedDataset(
            train=LabeledImages(
                np.concatenate([batch.images for batch in train]),
                np.concatenate([batch.labels for batch in train]),
            ),
            val=None,
            test=test,
            classes=classes,
            md5=hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest(),
        )


class GeneratedSample(Cifar):
    """A small stand-in for CIFAR-10 has its format; `generate_sample` writes it, with its checksums."""

    warning = (
        "Not CIFAR-10. This run used a small generated sample instead: it shows that the pipeline works, "
        "and nothing about the model."
    )

    @property
    def description(self) -> str:
        return "a generated sample, not CIFAR-10"

    def find_missing(self, data: Path) -> None:
        """Return None: a sample is not downloaded."""

    def checksums(self, data: Path) -> Mapping[str, str]:
        """Return the MD5s that the generator wrote. `ChecksumError` if `data` holds no sample."""
        file = data / self.folder / MD5_FILE
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ChecksumError(f"{file} not found: {data} holds no generated sample") from error
        return {name: md5 for md5, name in (line.split(maxsplit=1) for line in lines)}


CIFAR10 = Cifar(
    name="CIFAR-10",
    archive=Archive("cifar-10-batches-py", 186_214_114, "CIFAR10_URL", sources_key="sources"),
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test="test_batch",
    meta="batches.meta",
    labels_key="labels",
    classes_key="label_names",
    published_md5={
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "readme.html": "82949b010606e8171045e61c60921d12",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    max_bytes={
        "batches.meta": 158,
        "data_batch_1": 31_035_704,
        "data_batch_2": 31_035_320,
        "data_batch_3": 31_035_999,
        "data_batch_4": 31_035_696,
        "data_batch_5": 31_035_623,
        "readme.html": 88,
        "test_batch": 31_035_526,
    },
)
CIFAR100 = Cifar(
    name="CIFAR-100",
    archive=Archive("cifar-100-python", 187_000_000, "CIFAR100_URL", sources_key="cifar100_sources"),
    train=("train",),
    test="test",
    meta="meta",
    labels_key="fine_labels",
    classes_key="fine_label_names",
    published_md5={  # as in torchvision.datasets.CIFAR100
        "meta": "7973b15100ade9c7d40fb424638fde48",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "train": "16019d7e3df5f24257cddd939b257f8d",
    },
    max_bytes={"meta": 10_000, "test": 32_000_000, "train": 155_249_918},
)
SAMPLE = GeneratedSample(**{**vars(CIFAR10), "name": "sample"})


def read_verified(file: Path, md5: str) -> bytes:
    """Read the file's content. `ChecksumError` unless it has this MD5."""
    if not file.parent.exists():
        raise ChecksumError(f"{file.parent} not found; download it with: python -m tasks download")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ChecksumError(f"{file} cannot be read ({error.strerror}); {_FIX}") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise ChecksumError(f"{file} is not the published file (checksum mismatch); {_FIX}")
    return content


def restricted_loads(content: bytes, name: str) -> dict[str, Any]:
    """Unpickle a dictionary. `RunError` if it is none, or needs anything but arrays of bytes."""
    try:
        batch = _RestrictedUnpickler(io.BytesIO(content), encoding="latin1").load()
    except (pickle.UnpicklingError, ValueError, TypeError, EOFError, IndexError, KeyError) as error:
        raise RunError(f"{name} is not a batch of CIFAR: {error}") from error
    if not isinstance(batch, dict):
        raise RunError(f"{name} is not a batch of CIFAR: it holds a {type(batch).__name__}")
    return batch


class _RestrictedUnpickler(pickle.Unpickler):
    """The unpickler admits only arrays of bytes, pickled as in the published files; no other code can run."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return _reconstruct_uint8
            case "numpy", "ndarray":
                return np.ndarray
            case "numpy", "dtype":
                return _uint8_dtype
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _reconstruct_uint8(kind: type, _shape: tuple[int, ...], _code: str | bytes) -> NDArray[np.uint8]:
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"it asks for an array of kind {kind}")
    return np.ndarray((0,), np.uint8)


def _uint8_dtype(code: str, *_: Any) -> np.dtype[np.uint8]:
    if code != "u1":
        raise pickle.UnpicklingError(f"it holds values of type {code}, not bytes")
    return np.dtype(np.uint8)


def _parse_batch(content: bytes, name: str, labels_key: str, classes: Sequence[str]) -> LabeledImages:
    batch = restricted_loads(content, name)
    rows, labels = batch.get("data"), np.asarray(batch.get(labels_key, []), dtype=np.int64)
    if not isinstance(rows, np.ndarray) or rows.shape != (len(labels), 3072) or not len(labels):
        raise RunError(f"{name} is not a batch of CIFAR: numbers of images and labels differ")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise RunError(f"{name} has labels beyond its {len(classes)} classes")
    return LabeledImages(np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels)


def write_batch(file: Path, images: NDArray[np.uint8], labels: Sequence[int], label: str) -> None:
    """Write images `(N, 32, 32, 3)` as a batch; equal content gives equal bytes."""
    rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(-1, 3072)
    names = [f"{label}_{i:05}.png" for i in range(len(rows))]
    batch = {"batch_label": label, "labels": list(labels), "data": rows, "filenames": names}
    file.write_bytes(pickle.dumps(batch, protocol=3))
