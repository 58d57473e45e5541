"""A training can start from weights in a file: a state dict, as safetensors or as PyTorch saves it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.networks import NETWORKS
from tasks.workspace.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_SHOWN = 3  # the number of keys that a message names


def load_pretrained(network: nn.Module, file: Path, name: str) -> None:
    """Load the state dict in `file` into the network called `name`.

    The head keeps its initialization if the file is for another number of classes, and the stem if the file
    has torchvision's own stem, for large images; a line says so. `InputError` if anything else does not fit.
    """
    tensors = read_state_dict(file)
    expected = network.state_dict()
    for problem, keys in (
        ("lacks", expected.keys() - tensors.keys()),
        ("has keys that the network lacks:", tensors.keys() - expected.keys()),
    ):
        if keys:
            raise InputError(f"{file} does not fit {name}: it {problem} {_join(keys)}")
    other_shape = {key for key, tensor in tensors.items() if tensor.shape != expected[key].shape}
    replaceable = {key for key in other_shape if key.startswith((*_stem(name), _head(network)))}
    if other_shape - replaceable:
        raise InputError(
            f"{file} does not fit {name}: it has other shapes of {_join(other_shape - replaceable)}"
        )
    network.load_state_dict({key: tensors[key] for key in tensors.keys() - other_shape}, strict=False)
    kept = f"; initialized anew: {', '.join(sorted(other_shape))}" if other_shape else ""
    print(f"starting from the weights in {file}{kept}")


def find_pretrained(folder: Path | None, name: str) -> Path | None:
    """Return the file that `train.weights` names, None if it names none. `InputError` if it is missing."""
    if not name:
        return None
    if folder is None or not (folder / name).is_file():
        raise InputError(f"train.weights: {(folder or Path()) / name} not found")
    return folder / name


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, or of one that `torch.load` reads with `weights_only`.

    `InputError` if the file holds no state dict.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"train.weights: {file} holds no state dict: {reason}") from None
    if isinstance(content, dict):
        content = next((content[key] for key in ("state_dict", "model") if key in content), content)
    if not isinstance(content, dict) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise InputError(f"train.weights: {file} holds no state dict")
    return content


def _stem(name: str) -> tuple[str, ...]:
    if name in NETWORKS:
        return ()
    from models.torchvision_networks import stem_parameters

    return stem_parameters(name)


def _head(network: nn.Module) -> str:
    """Return the name of the head, which gives the logits: the module with the network's last parameter."""
    *_, last = (name for name, _ in network.named_parameters())
    return last.rpartition(".")[0]


def _join(keys: set[str]) -> str:
    shown = sorted(keys)[:MAX_SHOWN]
    more = f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else ""
    return ", ".join(shown) + more
