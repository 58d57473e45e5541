"""The command `cifarflow toys` runs the talk's examples."""

import contextlib
from typing import Any

import click

from flows.cli.flow_command import prefect_console, raise_on_failure, set_option
from flows.cli.project import enter_project
from flows.toys.catalog import TOYS, load_flow, validate_name
from tasks.workspace.errors import InputError


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
    if name is None:
        if set_params:
            raise InputError("--set needs the NAME of a toy; cifarflow toys lists them")
        print("\n".join(f"{toy:<18} {description}" for toy, description in TOYS.items()))
        print("\nRun one with: cifarflow toys NAME, all of them with: cifarflow toys all")
        return
    names = list(TOYS) if name == "all" else [validate_name(name)]
    if name == "all" and set_params:
        raise InputError("--set needs the NAME of one toy, not all")
    with contextlib.suppress(InputError):  # Outside a project, a toy writes to the current directory.
        enter_project()

    with prefect_console() as update_status:
        arguments: dict[str, Any] = {}
        if set_params:  # The parameters are checked before a server starts.
            from flows.toys.base import parse_parameters

            arguments = parse_parameters(load_flow(names[0]), set_params)
        from flows.server.connection import connect_to_server

        with connect_to_server(preload=["flows.toys.base"]):
            for toy in names:
                update_status(toy)
                raise_on_failure(load_flow(toy)(**arguments, return_state=True))
