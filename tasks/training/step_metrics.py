"""`StepMetrics` adds up loss and accuracy of an epoch's steps on the device, without waiting for it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from tasks.workspace.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.training.distributed import Ranks


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
