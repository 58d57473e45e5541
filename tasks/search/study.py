"""Parse what a search varies, and choose the next trials with Optuna.

A trial is one training with certain values. Optuna is asked for all trials of a batch before it is told any
result of them, and the sampler's seed follows from the number of the batch's first trial. So it makes no
difference what runs in parallel, in which order it ends, and whether the study was interrupted: a repeated
study has the same trials.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from tasks.overrides import parse_value
from tasks.params import Params
from tasks.params.train import TrainConfig
from tasks.validation import load_yaml, validate
from tasks.workspace.errors import InputError, RunError

RANGE, LOG = "..", "log:"
EXAMPLE = "such as train.lr=log:0.001..0.02, train.epochs=10..50 or train.optimizer=adam,adamw"
REDUCTION_FACTOR = 3
"""successive halving: the best third of the trials goes on, and is trained three times as long"""
NUM_RUNGS = 3
"""number of steps of a training: a ninth, a third, and all of its epochs"""


def parse_space(texts: Iterable[str]) -> dict[str, BaseDistribution]:
    """Return a distribution by name for each parameter of `train`; `InputError` if a text is wrong."""
    space: dict[str, BaseDistribution] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        section, _, name = key.partition(".")
        if not equals or section != "train":
            raise InputError(f"--over {text}: expected train.KEY=VALUES, {EXAMPLE}")
        if name not in TrainConfig.model_fields:
            known = ", ".join(TrainConfig.model_fields)
            raise InputError(f"--over {text}: train has no {name}; its parameters are {known}")
        if name in space:
            raise InputError(f"--over {text}: train.{name} is given twice")
        space[name] = _parse_values(text, name, values)
    if not space:
        raise InputError(f"nothing to search; name parameters with --over, {EXAMPLE}")
    return space


def read_space_file(file: Path) -> list[str]:
    """Read a YAML file that maps `train.KEY` to values, and return texts for `parse_space`."""
    content = load_yaml(file)
    if not isinstance(content, dict):
        raise InputError(f"{file} should map train.KEY to values, {EXAMPLE}")
    return [
        f"{key}={','.join(map(str, values)) if isinstance(values, list) else values}"
        for key, values in content.items()
    ]


def check_space(params: Params, space: Mapping[str, BaseDistribution]) -> None:
    """Raise `InputError` unless both ends of every range, and all values of every list, are allowed."""
    for name, distribution in space.items():
        for value in _end_values(distribution):
            values = params.model_dump()
            values["train"][name] = value
            validate(Params, values, f"--over train.{name}")


def grid(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Return all combinations; the last parameter varies fastest. `InputError` for a range of floats."""
    axes = []
    for name, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            axes.append(list(distribution.choices))
        elif isinstance(distribution, IntDistribution) and not distribution.log:
            axes.append(list(range(distribution.low, distribution.high + 1)))
        else:
            raise InputError(f"a grid needs a list of values for train.{name}, such as train.{name}=1,2,3")
    return [dict(zip(space, values, strict=True)) for values in product(*axes)]


def _parse_values(text: str, name: str, values: str) -> BaseDistribution:
    is_log = values.startswith(LOG)
    low_text, is_range, high_text = values.removeprefix(LOG).partition(RANGE)
    if not is_range:
        if is_log:
            raise InputError(f"--over {text}: log: needs a range, {EXAMPLE}")
        choices = [parse_value(text, value) for value in values.split(",")]
        return CategoricalDistribution(choices)
    low, high = (parse_value(text, end) for end in (low_text, high_text))
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
            raise InputError(f"--over {text}: a range needs two numbers, {EXAMPLE}")
    if not low < high or (is_log and low <= 0):
        rule = "greater than 0, and the first smaller" if is_log else "the first smaller"
        raise InputError(f"--over {text}: the ends of the range must be {rule}")
    if TrainConfig.model_fields[name].annotation is int:
        if not isinstance(low, int) or not isinstance(high, int):
            raise InputError(f"--over {text}: train.{name} takes integers")
        return IntDistribution(low, high, log=is_log)
    return FloatDistribution(float(low), float(high), log=is_log)


def _end_values(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return [distribution.low, distribution.high]


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
