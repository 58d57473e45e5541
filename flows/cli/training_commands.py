"""Commands that train many times: sweep, search."""

from pathlib import Path

import click

from flows.cli.flow_options import (
    load_overrides,
    recipe_option,
    run_flow,
    set_option,
    wait_option,
)
from flows.cli.project import enter_project

jobs_option = click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), default=1, help="Number of parallel trainings (default: 1)."
)
on_option = click.option(
    "--on", "address", metavar="ADDRESS", help="A Dask scheduler, such as tls://host:8786, to train on."
)


@click.command()
@click.option(
    "--seeds",
    type=click.IntRange(2, 1000),
    default=5,
    help="Number of seeds, starting at train.seed (default: 5).",
)
@jobs_option
@on_option
@set_option("SECTION.KEY=VALUE", "Override a parameter for this sweep only (repeatable).")
@recipe_option("Use a recipe's parameters for this sweep.")
@wait_option
def sweep(
    *,
    seeds: int,
    jobs: int,
    address: str | None,
    set_params: tuple[str, ...],
    recipe: str | None,
    wait: bool,
) -> None:
    """Train with several seeds; write mean and standard deviation to reports/sweep.json.

    It needs the splits: cifarflow run, or python -m tasks split. An interrupted sweep resumes where it
    stopped.

    \b
    Examples:
      cifarflow sweep
      cifarflow sweep --recipe fast94 --seeds 20 --jobs 4
    """
    enter_project()
    run_flow(
        "flows.sweep",
        "sweep",
        num_seeds=seeds,
        jobs=jobs,
        address=address,
        overrides=load_overrides(set_params, recipe),
        wait=wait,
    )


@click.command()
@click.option(
    "--over",
    "space",
    multiple=True,
    metavar="train.KEY=VALUES",
    help="What to search: log:0.001..0.02, 0..0.3, 10..50 or adam,adamw (repeatable).",
)
@click.option(
    "--file",
    "space_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A YAML file of the same: train.KEY: VALUES.",
)
@click.option("--trials", type=click.IntRange(1, 100_000), default=32, help="How many (default: 32).")
@click.option(
    "--batch", type=click.IntRange(1, 1000), default=4, help="Trials proposed at once (default: 4)."
)
@click.option("--sampler", type=click.Choice(["tpe", "random", "grid"]), default="tpe", help="Default: tpe.")
@click.option("--prune", is_flag=True, help="Stop the worse two thirds of a batch early, twice.")
@click.option("--name", default="found", help="The recipe to write: recipes/NAME.yaml (default: found).")
@click.option("--storage", metavar="URL", help="A database for the study; default: a file in artifacts/.")
@jobs_option
@on_option
@set_option("SECTION.KEY=VALUE", "Override a parameter for this search only (repeatable).")
@recipe_option("Start from a recipe's parameters.")
@wait_option
def search(
    *,
    space: tuple[str, ...],
    space_file: Path | None,
    trials: int,
    batch: int,
    sampler: str,
    prune: bool,
    name: str,
    storage: str | None,
    jobs: int,
    address: str | None,
    set_params: tuple[str, ...],
    recipe: str | None,
    wait: bool,
) -> None:
    """Search hyperparameters by validation accuracy; write the best as a recipe.

    The same command gives the same trials, on any number of workers, and goes on where it was interrupted.
    It needs the splits: cifarflow run, or python -m tasks split.

    \b
    Examples:
      cifarflow search --over train.lr=log:0.001..0.02 --over train.weight_decay=0..0.3
      cifarflow search --recipe net76 --over train.optimizer=adamw,sgd --trials 64 --batch 8 --jobs 2
    """
    if space_file is not None:
        space_file = space_file.absolute()
    enter_project()
    from tasks.search.space import read_space_file

    if space_file is not None:
        space = (*space, *read_space_file(space_file))
    run_flow(
        "flows.search",
        "search",
        space=list(space),
        num_trials=trials,
        batch=batch,
        sampler=sampler,
        prune=prune,
        recipe_name=name,
        storage=storage,
        jobs=jobs,
        address=address,
        overrides=load_overrides(set_params, recipe),
        wait=wait,
    )


COMMANDS = (sweep, search)
