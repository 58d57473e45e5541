"""Learning rate schedules change the learning rate at every step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

    from tasks.params.train import TrainConfig


def build_lr_scheduler(optimizer: Optimizer, config: TrainConfig, steps_per_epoch: int) -> LambdaLR:
    """Build the scheduler; parameter groups with `whiten_bias` set have a schedule of their own."""
    return LambdaLR(
        optimizer,
        [
            whitening_lr_lambda(config, steps_per_epoch)
            if group.get("whiten_bias")
            else lr_lambda(config, steps_per_epoch)
            for group in optimizer.param_groups
        ],
    )


def lr_lambda(config: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Return a function from the step, counted from 0, to the factor by which `lr` is multiplied.

    A linear warm-up comes first, then `lr_schedule`: `cosine` falls along half a cosine (Loshchilov and
    Hutter, "SGDR", 2017, without restarts), `linear` along a straight line. Both would reach 0 one step after
    the last.
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    decay_steps = max(config.epochs * steps_per_epoch - warmup_steps, 1)

    def compute_factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if config.lr_schedule == "constant":
            return 1.0
        progress = min((step - warmup_steps) / decay_steps, 1.0)
        return 1 - progress if config.lr_schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))

    return compute_factor


def whitening_lr_lambda(config: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the same for the whitening layer's bias: the factor decays to 0 before the bias is frozen."""
    steps = config.whiten_bias_epochs * steps_per_epoch
    return lambda step: 1 - step / steps if step < steps else 0.0
