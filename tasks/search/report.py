"""What a search found: a JSON file, a picture, a table."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from optuna.trial import TrialState
from ruamel.yaml import YAML

from tasks.overrides import recipe_defaults
from tasks.reporting.svg import BLUE, MUTED, ORANGE, STYLE, WIDTH, render_svg
from tasks.search.study import Study, Trial
from tasks.workspace.errors import InputError
from tasks.workspace.files import atomic_write, write_json

MAX_ROWS = 10  # of the table
RECIPE_HEAD = "# Found by cifarflow search"


def save_result(
    file: Path, study: Study, best: Trial, winner: Mapping[str, Any], described: Mapping[str, Any]
) -> dict[str, Any]:
    """Write `file` (JSON; docs/files.md) and a picture beside it; returns the content of the file."""
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
    with atomic_write(file.with_suffix(".svg")) as temp_path:
        temp_path.write_text(plot_search(result), encoding="utf-8")
    return result


def result_markdown(result: Mapping[str, Any]) -> str:
    """The best trials, and how much each parameter decided."""
    trials = [trial for trial in result["trials"] if trial["val_accuracy"] is not None]
    trials.sort(key=lambda trial: (-trial["val_accuracy"], trial["number"]))
    names = list(trials[0]["values"])
    lines = [
        f"# {len(result['trials'])} trials, best on validation: {result['val_accuracy']:.2%}",
        "",
        f"Test accuracy of trial {result['best']}, looked at once: **{result['test_accuracy']:.2%}**",
        "",
        f"| trial | validation | {' | '.join(names)} |",
        f"| ---: | ---: |{' --- |' * len(names)}",
    ]
    for trial in trials[:MAX_ROWS]:
        values = " | ".join(_format(trial["values"][name]) for name in names)
        lines.append(f"| {trial['number']} | {trial['val_accuracy']:.2%} | {values} |")
    if result["importances"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in result["importances"].items())
        lines += ["", f"Importance (PED-ANOVA): {shares}"]
    return "\n".join(lines) + "\n"


@rc_context(STYLE)
def plot_search(result: Mapping[str, Any]) -> str:
    """Validation accuracy by trial, with the best so far; and by the values of each parameter."""
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
        is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        if is_number and min(values) > 0 and max(values) > 10 * min(values):
            panel.set_xscale("log")
        shown = values if is_number else [str(value) for value in values]
        panel.plot(shown, accuracies, "o", color=BLUE, markersize=4)
        winner = numbers.index(result["best"])
        panel.plot([shown[winner]], [accuracies[winner]], "s", color=ORANGE, markersize=7)
        panel.set_xlabel(name)
    for axes in (history, *panels):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylabel("validation")
    return render_svg(figure)


def _format(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def check_overwrite(recipe: Path) -> None:
    """`InputError` if the file is a recipe that no search has written."""
    if recipe.is_file() and not recipe.read_text(encoding="utf-8").startswith(RECIPE_HEAD):
        raise InputError(f"{recipe} was not written by a search; choose another --name")


def write_recipe(file: Path, values: Mapping[str, Any], winner: Mapping[str, Any]) -> None:
    """What differs from the defaults, as recipes do."""
    defaults = recipe_defaults()
    chosen = {key: values[key] for key, default in defaults.items() if values[key] != default}
    text = io.StringIO()
    YAML().dump({"train": chosen}, text)
    head = (
        f"{RECIPE_HEAD}: {winner['val_accuracy']:.2%} on validation, {winner['test_accuracy']:.2%} on test.\n"
        "# What it does not set is as in talk.yaml.\n"
    )
    with atomic_write(file) as temp_path:
        temp_path.write_text(head + text.getvalue(), encoding="utf-8")
