"""Parse what a search varies, such as `train.lr=log:0.001..0.02` or `train.optimizer=adam,adamw`."""

import math
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tasks.overrides import parse_value
from tasks.params import Params
from tasks.params.train import TrainConfig
from tasks.validation import load_yaml, validate
from tasks.workspace.errors import InputError

RANGE, LOG = "..", "log:"
EXAMPLE = "such as train.lr=log:0.001..0.02, train.epochs=10..50 or train.optimizer=adam,adamw"


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
