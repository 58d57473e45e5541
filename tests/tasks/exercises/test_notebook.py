"""The notebook is made from the files, and its cells run."""

import json
from typing import Any

import pytest

from tasks.exercises.catalog import MODULES
from tasks.exercises.notebook import NOTEBOOK, build_notebook
from tests.conftest import ROOT
from tests.test_course import read_answers


def run_cells(answers: dict[str, str]) -> None:
    """Run the code of all cells, with these answers in place of the empty functions."""
    names: dict[str, Any] = {}
    for cell in json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            code = "".join(cell["source"])
            name = code.rpartition("check(")[2].removesuffix(")")
            exec(f"{answers[name]}\ncheck({name})" if name in answers else code, names)


def test_notebook_is_made_from_the_files() -> None:
    assert (ROOT / NOTEBOOK).read_text(encoding="utf-8") == build_notebook(ROOT / "exercises"), (
        "run: python -m tasks.exercises.notebook"
    )


def test_cells_run_empty_and_with_the_answers_of_the_course(capsys: pytest.CaptureFixture[str]) -> None:
    run_cells({})
    assert capsys.readouterr().out.splitlines() == [f"{name}: not begun" for name in MODULES]
    run_cells(read_answers())
    assert capsys.readouterr().out.splitlines() == [f"{name}: solved" for name in MODULES]


def test_wrong_answer_gets_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    run_cells({"neuron": "def neuron(x, w, b):\n    return sum(p * q for p, q in zip(x, w)) + b\n"})
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("neuron: wrong. This is the sum z. The activation is missing")
    assert second == "  neuron([1, 2, 3], [0.8, -0.4, 0.2], 0.5) should be 0.75026, and is 1.1"
