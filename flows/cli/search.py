"""The command `cifarflow search` searches hyperparameters by validation accuracy."""

from pathlib import Path
from typing import Any

import click

from flows.cli.flow_command import load_overrides, parameter_options, recipe_option, run_flow, set_option
from flows.cli.project import enter_project
from flows.parameters import SearchParameters


@click.command()
@parameter_options(SearchParameters)
@click.option(
    "--file",
    "space_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A YAML file of the same as --over: train.KEY: VALUES.",
)
@set_option("SECTION.KEY=VALUE", "Override a parameter for this search only (repeatable).")
@recipe_option("Start from a recipe's parameters.")
def search(
    *,
    space: tuple[str, ...],
    space_file: Path | None,
    set_params: tuple[str, ...],
    recipe: str | None,
    **values: Any,
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
        from tasks.search.study import read_space_file

        space = (*space, *read_space_file(space_file.absolute()))
    if not space:
        raise click.UsageError("nothing to search; give --over train.lr=log:0.001..0.02, or a --file")
    enter_project()
    overrides = load_overrides(set_params, recipe)
    run_flow("flows.search", "search", SearchParameters, **values, space=list(space), overrides=overrides)
