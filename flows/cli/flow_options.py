"""The options of a command that runs a flow, made from the flow's parameters, and how it runs."""

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
import click
from pydantic.fields import FieldInfo

from flows.parameters import FlowParameters, Option
from tasks.validation import validate

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def parameter_options(model: type[FlowParameters]) -> Callable[[CommandT], CommandT]:
    """Give a command an option for each parameter of the flow that has one, with its text and its default.

    The command gets all of them as keyword arguments, by the parameters' names.
    """

    def add_options(command: CommandT) -> CommandT:
        for name, field in reversed(model.model_fields.items()):
            option = next((item for item in field.metadata if isinstance(item, Option)), None)
            if option is not None:
                command = _to_click(name, field, option)(command)
        return command

    return add_options


def _to_click(name: str, field: FieldInfo, option: Option) -> Callable[[CommandT], CommandT]:
    assert field.description is not None
    text = option.text or field.description
    text = text[0].upper() + text[1:]
    flags = [flag for flag in (option.short, option.flag) if flag]
    kind = _without_none(field.annotation)
    if kind is bool:
        return click.option(*flags, name, is_flag=True, help=f"{text}.")
    if field.is_required():
        several = get_origin(kind) is list
        return click.option(
            *flags, name, required=not several, multiple=several, metavar=option.metavar, help=f"{text}."
        )
    default = "" if field.default is None else f" (default: {field.default})"
    return click.option(
        *flags, name, type=_click_type(kind, field), default=field.default, metavar=option.metavar,
        help=f"{text}{default}.",
    )  # fmt: skip


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in {Union, types.UnionType}:
        return next(kind for kind in get_args(annotation) if kind is not types.NoneType)
    return annotation


def _click_type(kind: Any, field: FieldInfo) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if kind is int:
        low = next((item.ge for item in field.metadata if isinstance(item, annotated_types.Ge)), None)
        high = next((item.le for item in field.metadata if isinstance(item, annotated_types.Le)), None)
        return click.IntRange(low, high)  # type: ignore[arg-type]
    return kind


def set_option(metavar: str, text: str) -> Callable[[CommandT], CommandT]:
    return click.option("-S", "--set", "set_params", multiple=True, metavar=metavar, help=text)


def recipe_option(text: str) -> Callable[[CommandT], CommandT]:
    """A recipe by name, or a YAML file, which is taken from where the user stands."""

    def locate(_context: click.Context, _option: click.Parameter, recipe: str | None) -> str | None:
        return str(Path(recipe).absolute()) if recipe and recipe.endswith((".yaml", ".yml")) else recipe

    return click.option("--recipe", metavar="NAME", callback=locate, help=text)


def load_overrides(set_params: tuple[str, ...], recipe: str | None) -> Any:
    from tasks.overrides import merge_overrides, parse_overrides, read_recipe

    overrides = parse_overrides(set_params) if set_params else None
    if recipe is not None:
        overrides = merge_overrides(read_recipe(recipe), overrides or parse_overrides(()))
    return overrides


def run_flow(module: str, name: str, model: type[FlowParameters], /, **values: Any) -> None:
    """Check the parameters, then import Prefect and the flow, and run it; raises what it failed with.

    `InputError` before anything is started, where the parameters are wrong or contradict the project.
    """
    parameters = validate(model, values, name)
    parameters.check()
    from importlib import import_module

    from flows.cli.console import prefect_console
    from flows.server.connection import connect_to_server

    with prefect_console(), connect_to_server(preload=[module]):
        flow = getattr(import_module(module), name)
        raise_on_failure(flow(**dict(parameters), return_state=True))


def raise_on_failure(state: Any) -> None:
    if state.is_completed():
        return
    error = state.result(raise_on_failure=False)
    assert isinstance(error, BaseException)
    raise error
