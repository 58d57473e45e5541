"""Batches of the training images: in random order, augmented, normalized, and in bounded memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator, Tensor

from tasks.training.augment import Augmentation, Share
from tasks.training.distributed import Ranks
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
    loss_weight: float = 1.0
    """by which the mean loss counts where the ranks' shares of a batch are uneven; its mean over them is 1"""


class BatchLoader:
    """Has no workers: whole chunks are processed at once, which is faster than images one by one.

    With several ranks, each gets its share of every batch, of the same images as in one process, augmented
    alike. Where images are mixed, every rank computes the whole batch.
    """

    def __init__(
        self,
        data: Split,
        num_classes: int,
        normalize: Normalize,
        config: TrainConfig,
        generator: Generator,
        ranks: Ranks | None = None,
    ) -> None:
        device = normalize.scale.device
        self._images = ImageStore(data, device)
        self._labels = data.labels.to(device)
        self._normalize = normalize
        self._augment = Augmentation(config, len(data.labels), normalize.mean_color, generator)
        self._mix = build_mixing(config, num_classes)
        self._generator = generator
        self._ranks = ranks or Ranks()
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
            batches = torch.split(torch.arange(len(chunk)), self._batch_size)
            own, share = chunk, None
            shares = batches
            if self._ranks.world_size > 1 and self._mix is None:
                shares = tuple(self._ranks.take_share(batch) for batch in batches)
                share = Share(torch.cat(shares), len(chunk))
                own = chunk[share.rows]
            images = self._augment(self._images.gather(own), own, epoch, share)
            labels = self._labels[own.to(self._labels.device)]
            sizes = [len(rows) for rows in shares]
            for batch, images_of, labels_of in zip(
                batches, torch.split(images, sizes), torch.split(labels, sizes), strict=True
            ):
                yield self._finish(images_of, labels_of, len(batch))

    def load_first(self) -> Batch:
        """The first images as they are."""
        first = torch.arange(min(self._batch_size, self.num_images))
        own = self._ranks.take_share(first)
        labels = self._labels[own.to(self._labels.device)]
        return self._weigh(Batch(self._normalize(self._images.gather(own)), labels, labels), len(first))

    def _finish(self, images: Tensor, labels: Tensor, batch_size: int) -> Batch:
        inputs, targets = self._normalize(images), labels
        if self._mix is not None:
            mixed = self._mix(inputs, labels)
            inputs, targets, labels = (self._ranks.take_share(part) for part in (*mixed, labels))
        return self._weigh(Batch(inputs, labels, targets), batch_size)

    def _weigh(self, batch: Batch, batch_size: int) -> Batch:
        return batch._replace(loss_weight=len(batch.labels) * self._ranks.world_size / batch_size)
