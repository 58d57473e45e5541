"""The device to train on."""

import torch

from tasks.workspace.errors import InputError


def resolve_device(name: str) -> torch.device:
    """The device for `train.device`; for `auto`, CUDA if available. `InputError` if CUDA is not available."""
    is_available = torch.cuda.is_available()
    if name == "cuda" and not is_available:
        raise InputError("train.device is cuda, but PyTorch finds no CUDA device; set it to auto or cpu")
    return torch.device("cuda" if is_available and name != "cpu" else "cpu")
