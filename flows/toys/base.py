"""What every toy uses: the decorators for its flow and tasks, the parts of its figure, and its presentation.

Wherever no Prefect flow runs, a toy is plain Python: `neuron.fn(w1=2.0)` and each of the toy's functions can
be called without a server, and no such call creates a task run or an artifact.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, cast, get_type_hints

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from prefect import Flow, flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, TaskRunContext
from prefect.states import Failed
from pydantic import Field, create_model

from flows.run.logs import filter_prefect_logs
from flows.run.tables import Table
from flows.toys.catalog import TOYS
from tasks.overrides import parse_value
from tasks.params.types import StrictModel
from tasks.reporting.markdown import escape_markdown
from tasks.reporting.svg import BLUE, INK, LINE, MUTED, ORANGE, PAPER
from tasks.validation import validate
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import write_text

P = ParamSpec("P")
R = TypeVar("R")
Values = NDArray[np.float64]

FIGURES_DIR = Path("reports/toys")
WIDTH = 7.2  # inches: the width of every figure

# The bounds keep sums and squares far from the largest number that a float can hold.
BoundedFloat = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1, le=10_000)]


@dataclass(frozen=True)
class Presentation:
    """What a toy shows."""

    tables: Sequence[Table]
    takeaways: Sequence[str]
    svg: str


_shown: ContextVar[list[Presentation] | None] = ContextVar("shown", default=None)
"""a list that takes what a toy shows, instead of the terminal and the folder of figures"""


def toy_flow(function: Callable[P, R]) -> Flow[P, R]:
    """Decorate a toy's main function: it becomes a Prefect flow that checks its parameters by their types.

    A parameter that is wrong, and a `ValueError` of the mathematics, become an `InputError`. A flow run ends
    in the state `Failed` that carries the error and shows no traceback; a plain call raises the error.
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

    # Prefect's own validation would turn the text "3" into a number, and report an error in several lines.
    return flow(name=name, description=TOYS[name], log_prints=True, validate_parameters=False)(run)


def toy_task(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a step of a toy: called by a flow it is a Prefect task, called by anything else plain Python.

    A call from within another task is a plain call as well.
    """

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ValueError as error:  # returned as a state, since Prefect logs an exception with its traceback
            return cast("R", Failed(message=str(error), data=error))

    as_task = task(cache_policy=NO_CACHE, persist_result=False)(guarded)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if FlowRunContext.get() is None or TaskRunContext.get() is not None:
            return function(*args, **kwargs)
        filter_prefect_logs()
        try:
            state = as_task(*args, **kwargs, return_state=True)
        except ValueError as error:  # what Prefect raises where the interrupt came before the task run exists
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise
        return state.result()

    return call


def parse_parameters(toy: Flow[..., Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Read a toy's parameters from texts such as `w1=2`, whose values are YAML.

    An `InputError` has one line per mistake.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not (equals and key):
            raise InputError(f"--set {assignment}: expected key=value, e.g. seed=1")
        values[key] = parse_value(assignment, text)
    return validate(_parameter_model(toy.fn), values, "--set").model_dump(include=set(values))


def _parameter_model(function: Callable[..., Any]) -> type[StrictModel]:
    """Build the pydantic model of the function's parameters."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        key: (hints[key], parameter.default)
        for key, parameter in inspect.signature(function).parameters.items()
    }
    return create_model(function.__name__, __base__=StrictModel, **fields)


def present(name: str, tables: Sequence[Table], takeaways: Sequence[str], svg: str) -> None:
    """Print a toy's tables and takeaways, save its figure, and create an artifact if a flow runs."""
    shown = _shown.get()
    if shown is not None:
        shown.append(Presentation(tables, takeaways, svg))
        return
    file = FIGURES_DIR / f"{name}.svg"
    write_text(file, svg)
    text = "\n\n".join([*(table.as_text() for table in tables), "\n".join(takeaways), f"figure: {file}"])
    print(f"{name}: {TOYS[name]}\n\n{text}\n")
    if FlowRunContext.get() is not None:
        parts = [f"# {name}: {TOYS[name]}", *(table.as_markdown() for table in tables)]
        parts += ["\n".join(f"- {escape_markdown(line)}" for line in takeaways), f"Figure: `{file}`"]
        create_markdown_artifact("\n\n".join(parts) + "\n", key=f"toy-{name.replace('_', '-')}")


def run_for_display(toy: Flow[P, Any], parameters: Mapping[str, Any]) -> Presentation:
    """Run a toy as plain Python, and return what it would print and save."""
    shown: list[Presentation] = []
    token = _shown.set(shown)
    try:
        toy.fn(**parameters)  # type: ignore[call-arg]
    finally:
        _shown.reset(token)
    return shown[0]


def create_figure(height: float, *, rows: Sequence[float] = (1,), columns: Sequence[float] = (1,)) -> Any:
    """Create a figure `height` inches high, and its axes; `rows` and `columns` are ratios of their sizes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(len(rows), len(columns), height_ratios=rows, width_ratios=columns)


def format_number(value: float) -> str:
    """Write a number with three significant digits and a typographic minus sign."""
    return f"{value:.3g}".replace("-", "−")


def draw_node(axes: Axes, at: tuple[float, float], text: str, *, size: float = 34, color: str = INK) -> None:
    """Draw a circle, `size` points wide, with a text inside."""
    axes.plot(*at, "o", markersize=size, markerfacecolor=PAPER, markeredgecolor=color, markeredgewidth=1.4)
    axes.text(*at, text, ha="center", va="center", fontsize=9, color=color, linespacing=1.1)


def draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow that leaves room for the nodes at both of its ends."""
    arrow = {"arrowstyle": "-|>", "color": MUTED, "shrinkA": 17, "shrinkB": 21, "lw": 1.1}
    axes.annotate("", end, start, arrowprops=arrow)


def draw_grid(
    axes: Axes, values: Values, title: str, *, marked: Sequence[tuple[int, int]] = (), numbers: bool = True
) -> None:
    """Draw `values` `(rows, columns)` as tinted cells with their numbers, blue above 0 and orange below.

    The cells that `marked` lists as (row, column) get a thick border.
    """
    largest = max(float(np.abs(values).max()), 1e-12)
    rows, columns = values.shape
    for (row, column), value in np.ndenumerate(values):
        tint = BLUE if value > 0 else ORANGE
        axes.add_patch(
            Rectangle((column, row), 1, 1, facecolor=PAPER, edgecolor=LINE, linewidth=0.7),
        )
        share = 0.55 * abs(float(value)) / largest
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=tint, alpha=share, linewidth=0))
        if numbers:
            text = format_number(float(value))
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8)
    for row, column in marked:
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor="none", edgecolor=INK, linewidth=1.8))
    axes.set(xlim=(-0.05, columns + 0.05), ylim=(rows + 0.05, -0.05), aspect="equal", xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=10)


def parse_picture(rows: Sequence[str]) -> Values:
    """Turn lines of `#` (1) and `.` (0), all of one length, into a picture `(rows, columns)`."""
    return np.array([[float(sign == "#") for sign in row] for row in rows])
