"""Write what a search found: a JSON file, a page with figures, a table, a recipe."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter
from optuna.trial import TrialState
from ruamel.yaml import YAML

from tasks.overrides import recipe_defaults
from tasks.reporting.markdown import escape_markdown, format_row
from tasks.reporting.page import render_page
from tasks.reporting.svg import BLUE, MUTED, ORANGE, STYLE, WIDTH, make_standalone, render_svg_element
from tasks.search.study import Study, Trial
from tasks.workspace.errors import InputError
from tasks.workspace.files import write_json, write_text

MAX_ROWS = 10  # number of trials in the table
PAGE = Path(__file__).with_name("page.html")
RECIPE_HEAD = "# Found by cifarflow search"


def save_result(
    file: Path, study: Study, best: Trial, winner: Mapping[str, Any], described: Mapping[str, Any]
) -> dict[str, Any]:
    """Write `file` (JSON; docs/files.md), and a figure and a page beside it; return the file's content."""
    trials = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "val_accuracy": trial.value if trial.state == TrialState.COMPLETE else None,
            "values": trial.params,
        }
        for trial in study.finished()
    ]
    result = {
        **described,
        "best": best.number,
        "val_accuracy": winner["val_accuracy"],
        "test_accuracy": winner["test_accuracy"],
        "importances": study.importances(),
        "trials": trials,
    }
    write_json(file, result)
    history = plot_trials(result)
    write_text(file.with_suffix(".svg"), make_standalone(history))
    figures = {"history": history, "parallel": plot_parallel_coordinates(result)}
    if result["importances"]:
        figures["importances"] = plot_importances(result["importances"])
    page = render_page({"result": result, "best": sort_trials(result)[:MAX_ROWS], "figures": figures}, PAGE)
    write_text(file.with_suffix(".html"), page)
    return result


def sort_trials(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the trials that were trained to their end, the best first."""
    trials = [trial for trial in result["trials"] if trial["val_accuracy"] is not None]
    return sorted(trials, key=lambda trial: (-trial["val_accuracy"], trial["number"]))


def result_markdown(result: Mapping[str, Any]) -> str:
    """Return a table of the best trials and the importance of each parameter, as Markdown."""
    trials = sort_trials(result)
    names = list(trials[0]["values"])
    lines = [
        f"# {len(result['trials'])} trials, best on validation: {result['val_accuracy']:.2%}",
        "",
        f"Test accuracy of trial {result['best']}, measured once: **{result['test_accuracy']:.2%}**",
        "",
        format_row(("trial", "validation", *names)),
        f"| ---: | ---: |{' --- |' * len(names)}",
    ]
    for trial in trials[:MAX_ROWS]:
        values = (_format(trial["values"][name]) for name in names)
        lines.append(format_row((trial["number"], f"{trial['val_accuracy']:.2%}", *values)))
    if result["importances"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result["importances"].items())
        lines += ["", f"Importance (PED-ANOVA): {escape_markdown(shares)}"]
    return "\n".join(lines) + "\n"


def _format(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def check_overwrite(recipe: Path) -> None:
    """Raise `InputError` if the file is a recipe that no search has written."""
    if recipe.is_file() and not recipe.read_text(encoding="utf-8").startswith(RECIPE_HEAD):
        raise InputError(f"{recipe} was not written by a search; choose another --name")


def write_recipe(file: Path, values: Mapping[str, Any], winner: Mapping[str, Any]) -> None:
    """Write a recipe: the values that differ from the defaults, as in all recipes."""
    defaults = recipe_defaults()
    chosen = {key: values[key] for key, default in defaults.items() if values[key] != default}
    text = io.StringIO()
    YAML().dump({"train": chosen}, text)
    head = (
        f"{RECIPE_HEAD}: {winner['val_accuracy']:.2%} on validation, {winner['test_accuracy']:.2%} on test.\n"
        "# What it does not set is as in talk.yaml.\n"
    )
    write_text(file, head + text.getvalue())


@rc_context(STYLE)
def plot_trials(result: Mapping[str, Any]) -> str:
    """Plot validation accuracy by trial, with the best so far, and by the values of each parameter."""
    trials = [trial for trial in result["trials"] if trial["val_accuracy"] is not None]
    names = list(trials[0]["values"])
    figure = Figure(figsize=(WIDTH, 2.2 * (1 + len(names))), layout="constrained")
    history, *panels = figure.subplots(1 + len(names), 1, squeeze=False)[:, 0]
    numbers = [trial["number"] for trial in trials]
    accuracies = [trial["val_accuracy"] for trial in trials]
    best = [max(accuracies[: i + 1]) for i in range(len(accuracies))]
    history.plot(numbers, accuracies, "o", color=BLUE, markersize=4)
    history.step(numbers, best, where="post", color=MUTED, linewidth=1.2)
    history.set_xlabel("trial")
    history.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel, name in zip(panels, names, strict=True):
        values = [trial["values"][name] for trial in trials]
        shown: Sequence[Any] = values
        if not _are_numbers(values):
            shown = [str(value) for value in values]
        elif _is_log(values):
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.xaxis.set_minor_formatter(NullFormatter())
        else:
            panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.plot(shown, accuracies, "o", color=BLUE, markersize=4)
        winner = numbers.index(result["best"])
        panel.plot([shown[winner]], [accuracies[winner]], "s", color=ORANGE, markersize=7)
        panel.set_xlabel(name)
    for axes in (history, *panels):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylabel("validation")
    return render_svg_element(figure)


@rc_context(STYLE)
def plot_parallel_coordinates(result: Mapping[str, Any]) -> str:
    """Plot a line per trial through its values, darker if more accurate; the best is orange."""
    trials = [trial for trial in result["trials"] if trial["val_accuracy"] is not None]
    names = list(trials[0]["values"])
    figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
    axes = figure.subplots()
    accuracies = [trial["val_accuracy"] for trial in trials]
    columns = [_scale([trial["values"][name] for trial in trials]) for name in names]
    columns.append(_scale(accuracies))
    for i, trial in enumerate(trials):
        heights = [column[i] for column in columns]
        is_best = trial["number"] == result["best"]
        color, width = (ORANGE, 2.2) if is_best else (BLUE, 1.2)
        opacity = 1.0 if is_best else 0.15 + 0.7 * columns[-1][i]
        axes.plot(heights, color=color, alpha=opacity, linewidth=width, zorder=3 if is_best else 2)
    axes.set_xticks(range(len(columns)), [*names, "validation"], rotation=35, ha="right")
    axes.set_yticks([0, 1], ["lowest", "highest"])
    return render_svg_element(figure)


@rc_context(STYLE)
def plot_importances(importances: Mapping[str, float]) -> str:
    """Plot the importance of each parameter; all together are 1."""
    figure = Figure(figsize=(WIDTH, 0.6 + 0.32 * len(importances)), layout="constrained")
    axes = figure.subplots()
    axes.barh([*importances], [*importances.values()], color=BLUE)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return render_svg_element(figure)


def _scale(values: Sequence[Any]) -> list[float]:
    """Scale values to 0 to 1: numbers by value or logarithm, others in the order of occurrence."""
    numbers: list[float]
    if not _are_numbers(values):
        known = list(dict.fromkeys(map(str, values)))
        numbers = [float(known.index(str(value))) for value in values]
    else:
        numbers = [math.log(value) if _is_log(values) else float(value) for value in values]
    low, high = min(numbers), max(numbers)
    return [(number - low) / (high - low) if high > low else 0.5 for number in numbers]


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _is_log(values: Sequence[Any]) -> bool:
    return bool(min(values) > 0 and max(values) > 10.0 * min(values))
