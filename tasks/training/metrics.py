"""The metrics of an epoch are those of its steps and of validation; the history, a CSV file, has them all."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor, nn

    from tasks.training.distributed import Ranks
    from tasks.training.loader import ImageStore, Normalize

VALIDATION_BATCH_SIZE = 1000


@dataclass(frozen=True)
class EpochMetrics:
    """An epoch's metrics are a row of the history. They hold no time: equal trainings write equal files."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float


def write_history(file: Path, history: Iterable[EpochMetrics]) -> None:
    """Write a CSV `file` with a header and one row per epoch. `RunError` if it cannot be written."""
    with atomic_write(file) as temp_path, temp_path.open("w", newline="", encoding="utf-8") as table:
        rows = csv.DictWriter(table, [field.name for field in fields(EpochMetrics)], lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(metrics) for metrics in history)


class StepMetrics:
    """The metrics cover an epoch of `num_images` images, in batches of `batch_size` or, at last, fewer."""

    def __init__(self, num_images: int, batch_size: int, device: torch.device, ranks: Ranks) -> None:
        self._num_images, self._ranks = num_images, ranks
        self._losses = torch.empty(math.ceil(num_images / batch_size), device=device)
        self._num_correct = torch.zeros((), dtype=torch.int64, device=device)
        self._batch_sizes = torch.full_like(self._losses, batch_size)
        self._batch_sizes[-1] = num_images - (len(self._losses) - 1) * batch_size
        self.lrs: list[float] = []

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor, lr: float) -> None:
        """Add the next step. The mean of `loss` over all ranks must be the mean loss of the batch."""
        self._losses[len(self.lrs)] = loss
        self._num_correct += (logits.argmax(1) == labels).sum()
        self.lrs.append(lr)

    def compute(self, epoch: int) -> tuple[float, float, float]:
        """Return mean loss, accuracy, and the last learning rate. `RunError` if a loss is not finite."""
        losses, num_correct = self._losses, self._num_correct
        if self._ranks.world_size > 1:
            sums = self._ranks.all_reduce(torch.cat([losses.double(), num_correct.double()[None]]))
            losses, num_correct = sums[:-1] / self._ranks.world_size, sums[-1]
        is_finite = torch.isfinite(losses)
        if not is_finite.all():
            step = int((~is_finite).nonzero()[0])
            raise RunError(
                f"the loss is {losses[step].item()} in epoch {epoch}, step {step + 1}, at a learning rate "
                f"of {self.lrs[step]:.4g}; try a lower train.lr"
            )
        mean_loss = ((losses * self._batch_sizes).sum() / self._num_images).item()
        return mean_loss, num_correct.item() / self._num_images, self.lrs[-1]


@torch.inference_mode()
def validate(
    model: nn.Module, normalize: Normalize, images: ImageStore, labels: Tensor, ranks: Ranks
) -> tuple[float, float]:
    """Return mean loss and accuracy, without test-time augmentation; the images are shared among the ranks.

    All ranks use the running statistics of batch normalization of rank 0, whose model is the one saved.
    """
    ranks.broadcast_buffers(model)
    model.eval()
    own = ranks.take_share(torch.arange(len(labels)))
    logits = torch.cat(
        [model(normalize(images.gather(batch))) for batch in torch.split(own, VALIDATION_BATCH_SIZE)]
    )
    labels = labels[own.to(labels.device)]
    loss, is_correct = F.cross_entropy(logits, labels), (logits.argmax(1) == labels).double()
    if ranks.world_size == 1:
        return loss.item(), is_correct.mean().item()
    sums = torch.stack([loss.double() * len(labels), is_correct.sum(), is_correct.new_tensor(len(labels))])
    loss_sum, num_correct, num_images = ranks.all_reduce(sums).tolist()
    return loss_sum / num_images, num_correct / num_images
