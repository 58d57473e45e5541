"""The files in which stages meet: how splits and weights are written and read.

Both are safetensors files, whose header holds one JSON text under the key `cifarflow`. (One key, because
safetensors does not keep the order of several, and equal content shall be equal bytes.)
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
    images: Tensor
    """uint8 `(N, 32, 32, 3)`, RGB"""
    labels: Tensor
    """int64 `(N,)`"""


@dataclass(frozen=True)
class Splits:
    """What the stage `split` made; `about` holds `dataset`, `classes`, `data_md5`, `mean` and `std`.

    `mean` and `std` are those of the training images, a channel, for values in 0 to 1.
    """

    train: Split
    val: Split
    test: Split
    metadata: Mapping[str, Any]


def save_tensors(file: Path, tensors: dict[str, Tensor], about: Mapping[str, Any]) -> None:
    with atomic_write(file) as partial:
        try:
            save_file(tensors, partial, {"cifarflow": json.dumps(about, sort_keys=True)})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise RunError(f"cannot write {file}: {error}") from error


def load_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, mapped from the file rather than read, and what the header says about them."""
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads((opened.metadata() or {})["cifarflow"])
            return {name: opened.get_tensor(name) for name in opened.keys()}, about  # noqa: SIM118 - no mapping
    except FileNotFoundError:
        raise RunError(f"{file} is not there; the stage that makes it has to run first") from None
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise RunError(f"{file} was not written by this pipeline, or is damaged: {error}") from error


def load_splits(file: Path) -> Splits:
    tensors, about = load_tensors(file)
    try:
        train, val, test = (
            Split(tensors[f"{name}_images"], tensors[f"{name}_labels"]) for name in ("train", "val", "test")
        )
    except KeyError as error:
        raise RunError(f"{file} holds no splits: {error} is missing") from None
    return Splits(train, val, test, about)
