"""Write what a search found: a JSON file, a page with figures, a table, a recipe."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from ruamel.yaml import YAML

from tasks.overrides import recipe_defaults
from tasks.reporting.markdown import escape_markdown, format_row
from tasks.reporting.page import render_page
from tasks.reporting.svg import make_standalone
from tasks.search.plots import plot_importances, plot_parallel_coordinates, plot_trials
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
