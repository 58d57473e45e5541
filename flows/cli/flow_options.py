"""Options that commands share, and how a command runs its flow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def set_option(metavar: str, text: str) -> Callable[[CommandT], CommandT]:
    return click.option("-S", "--set", "set_params", multiple=True, metavar=metavar, help=text)


def recipe_option(text: str) -> Callable[[CommandT], CommandT]:
    """A recipe by name, or a YAML file, which is taken from where the user stands."""

    def locate(_context: click.Context, _option: click.Parameter, recipe: str | None) -> str | None:
        return str(Path(recipe).absolute()) if recipe and recipe.endswith((".yaml", ".yml")) else recipe

    return click.option("--recipe", metavar="NAME", callback=locate, help=text)


wait_option = click.option(
    "--wait", is_flag=True, help="Wait for a running pipeline to finish, instead of failing."
)


def load_overrides(set_params: tuple[str, ...], recipe: str | None) -> Any:
    from tasks.overrides import merge_overrides, parse_overrides, read_recipe

    overrides = parse_overrides(set_params) if set_params else None
    if recipe is not None:
        overrides = merge_overrides(read_recipe(recipe), overrides or parse_overrides(()))
    return overrides


def run_flow(module: str, name: str, **arguments: Any) -> None:
    """Import Prefect and the flow, and run it; raises what it failed with."""
    from importlib import import_module

    from flows.cli.console import prefect_console
    from flows.server.connection import connect_to_server

    with prefect_console(), connect_to_server(preload=[module]):
        flow = getattr(import_module(module), name)
        raise_on_failure(flow(**arguments, return_state=True))


def raise_on_failure(state: Any) -> None:
    if state.is_completed():
        return
    error = state.result(raise_on_failure=False)
    assert isinstance(error, BaseException)
    raise error
