"""`resolve_device` chooses the device to train on."""

import torch

from tasks.workspace.errors import InputError


def resolve_device(name: str) -> torch.device:
    """Return the device for `train.device`; `auto` is CUDA if available. `InputError` if `cuda` is not."""
    is_available = torch.cuda.is_available()
    if name == "cuda" and not is_available:
        raise InputError("train.device is cuda, but PyTorch finds no CUDA device; set it to auto or cpu")
    return torch.device("cuda" if is_available and name != "cpu" else "cpu")
