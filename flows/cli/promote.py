"""The command `cifarflow promote` makes a model the champion because a person decides so."""

from pathlib import Path
from typing import Any

import click

from flows.cli.flow_command import parameter_options, run_flow
from flows.cli.project import enter_project
from flows.parameters import PromoteParameters


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
