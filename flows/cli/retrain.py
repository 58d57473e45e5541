"""The command `cifarflow retrain` starts a retraining, which may ask a person on the terminal."""

import sys
from typing import Any

import click

from flows.cli.flow_command import parameter_options, run_flow
from flows.cli.project import enter_project
from flows.parameters import RetrainParameters
from tasks.workspace.errors import InputError


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
