"""`ImageStore` gives images of a split by index, in bounded memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import Generator

from tasks.workspace.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.workspace.splits import Split

MAX_DEVICE_SHARE = 0.5  # the part of the GPU's free memory that the images may take
MAX_MAPPED_BYTES = 512 * 2**20  # the size up to which a mapped file may come to be in memory as a whole


class ImageStore:
    """The store keeps images in the memory of a GPU if they fit there, and else maps them from the file.

    Where they are more than `MAX_MAPPED_BYTES`, it reads them from the file one by one, since a mapping does
    not bound memory: for one image, Linux maps up to 2 MB around it.
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
        """Copy images, uint8 `(len(indices), S, S, 3)`, to the device. `RunError` if the file has changed."""
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
    """Sample `count` images of the split, or take all of them: uint8 `(count, S, S, 3)`, on the CPU.

    Without sampling, the first images of a folder could be of one or two classes, since they are in the order
    of their names.
    """
    order = torch.randperm(len(split.labels), generator=Generator().manual_seed(seed))
    return ImageStore(split, torch.device("cpu")).gather(order[:count].sort().values)
