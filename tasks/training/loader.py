"""`BatchLoader` makes batches of the training images: shuffled, augmented, normalized, in bounded memory."""

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

# The size of a chunk of whole batches, which is gathered and augmented at once. A GPU needs more images at
# once than a CPU to be busy.
CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 2**30}


class Batch(NamedTuple):
    """A batch is what one training step takes: with several ranks, this rank's share of it."""

    inputs: Tensor
    """normalized images, float32 `(B, 3, S, S)`, channels last in memory"""
    labels: Tensor
    """the class of each image, int64 `(B,)`"""
    targets: Tensor
    """the labels or, with MixUp or CutMix, the probability of each class, float32 `(B, num_classes)`"""
    loss_weight: float = 1.0
    """factor of the mean loss that makes up for ranks with uneven shares of the batch; its mean is 1"""


class BatchLoader:
    """A loader processes chunks of many batches at once, which is faster than workers with single images.

    In a training with several processes (`ranks`), each rank gets its share of every batch. A batch has the
    same images, with the same augmentation, for any number of ranks. MixUp and CutMix combine images of the
    whole batch, so every rank then computes all of it and keeps its share.
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
        """Return the number of batches per epoch; the last one may be smaller."""
        return math.ceil(self.num_images / self._batch_size)

    @property
    def uses_global_generator(self) -> bool:
        """Whether torchvision's transforms draw from PyTorch's global generator."""
        return self._augment.uses_global_generator or self._mix is not None

    def load_epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield all images once, in batches, in the order and augmentation of this epoch (from 1)."""
        # Every rank draws the same order, since all have a generator in the same state.
        order = torch.randperm(self.num_images, generator=self._generator)
        # A chunk is as many images as memory may hold at once: whole batches, so that none spans two chunks.
        for chunk in torch.split(order, self._chunk_size):
            # Rows are positions in the chunk, not in the data set: augmentation draws per row, for all rows,
            # so that an image has the same augmentation whichever rank computes it.
            batch_rows = torch.split(torch.arange(len(chunk)), self._batch_size)
            indices, share = chunk, None
            rank_rows = batch_rows
            if self._ranks.world_size > 1 and self._mix is None:
                # The share is taken per batch, not per chunk, so that each step has the same batch as in one
                # process.
                rank_rows = tuple(self._ranks.take_share(rows) for rows in batch_rows)
                share = Share(torch.cat(rank_rows), len(chunk))
                indices = chunk[share.rows]
            images = self._augment(self._images.gather(indices), indices, epoch, share)
            labels = self._labels[indices.to(self._labels.device)]
            # The chunk is cut into batches again; a rank's part of a batch may be smaller than the batch.
            sizes = [len(rows) for rows in rank_rows]
            for rows, batch_images, batch_labels in zip(
                batch_rows, torch.split(images, sizes), torch.split(labels, sizes), strict=True
            ):
                yield self._finish(batch_images, batch_labels, len(rows))

    def load_first(self) -> Batch:
        """Return the first batch of the data set, neither shuffled nor augmented, for warming up."""
        first = torch.arange(min(self._batch_size, self.num_images))
        indices = self._ranks.take_share(first)
        labels = self._labels[indices.to(self._labels.device)]
        return self._weigh(Batch(self._normalize(self._images.gather(indices)), labels, labels), len(first))

    def _finish(self, images: Tensor, labels: Tensor, batch_size: int) -> Batch:
        """Normalize the images, and mix them if `config` says so; `batch_size` counts those of all ranks."""
        inputs, targets = self._normalize(images), labels
        if self._mix is not None:
            # Every rank has the whole batch here and mixes it alike; only now it takes its share.
            mixed = self._mix(inputs, labels)
            inputs, targets, labels = (self._ranks.take_share(part) for part in (*mixed, labels))
        return self._weigh(Batch(inputs, labels, targets), batch_size)

    def _weigh(self, batch: Batch, batch_size: int) -> Batch:
        # DistributedDataParallel averages gradients over ranks, as if all had equally many images.
        return batch._replace(loss_weight=len(batch.labels) * self._ranks.world_size / batch_size)
