"""Stages share files of tensors with metadata: the weights, and the splits.

These are safetensors files whose header holds the metadata as one JSON text under the key `cifarflow`. It is
a single key because safetensors does not keep the order of several, and equal content must give equal bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write


@dataclass(frozen=True)
class Split:
    """A split is images with labels; as loaded, the images are mapped from the file, not read."""

    images: Tensor
    """uint8 `(N, S, S, 3)`, RGB"""
    labels: Tensor
    """int64 `(N,)`"""
    location: tuple[Path, int] | None = None
    """the file that the images are mapped from, and the first image's offset in it, in bytes"""


@dataclass(frozen=True)
class Splits:
    """The stage `split` writes these; `metadata` has `dataset`, `classes`, `data_md5`, `mean` and `std`.

    `mean` and `std` are those of the training images, per channel, for values in 0 to 1.
    """

    train: Split
    val: Split
    test: Split
    metadata: Mapping[str, Any]

    @property
    def image_size(self) -> int:
        """The width and the height of every image, in pixels."""
        return self.train.images.shape[1]


def save_tensors(file: Path, tensors: dict[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write the tensors and the metadata. `RunError` if the file cannot be written."""
    with atomic_write(file) as temp_path:
        try:
            save_file(tensors, temp_path, {"cifarflow": json.dumps(metadata, sort_keys=True)})
        except SafetensorError as error:  # safetensors raises this if the disk is full
            raise RunError(f"cannot write {file}: {error}") from error


def load_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Map the tensors into memory, and read the metadata. `RunError` if the file is missing or corrupt."""
    try:
        with safe_open(file, framework="pt") as content:
            metadata = json.loads((content.metadata() or {})["cifarflow"])
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
            return tensors, metadata
    except FileNotFoundError:
        raise RunError(f"{file} not found; run the stage that produces it first") from None
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise RunError(f"{file} is corrupt or was not written by this pipeline: {error}") from error


def load_splits(file: Path) -> Splits:
    """Load the splits. `RunError` if the file is missing, corrupt or holds something else."""
    tensors, metadata = load_tensors(file)
    offsets = _read_offsets(file)
    try:
        train, val, test = (
            Split(
                tensors[f"{name}_images"],
                tensors[f"{name}_labels"],
                (file, offsets[f"{name}_images"]),
            )
            for name in ("train", "val", "test")
        )
    except KeyError as error:
        raise RunError(f"{file} is not a splits file: {error} is missing") from None
    return Splits(train, val, test, metadata)


def _read_offsets(file: Path) -> dict[str, int]:
    """Return the offset of each tensor in the safetensors file, in bytes.

    A file has 8 bytes with the header's length, the header, and then the tensors, whose offsets in the header
    count from its end.
    """
    with file.open("rb") as content:
        header_bytes = int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(header_bytes))
    header.pop("__metadata__", None)
    return {name: 8 + header_bytes + tensor["data_offsets"][0] for name, tensor in header.items()}
