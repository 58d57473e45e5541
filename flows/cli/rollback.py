"""The command `cifarflow rollback` makes an earlier champion the champion again."""

from typing import Any

import click

from flows.cli.flow_command import parameter_options, run_flow
from flows.cli.project import enter_project
from flows.parameters import RollbackParameters


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
