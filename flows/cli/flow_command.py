"""Commands that run a flow share this: options made from the flow's parameters, the terminal, the run."""

import logging
import os
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
import click
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.status import Status

from flows.parameters import FlowParameters, Option
from tasks.overrides import RECIPES, Overrides, merge_overrides, parse_overrides, read_recipe
from tasks.validation import validate
from tasks.workspace.code import ROOT

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

# Prefect's default lines begin with 60 constant characters. Existing settings are not overridden.
PREFECT_ENV = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s | %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s | %(task_run_name)-9s | %(message)s",
    # Prefect's own lines about its server are left out.
    "PREFECT_LOGGING_LOGGERS_PREFECT_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
    # automations.yaml declares a run without three of these crashed; Prefect's own default is 180.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # No telemetry unless asked for; a server that the user runs has its own settings.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


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
    """Make an option for a recipe by name, or a YAML file, which is taken from where the user stands."""
    names = ", ".join(sorted(recipe.stem for recipe in (ROOT / RECIPES).glob("*.yaml")))

    def locate(_context: click.Context, _option: click.Parameter, recipe: str | None) -> str | None:
        return str(Path(recipe).absolute()) if recipe and recipe.endswith((".yaml", ".yml")) else recipe

    return click.option(
        "--recipe", metavar="NAME", callback=locate, help=f"{text} NAME is {names} or a YAML file."
    )


def load_overrides(set_params: tuple[str, ...], recipe: str | None) -> Overrides | None:
    """Make overrides of `--recipe` and `--set`, which takes precedence. `InputError` if one is wrong."""
    overrides = parse_overrides(set_params) if set_params else None
    if recipe is not None:
        overrides = merge_overrides(read_recipe(recipe), overrides or parse_overrides(()))
    return overrides


def run_flow(module: str, name: str, model: type[FlowParameters], /, **values: Any) -> None:
    """Check the parameters, then import Prefect and the flow, and run it. Raise what the flow failed with.

    `InputError` comes before anything is started, where the parameters are wrong or contradict the project.
    """
    parameters = validate(model, values, name)
    parameters.check()
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


@contextmanager
def prefect_console() -> Iterator[Callable[[str], None]]:
    """Import Prefect and run flows inside this context; on a terminal a status line stands below the log.

    Yields the function that sets the status; the pipeline's stages set it themselves. Prefect reads its
    settings, and the stream it logs to, when it is imported.
    """
    for name, value in PREFECT_ENV.items():
        os.environ.setdefault(name, value)
    for runs in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(runs).addFilter(_drop_failure)
    console = Console(stderr=True)
    if not console.is_terminal:
        print("starting Prefect", flush=True)
        yield lambda _: None
        return
    with console.status("starting Prefect (about 10 s)") as status:
        handler = _StatusHandler(status)
        stages = logging.getLogger("cifarflow.status")  # flows/run/flow_run.py writes to this logger.
        stages.setLevel(logging.INFO)
        stages.propagate = False
        stages.addHandler(handler)
        try:
            yield status.update
        finally:
            stages.removeHandler(handler)


def _drop_failure(record: logging.LogRecord) -> bool:
    """Drop the lines in which Prefect says why a run failed: the command's last line says it anyway."""
    return not record.getMessage().startswith("Finished in state Failed(")


class _StatusHandler(logging.Handler):
    """A handler that shows the last message as the status. An empty message makes room for a question."""

    def __init__(self, status: Status) -> None:
        super().__init__()
        self.status = status

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if not message:
            self.status.stop()
            return
        self.status.update(message)
        self.status.start()
