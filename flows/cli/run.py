"""The command `cifarflow run` runs the pipeline, in the project or on a generated sample."""

import sys
from pathlib import Path
from typing import Any

import click

from flows.cli.flow_command import load_overrides, parameter_options, recipe_option, run_flow, set_option
from flows.cli.project import enter_project
from flows.parameters import PipelineParameters
from tasks.params import PARAMS, read_params


@click.command()
@set_option("SECTION.KEY=VALUE", "Override a parameter, in params.yaml (repeatable).")
@recipe_option("Start from a recipe, in params.yaml; --set takes precedence.")
@parameter_options(PipelineParameters)
@click.option("--sample", is_flag=True, help="Run on a small generated sample, in the directory sample/.")
@click.option(
    "--sample-fallback",
    is_flag=True,
    help="Fall back to the generated sample if CIFAR-10 cannot be downloaded.",
)
def run(
    set_params: tuple[str, ...], *, recipe: str | None, sample: bool, sample_fallback: bool, **values: Any
) -> None:
    """Run the pipeline as a Prefect flow. Stages that are up to date are skipped.

    \b
    Examples:
      cifarflow run
      cifarflow run --set train.epochs=5 --set train.lr=0.0005
      cifarflow run --recipe net76
      cifarflow run --sample
    """
    from tasks.download import DataUnavailableError

    enter_project()
    page = Path(read_params(PARAMS).paths.page)
    values["overrides"] = load_overrides(set_params, recipe)
    if not sample:
        retries = {"download_retries": 0} if sample_fallback else {}
        try:
            run_flow("flows.pipeline", "pipeline", PipelineParameters, **values, **retries)
        except DataUnavailableError as error:
            if not sample_fallback:
                raise
            print(f"{error}\nRunning on a generated sample instead, in sample/.", file=sys.stderr)
        else:
            _print_next_steps(page)
            return

    from flows.cli.sample_workspace import prepare_sample_workspace

    workspace = prepare_sample_workspace(Path(), wait=values["wait"])
    run_flow("flows.pipeline", "pipeline", PipelineParameters, **values, workspace=workspace)
    print("These results are for the generated sample, not CIFAR-10. They are in sample/reports/.")
    _print_next_steps("sample" / page)


def _print_next_steps(page: Path) -> None:
    print(f"Next: open {page} in a browser, or classify an image: cifarflow predict IMAGE")
