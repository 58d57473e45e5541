"""What all toys share: a Prefect flow of small tasks that ends in tables, a figure and a Prefect artifact.

Outside of a flow run the same code is plain Python: `neuron.fn(w1=2.0)` calls the tasks as functions, needs
no server and creates no artifact.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, cast, get_type_hints

from prefect import Flow, flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.states import Failed
from pydantic import Field, create_model
from rich.console import Console
from rich.table import Table as RichTable

from flows.run.logs import filter_prefect_logs
from flows.toys.catalog import TOYS
from tasks.overrides import parse_value
from tasks.params.types import StrictModel
from tasks.reporting.markdown import escape_markdown, format_row
from tasks.validation import validate
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import write_text

P = ParamSpec("P")
R = TypeVar("R")

FIGURES_DIR = Path("reports/toys")

# The bounds keep sums and squares far from a float's own.
BoundedFloat = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1, le=10_000)]


def toy_flow(function: Callable[P, R]) -> Flow[P, R]:
    """Decorator: a Prefect flow with the function's name that validates its parameters by their types.

    A wrong parameter, or a `ValueError` of the mathematics, is an `InputError`: a flow run ends in the state
    `Failed` that carries it, without a traceback; a plain call raises it.
    """
    name = function.__name__
    model = _parameter_model(function)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            arguments = inspect.signature(function).bind(*args, **kwargs).arguments
            parameters = validate(model, arguments, name)
            return function(**dict(parameters))  # type: ignore[call-arg]
        except (RunError, ValueError) as error:
            run_error = error if isinstance(error, RunError) else InputError(f"{name}: {error}")
            if FlowRunContext.get() is None:
                raise run_error from None
            return cast("R", Failed(message=str(run_error), data=run_error))

    # Prefect's own validation would turn the string "3" into a number, and report an error in several lines.
    return flow(name=name, description=TOYS[name], log_prints=True, validate_parameters=False)(run)


def parse_parameters(toy: Flow[..., Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Parameters from strings such as `w1=2`, with values in YAML. `InputError`: one line per mistake."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not (equals and key):
            raise InputError(f"--set {assignment}: expected key=value, e.g. seed=1")
        values[key] = parse_value(assignment, text)
    return validate(_parameter_model(toy.fn), values, "--set").model_dump(include=set(values))


def _parameter_model(function: Callable[..., Any]) -> type[StrictModel]:
    """The pydantic model of the function's parameters."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        key: (hints[key], parameter.default)
        for key, parameter in inspect.signature(function).parameters.items()
    }
    return create_model(function.__name__, __base__=StrictModel, **fields)


def toy_task(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: a Prefect task in a flow run, elsewhere the function itself."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ValueError as error:  # returned as a state, since Prefect logs an exception with its traceback
            return cast("R", Failed(message=str(error), data=error))

    as_task = task(cache_policy=NO_CACHE, persist_result=False)(guarded)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if FlowRunContext.get() is None:
            return function(*args, **kwargs)
        filter_prefect_logs()
        return as_task(*args, **kwargs, return_state=True).result()

    return call


@dataclass(frozen=True)
class Table:
    """A table for terminal and Markdown: numbers with six significant digits, strings unchanged."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]

    def as_text(self) -> str:
        table = RichTable(*self.columns, box=None, pad_edge=False)
        for row in self._cells():
            table.add_row(*row)
        for column, values in zip(table.columns, zip(*self.rows, strict=True), strict=True):
            column.justify = "left" if any(isinstance(value, str) for value in values) else "right"
        console = Console(width=120, color_system=None, markup=False, emoji=False)
        with console.capture() as capture:
            console.print(table)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())

    def as_markdown(self) -> str:
        rows = [self.columns, ["---"] * len(self.columns), *self._cells()]
        return "\n".join(map(format_row, rows))

    def _cells(self) -> list[list[str]]:
        return [[cell if isinstance(cell, str) else f"{cell + 0.0:.6g}" for cell in row] for row in self.rows]


def publish(name: str, tables: Sequence[Table], takeaways: Sequence[str], svg: str) -> None:
    """Print tables and takeaways, save the figure, and in a flow run create an artifact."""
    file = FIGURES_DIR / f"{name}.svg"
    write_text(file, svg)
    text = "\n\n".join([*(table.as_text() for table in tables), "\n".join(takeaways), f"figure: {file}"])
    print(f"{name}: {TOYS[name]}\n\n{text}\n")
    if FlowRunContext.get() is not None:
        parts = [f"# {name}: {TOYS[name]}", *(table.as_markdown() for table in tables)]
        parts += ["\n".join(f"- {escape_markdown(line)}" for line in takeaways), f"Figure: `{file}`"]
        create_markdown_artifact("\n\n".join(parts) + "\n", key=f"toy-{name.replace('_', '-')}")
