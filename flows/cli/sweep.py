"""The command `cifarflow sweep` trains once per seed."""

from typing import Any

import click

from flows.cli.flow_command import load_overrides, parameter_options, recipe_option, run_flow, set_option
from flows.cli.project import enter_project
from flows.parameters import SweepParameters


@click.command()
@parameter_options(SweepParameters)
@set_option("SECTION.KEY=VALUE", "Override a parameter for this sweep only (repeatable).")
@recipe_option("Use a recipe's parameters for this sweep.")
def sweep(*, set_params: tuple[str, ...], recipe: str | None, **values: Any) -> None:
    """Train with several seeds; write mean and standard deviation to reports/sweep.json.

    It needs the splits: cifarflow run, or python -m tasks split. An interrupted sweep resumes where it
    stopped.

    \b
    Examples:
      cifarflow sweep
      cifarflow sweep --recipe fast94 --seeds 20 --jobs 4
    """
    enter_project()
    overrides = load_overrides(set_params, recipe)
    run_flow("flows.sweep", "sweep", SweepParameters, **values, overrides=overrides)
