"""The images of a split, by index, in bounded memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Generator

from tasks.workspace.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.workspace.splits import Split

MAX_DEVICE_SHARE = 0.5  # of the GPU's free memory that the images may take
MAX_MAPPED_BYTES = 512 * 2**20  # of which every page becomes resident in the end


class ImageStore:
    """In the memory of a GPU if they fit there; else mapped from the file; if large, read from it one by one.

    A mapping cannot bound what becomes resident: for one image, Linux maps up to 2 MB around it.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        self._images, self._device = split.images, device
        self._location = split.location if split.images.nbytes > MAX_MAPPED_BYTES else None
        self.image_bytes = split.images[0].nbytes
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if split.images.nbytes <= MAX_DEVICE_SHARE * free:
                self._images, self._location = split.images.to(device), None

    def gather(self, indices: Tensor) -> Tensor:
        """A copy of these images, uint8 `(len(indices), S, S, 3)`, on the device."""
        if self._location is None:
            return self._images[indices.to(self._images.device)].to(self._device)
        file, offset = self._location
        images = torch.empty(len(indices), *self._images.shape[1:], dtype=torch.uint8)
        buffer = memoryview(images.numpy()).cast("B")  # type: ignore[arg-type]
        size = self.image_bytes
        with file.open("rb", buffering=0) as content:
            for i, index in enumerate(indices.tolist()):
                image = buffer[i * size : (i + 1) * size]
                if os.preadv(content.fileno(), [image], offset + index * size) != size:
                    raise RunError(f"{file} changed while it was read")
        return images.to(self._device)


def sample_split(split: Split, count: int, seed: int) -> Tensor:
    """`count` images of the split at random, or all of them: uint8 `(count, S, S, 3)`, on the CPU.

    The first ones of a folder would be of one or two classes, since they are in the order of their names.
    """
    order = torch.randperm(len(split.labels), generator=Generator().manual_seed(seed))
    return ImageStore(split, torch.device("cpu")).gather(order[:count].sort().values)
