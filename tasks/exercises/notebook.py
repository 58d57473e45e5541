"""The same exercises as one notebook: `python -m tasks.exercises.notebook` writes it from the files.

A notebook checks with `check(function)`, in its own process; Jupyter interrupts what does not end.
"""

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.exercises.answer_file import FOLDER
from tasks.exercises.catalog import MODULES, load_exercise
from tasks.exercises.checking import check_answer

NOTEBOOK = FOLDER / "exercises.ipynb"
INTRODUCTION = """# Exercises

These are the exercises of `docs/course.md`, the same as the files beside this notebook. Run the next cell first.
Then fill in one function after the other; the last line of each cell checks it."""
SETUP = """import sys

sys.path.insert(0, "..")  # the project, if Jupyter started in exercises/

from tasks.exercises.notebook import check"""


def check(function: Callable[..., Any]) -> None:
    """Judge a learner's function, whose name is that of the exercise, and print what was found."""
    verdict = check_answer(load_exercise(function.__name__), function)
    print(f"{function.__name__}: {verdict.state}{verdict.hint and f'. {verdict.hint}'}")
    for line in filter(None, [verdict.evidence, *verdict.printed.splitlines()]):
        print(f"  {line}")


def build_notebook(folder: Path) -> str:
    """Return the notebook's text, made from the empty exercises in `folder`."""
    cells = [_cell("markdown", INTRODUCTION), _cell("code", SETUP)]
    for name in MODULES:
        cells += _exercise_cells(name, (folder / f"{name}.py").read_text(encoding="utf-8"))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def _exercise_cells(name: str, source: str) -> Iterator[dict[str, Any]]:
    """Yield the module's docstring as text, and the rest of the file with its check as code."""
    tree = ast.parse(source)
    text = ast.get_docstring(tree) or ""
    code = "\n".join(source.splitlines()[tree.body[0].end_lineno or 0 :]).strip()
    yield _cell("markdown", f"## {text}")
    yield _cell("code", f"{code}\n\n\ncheck({name})")


def _cell(kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | {"execution_count": None, "outputs": []} if kind == "code" else cell


if __name__ == "__main__":
    NOTEBOOK.write_text(build_notebook(FOLDER), encoding="utf-8")
