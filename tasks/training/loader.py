"""`BatchLoader` makes batches of the training images: shuffled, augmented, normalized, in bounded memory."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator, Tensor

from tasks.training.augment import Augmentation, build_mixing
from tasks.workspace.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.params.train import TrainConfig
    from tasks.workspace.splits import Split

MAX_DEVICE_SHARE = 0.5  # the part of the GPU's free memory that the images may take
MAX_MAPPED_BYTES = 512 * 2**20  # the size up to which a mapped file may come to be in memory as a whole
# The size of a chunk of whole batches, which is gathered and augmented at once. A GPU needs more images at
# once than a CPU to be busy.
CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 2**30}


class Batch(NamedTuple):
    """A batch is what one training step takes."""

    inputs: Tensor
    """normalized images, float32 `(B, 3, S, S)`, channels last in memory"""
    labels: Tensor
    """the class of each image, int64 `(B,)`"""
    targets: Tensor
    """the labels or, with MixUp or CutMix, the probability of each class, float32 `(B, num_classes)`"""


class BatchLoader:
    """A loader processes chunks of many batches at once, which is faster than workers with single images."""

    def __init__(
        self,
        data: Split,
        num_classes: int,
        normalize: Normalize,
        config: TrainConfig,
        generator: Generator,
    ) -> None:
        device = normalize.scale.device
        self._images = ImageStore(data, device)
        self._labels = data.labels.to(device)
        self._normalize = normalize
        self._augment = Augmentation(config, len(data.labels), normalize.mean_color, generator)
        self._mix = build_mixing(config, num_classes)
        self._generator = generator
        self._batch_size = config.batch_size
        bytes_per_batch = config.batch_size * self._images.image_bytes
        self._chunk_size = max(1, CHUNK_BYTES[device.type] // bytes_per_batch) * config.batch_size
        self.num_images = len(data.labels)

    def __len__(self) -> int:
        """Return the number of batches per epoch; the last one may be smaller."""
        return math.ceil(self.num_images / self._batch_size)

    @property
    def uses_global_generator(self) -> bool:
        """Whether torchvision's transforms draw from PyTorch's global generator."""
        return self._augment.uses_global_generator or self._mix is not None

    def load_epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield all images once, in batches, in the order and augmentation of this epoch (from 1)."""
        order = torch.randperm(self.num_images, generator=self._generator)
        # A chunk is as many images as memory may hold at once: whole batches, so that none spans two chunks.
        for chunk in torch.split(order, self._chunk_size):
            # One call augments the whole chunk, since calls for single batches would leave a GPU idle.
            images = self._augment(self._images.gather(chunk), chunk, epoch)
            labels = self._labels[chunk.to(self._labels.device)]
            # Normalization makes four times as many bytes, so it comes last, for one batch at a time.
            for batch_images, batch_labels in zip(
                torch.split(images, self._batch_size), torch.split(labels, self._batch_size), strict=True
            ):
                inputs, targets = self._normalize(batch_images), batch_labels
                if self._mix is not None:
                    inputs, targets = self._mix(inputs, targets)
                yield Batch(inputs, batch_labels, targets)

    def load_first(self) -> Batch:
        """Return the first batch of the data set, neither shuffled nor augmented, for warming up."""
        first = torch.arange(min(self._batch_size, self.num_images))
        labels = self._labels[first.to(self._labels.device)]
        return Batch(self._normalize(self._images.gather(first)), labels, labels)


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
        # Each image is read at its place in the file, straight into the tensor's own memory.
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


class Normalize:
    """Normalization maps uint8 `(N, S, S, 3)` to float32 `(N, 3, S, S)`, with the channels last in memory.

    S is `image_size`; `mean` and `std` are per channel, for values in 0 to 1. The values equal those of
    `Classifier.normalize`, which the export traces, up to rounding. A multiplication and an addition over
    rows of values are several times as fast as broadcasting one value per channel.
    """

    def __init__(self, mean: list[float], std: list[float], image_size: int, device: torch.device) -> None:
        # (x / 255 - mean) / std, as one factor and one summand per channel, computed in float64. They are
        # repeated for all pixels, so that a flattened image is multiplied element by element.
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        shift = -255 * torch.tensor(mean, dtype=torch.float64) * scale
        self.scale = scale.float().repeat(image_size**2).to(device)
        self.shift = shift.float().repeat(image_size**2).to(device)
        self.mean_color = (255 * torch.tensor(mean)).round().to(torch.uint8).to(device)
        """uint8 `(3,)`: the mean color, which is normalized to 0 up to rounding"""

    def __call__(self, images: Tensor) -> Tensor:
        rows = torch.mul(images.flatten(1), self.scale).add_(self.shift)
        # The pixels stay where they are; the view only names the channels first, as PyTorch's layers want.
        return rows.view(images.shape).permute(0, 3, 1, 2)
