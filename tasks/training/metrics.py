"""The metrics of an epoch are those of its steps and of validation; the history, a CSV file, has them all."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from tasks.training import ranks
from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from torch import Tensor, nn

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

    def __init__(self, num_images: int, batch_size: int, device: torch.device) -> None:
        self._num_images = num_images
        # A loss per step, not their sum: only so can an error say at which step the loss was not finite.
        self._losses = torch.empty(math.ceil(num_images / batch_size), device=device)
        self._num_correct = torch.zeros((), dtype=torch.int64, device=device)
        # Batch losses are means, so the epoch's mean weighs them by their sizes; only the last one differs.
        self._batch_sizes = torch.full_like(self._losses, batch_size)
        self._batch_sizes[-1] = num_images - (len(self._losses) - 1) * batch_size
        self.lrs: list[float] = []

    def update(self, loss: Tensor, num_correct: Tensor, lr: float) -> None:
        """Add the next step: the batch's mean loss and its number of correct predictions."""
        self._losses[len(self.lrs)] = loss
        self._num_correct += num_correct
        self.lrs.append(lr)

    def compute(self, epoch: int) -> tuple[float, float, float]:
        """Return mean loss, accuracy, and the last learning rate. `RunError` if a loss is not finite."""
        # Until here nothing was read from the device, so that the host could queue all steps without waiting.
        losses, num_correct = map(ranks.all_reduce, (self._losses, self._num_correct))
        is_finite = torch.isfinite(losses)
        if not is_finite.all():
            step = int((~is_finite).nonzero()[0])
            raise RunError(
                f"the loss is {losses[step].item()} in epoch {epoch}, step {step + 1}, at a learning rate "
                f"of {self.lrs[step]:.4g}; try a lower train.lr"
            )
        mean_loss = ((losses * self._batch_sizes).sum() / self._num_images).item()
        return mean_loss, num_correct.item() / self._num_images, self.lrs[-1]


def validate(
    model: nn.Module, normalize: Normalize, images: ImageStore, labels: Tensor
) -> tuple[float, float]:
    """Return mean loss and accuracy, without test-time augmentation."""
    model.eval()
    logits = predict_logits(model, model, normalize, images, labels)
    is_correct = (logits.argmax(1) == labels).double()
    return F.cross_entropy(logits, labels).item(), is_correct.mean().item()


@torch.inference_mode()
def predict_logits(
    network: nn.Module,
    forward: Callable[[Tensor], Tensor],
    normalize: Normalize,
    images: ImageStore,
    labels: Tensor,
) -> Tensor:
    """Return what `forward`, which runs the network, gives for all images: logits `(N, classes)`."""

    def predict(indices: Tensor) -> Tensor:
        batches = torch.split(indices, VALIDATION_BATCH_SIZE)
        return torch.cat([forward(normalize(images.gather(batch))) for batch in batches])

    return ranks.predict_in_shares(network, predict, torch.arange(len(labels))).to(labels.device)
