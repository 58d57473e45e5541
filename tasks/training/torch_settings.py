"""These blocks change PyTorch's process-wide settings and restore them afterwards."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def num_threads(count: int | None = None) -> Iterator[None]:
    """Set PyTorch's number of intra-op threads in the block; with None, only undo what the block sets."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic_algorithms(device: torch.device, *, enabled: bool) -> Iterator[None]:
    """Use PyTorch's deterministic algorithms on CUDA in the block or, if not `enabled`, cuDNN's fastest.

    On a CPU the operations used here are deterministic anyway.
    """
    if device.type == "cpu":
        yield
        return
    if not enabled:
        was_enabled = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True  # cuDNN measures its algorithms at the first step of each shape
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = was_enabled
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS requires it for this
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=before)
