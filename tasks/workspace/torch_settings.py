"""PyTorch's process-wide settings, restored afterwards."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def num_threads(count: int | None = None) -> Iterator[None]:
    """PyTorch's intra-op threads inside the block; None: whatever the block sets is undone."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic_algorithms(device: torch.device, *, enabled: bool) -> Iterator[None]:
    """On CUDA, PyTorch's deterministic algorithms, or cuDNN's fastest where they are not enabled.

    On a CPU what is used here is deterministic anyway.
    """
    if device.type == "cpu":
        yield
        return
    if not enabled:
        was_enabled = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True  # tries its algorithms at the first step of a shape
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = was_enabled
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=before)
