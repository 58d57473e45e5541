"""Choose the next trials with Optuna, in batches, so that a repeated study has the same trials.

A trial is one training with certain values. Optuna is asked for all trials of a batch before it is told any
result of them, and the sampler's seed follows from the number of the batch's first trial. So it makes no
difference what runs in parallel, in which order it ends, and whether the study was interrupted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from tasks.search.space import grid
from tasks.workspace.errors import InputError, RunError

REDUCTION_FACTOR = 3
"""successive halving: the best third of the trials goes on, and is trained three times as long"""
NUM_RUNGS = 3
"""number of steps of a training: a ninth, a third, and all of its epochs"""


@dataclass(frozen=True)
class Trial:
    """One training, with values that Optuna chose."""

    number: int
    values: dict[str, Any]
    """values of the parameters of `train` that are searched"""


class Study:
    """A search for the highest validation accuracy. `storage` is a file, or the URL of a database."""

    def __init__(
        self, storage: str, name: str, space: Mapping[str, BaseDistribution], sampler: str, seed: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._sampler, self._seed = dict(space), sampler, seed
        self.name = name
        try:
            self._study = optuna.create_study(
                storage=_open_storage(storage), study_name=name, direction="maximize", load_if_exists=True
            )
        except Exception as error:  # The database's driver may raise anything.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RunError(f"cannot open the study in {storage}: {reason}") from error

    def next_batch(self, size: int, num_trials: int) -> list[Trial]:
        """Return the rest of an interrupted batch, or up to `size` new trials; none after `num_trials`."""
        known = self._study.get_trials(deepcopy=False)
        unfinished = _unfinished(known, num_trials)
        count = min(size, num_trials - len(known))
        if not unfinished and count > 0:
            self._study.sampler = self._make_sampler(len(known))
            if self._sampler == "grid":
                for values in grid(self._space)[len(known) : len(known) + count]:
                    self._study.enqueue_trial(values)
            for _ in range(count):
                self._study.ask(self._space)
            unfinished = _unfinished(self._study.get_trials(deepcopy=False), num_trials)
        return [Trial(trial.number, dict(trial.params)) for trial in unfinished]

    def tell(self, trial: Trial, accuracy: float | None, *, pruned: bool = False) -> None:
        """Tell Optuna a trial's validation accuracy, or None where the trial failed or was pruned."""
        if accuracy is not None:
            self._study.tell(trial.number, accuracy)
        else:
            self._study.tell(trial.number, state=TrialState.PRUNED if pruned else TrialState.FAIL)

    def finished(self) -> list[FrozenTrial]:
        """Return all trials whose result was told, in the order of their numbers."""
        return [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.is_finished()]

    def best(self) -> Trial:
        """Return the first trial with the highest accuracy. `RunError` if no trial was trained to its end."""
        whole = [trial for trial in self.finished() if trial.state == TrialState.COMPLETE]
        if not whole:
            raise RunError("no trial was trained to its end")
        best = max(whole, key=lambda trial: (trial.value, -trial.number))
        return Trial(best.number, dict(best.params))

    def importances(self) -> dict[str, float]:
        """Return the importance of each parameter (PED-ANOVA), which add to 1; empty with too few trials."""
        if len({trial.value for trial in self.finished() if trial.state == TrialState.COMPLETE}) < 4:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(self._study, evaluator=evaluator))

    def _make_sampler(self, first: int) -> BaseSampler:
        seed = (self._seed * 1_000_003 + first) % 2**32
        if self._sampler == "random":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, constant_liar=True)


def _unfinished(trials: Sequence[FrozenTrial], num_trials: int) -> list[FrozenTrial]:
    return [trial for trial in trials[:num_trials] if trial.state == TrialState.RUNNING]


def plan_rungs(epochs: int) -> list[int]:
    """Return the numbers of epochs after which successive halving compares the trials of a batch.

    The last of them is the full training.
    """
    rungs = {math.ceil(epochs / REDUCTION_FACTOR**power) for power in range(NUM_RUNGS)}
    return sorted(rungs)


def promote_trials(accuracies: Mapping[int, float]) -> list[int]:
    """Return the numbers of the best third of the trials that were compared; at least one."""
    order = sorted(accuracies, key=lambda number: (-accuracies[number], number))
    return sorted(order[: math.ceil(len(order) / REDUCTION_FACTOR)])


def _open_storage(storage: str) -> BaseStorage:
    if "://" in storage:
        return RDBStorage(storage)
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(storage))


def check_sampler(sampler: str, space: Mapping[str, BaseDistribution], num_trials: int) -> int:
    """Return the number of trials, which a grid limits to the number of its points."""
    if sampler != "grid":
        return num_trials
    points: Sequence[dict[str, Any]] = grid(space)
    if not points:
        raise InputError("the grid has no points")
    return min(num_trials, len(points))
