"""These generators show the progress of an epoch, and estimate how long a long training takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    ProgressCallback = Callable[[float, str], None]

T = TypeVar("T")

REPORT_EVERY_N_BATCHES = 50
TIMED_STEPS = range(1, 4)  # the first step is slower
ESTIMATE_THRESHOLD_S = 600.0  # shorter trainings start without an estimate


def show_progress(
    batches: Iterable[T], num_batches: int, epoch: int, num_epochs: int, callback: ProgressCallback | None
) -> Iterator[T]:
    """Yield the batches of an epoch and show how many are done.

    `callback` receives the fraction of all epochs that is done, 0 to 1, and a description. Without it, a
    terminal shows a bar.
    """
    description = f"epoch {epoch}/{num_epochs}"
    if callback is None:
        yield from tqdm(batches, description, num_batches, leave=False, unit=" batches", disable=None)
        return
    for i, batch in enumerate(batches):
        yield batch
        if i % REPORT_EVERY_N_BATCHES == 0:
            fraction = i / num_batches
            callback((epoch - 1 + fraction) / num_epochs, f"{description}, {fraction:.0%}")
    callback(epoch / num_epochs, description)


def print_estimate(batches: Iterable[T], num_steps: float, description: str) -> Iterator[T]:
    """Yield the batches; after a few of them, print how long `num_steps` steps will take, if long."""
    began = 0.0
    for step, batch in enumerate(batches):
        if step == TIMED_STEPS.start:
            began = time.perf_counter()
        yield batch
        if step == TIMED_STEPS[-1]:
            step_s = (time.perf_counter() - began) / len(TIMED_STEPS)
            if num_steps * step_s > ESTIMATE_THRESHOLD_S:
                hours = num_steps * step_s / 3600
                print(f"estimated training time: {hours:.1f} hours ({description} of {step_s:.2f} s)")
