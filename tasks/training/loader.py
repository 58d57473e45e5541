"""Batches of the training images: in random order, augmented, normalized, and in bounded memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator, Tensor

from tasks.training.augment import Augmentation
from tasks.training.image_store import ImageStore
from tasks.training.mixing import build_mixing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.params.train import TrainConfig
    from tasks.training.normalize import Normalize
    from tasks.workspace.splits import Split

# Images are gathered and augmented by so many bytes, in whole batches; a GPU has more to do at once.
CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 2**30}


class Batch(NamedTuple):
    inputs: Tensor
    """float32 `(B, 3, S, S)`, channels last in memory"""
    labels: Tensor
    """int64 `(B,)`"""
    targets: Tensor
    """the labels, or where images were mixed the probability of each class, float32 `(B, num_classes)`"""


class BatchLoader:
    """Has no workers: whole chunks are processed at once, which is faster than images one by one."""

    def __init__(
        self, data: Split, num_classes: int, normalize: Normalize, config: TrainConfig, generator: Generator
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
        """Batches per epoch; the last one may be smaller."""
        return math.ceil(self.num_images / self._batch_size)

    @property
    def uses_global_generator(self) -> bool:
        """Whether torchvision's transforms draw from PyTorch's global generator."""
        return self._augment.uses_global_generator or self._mix is not None

    def load_epoch(self, epoch: int) -> Iterator[Batch]:
        """All images once, as this epoch shows them; epochs count from 1."""
        order = torch.randperm(self.num_images, generator=self._generator)
        for chunk in torch.split(order, self._chunk_size):
            images = self._augment(self._images.gather(chunk), chunk, epoch)
            labels = self._labels[chunk.to(self._labels.device)]
            size = self._batch_size
            for batch in zip(torch.split(images, size), torch.split(labels, size), strict=True):
                yield self._finish(*batch)

    def load_first(self) -> Batch:
        """The first images as they are."""
        first = torch.arange(min(self._batch_size, self.num_images))
        labels = self._labels[: len(first)]
        return Batch(self._normalize(self._images.gather(first)), labels, labels)

    def _finish(self, images: Tensor, labels: Tensor) -> Batch:
        inputs, targets = self._normalize(images), labels
        if self._mix is not None:
            inputs, targets = self._mix(inputs, labels)
        return Batch(inputs, labels, targets)
