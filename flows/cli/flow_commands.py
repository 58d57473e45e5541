"""Commands that run a Prefect flow: run, retrain, rollback, promote, toys."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from flows.cli.flow_options import (
    load_overrides,
    parameter_options,
    raise_on_failure,
    recipe_option,
    run_flow,
    set_option,
)
from flows.cli.project import enter_project
from flows.parameters import PipelineParameters, PromoteParameters, RetrainParameters, RollbackParameters
from tasks.params import PARAMS, read_params
from tasks.workspace.errors import InputError


@click.command()
@set_option("SECTION.KEY=VALUE", "Override a parameter, in params.yaml (repeatable).")
@recipe_option("Start from a recipe (talk, net76, fast94, strong96 or a YAML file). --set takes precedence.")
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


@click.command()
@parameter_options(RetrainParameters)
def retrain(*, approve: bool, **values: Any) -> None:
    """Ingest incoming/CLASS/*, run the pipeline and promote the new model if it is better.

    \b
    Examples:
      cifarflow retrain
      cifarflow retrain --push --commit
      cifarflow retrain --approve
    """
    if approve and not sys.stdin.isatty():
        raise InputError("--approve asks on the terminal, but standard input is not one")
    enter_project()
    run_flow("flows.retrain", "retrain", RetrainParameters, approve=approve, **values)


@click.command()
@click.argument("version", required=False, type=click.IntRange(1))
@parameter_options(RollbackParameters)
def rollback(version: int | None, **values: Any) -> None:
    """Roll back to the previous champion, or to VERSION of the ledger.

    \b
    Examples:
      cifarflow rollback
      cifarflow rollback 3
    """
    enter_project()
    run_flow("flows.rollback", "rollback", RollbackParameters, version=version, **values)


@click.command()
@click.argument("model")
@parameter_options(PromoteParameters)
def promote(model: str, **values: Any) -> None:
    """Promote a model that was rejected or rolled back, or awaits approval.

    MODEL is its version in the ledger or its ONNX file.

    \b
    Examples:
      cifarflow promote 7 --reason "half of the classes are new"
      cifarflow promote artifacts/model.onnx --reason "faster on the new machine"
    """
    model = model if model.isdecimal() else str(Path(model).absolute())
    enter_project()
    run_flow("flows.rollback", "promote", PromoteParameters, model=model, **values)


@click.command()
@click.argument("name", required=False)
@set_option("KEY=VALUE", "Override a toy's parameter (repeatable).")
def toys(name: str | None, set_params: tuple[str, ...]) -> None:
    """Run a toy, the talk's examples as Prefect flows, or all of them. Without a NAME: list them.

    NAME is a toy or `all`. A toy prints its table and saves its figure in reports/toys/.

    \b
    Examples:
      cifarflow toys
      cifarflow toys neuron --set w1=2 --set activation=tanh
      cifarflow toys all
    """
    from flows.toys.catalog import TOYS, load_flow, validate_name

    if name is None:
        if set_params:
            raise InputError("--set needs the NAME of a toy; cifarflow toys lists them")
        print("\n".join(f"{toy:<18} {description}" for toy, description in TOYS.items()))
        print("\nRun one with: cifarflow toys NAME, all of them with: cifarflow toys all")
        return
    names = list(TOYS) if name == "all" else [validate_name(name)]
    if name == "all" and set_params:
        raise InputError("--set needs the NAME of one toy, not all")
    with contextlib.suppress(InputError):  # outside a project, a toy writes to the current directory
        enter_project()

    from flows.cli.console import prefect_console
    from flows.server.connection import connect_to_server

    with prefect_console() as update_status:
        arguments: dict[str, Any] = {}
        if set_params:  # the parameters are checked before a server starts
            from flows.toys.base import parse_parameters

            arguments = parse_parameters(load_flow(names[0]), set_params)
        with connect_to_server(preload=["flows.toys.base"]):
            for toy in names:
                update_status(toy)
                raise_on_failure(load_flow(toy)(**arguments, return_state=True))


COMMANDS = (run, retrain, rollback, promote, toys)


def _print_next_steps(page: Path) -> None:
    print(f"Next: open {page} in a browser, or classify an image: cifarflow predict IMAGE")
