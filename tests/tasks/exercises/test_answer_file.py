"""A learner's file is judged in a process of its own, whatever the file does."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.exercises import answer_file
from tasks.exercises.answer_file import check_file, is_blank
from tasks.exercises.catalog import MODULES
from tasks.exercises.checking import Verdict
from tasks.workspace.errors import InputError
from tests.conftest import ROOT

HEADER = "import math\n\ndef neuron(x, w, b):\n    z = sum(p * q for p, q in zip(x, w)) + b\n"
RIGHT = f"{HEADER}    return 1 / (1 + math.exp(-z))\n"


def judge(folder: Path, text: str) -> Verdict:
    (folder / "neuron.py").write_text(text, encoding="utf-8")
    return check_file("neuron", folder)


def test_committed_exercises_are_the_listed_ones_and_empty() -> None:
    assert {file.stem for file in (ROOT / "exercises").glob("*.py")} == set(MODULES)
    assert all(is_blank(name, ROOT / "exercises" / f"{name}.py") for name in MODULES)


def test_right_file_is_solved_and_shows_what_it_prints(tmp_path: Path) -> None:
    assert judge(tmp_path, RIGHT) == Verdict("solved")
    verdict = judge(tmp_path, RIGHT.replace("    return", "    print('z', z)\n    return"))
    assert verdict.state == "solved"
    assert verdict.printed.startswith("z 1.1\n")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (
            f"{HEADER}    1 / (1 + math.exp(-z))\n",
            "It returns nothing: the last line of a function is `return`",
        ),
        (f"{HEADER}    print(1 / (1 + math.exp(-z)))\n", "It prints its answer and returns nothing"),
        (f"{HEADER}    return str(z)\n", "It should return a number, not a value of the type str."),
        (f"{HEADER}    return True\n", "It should return a number, not a value of the type bool."),
        (f"{HEADER}    return [z]\n", "It should return a number, not a list of 1 number."),
        (f"{HEADER}    return z / 0\n", "Line 5: ZeroDivisionError: "),
        (f"{HEADER}    return f(z)\n", "Line 5: NameError: name 'f' is not defined"),
        (f"{HEADER}    return neuron(x, w, b)\n", "it calls itself without an end."),
        (f"{HEADER}    return float(input())\n", "Line 5: it asks for input"),
        (f"{HEADER}    raise SystemExit\n", "Line 5: it ends the program; a function ends with `return`."),
        (f"{HEADER}    x.append(z)\n    return 1 / (1 + math.exp(-z))\n", "It changes its argument x"),
        (
            "def neuron(x, w, b)\n    return 1\n",
            "Line 1: this is not Python, expected ':': 'def neuron(x, w, b)'",
        ),
        ("def nuron(x, w, b):\n    return 1\n", "The file has no function neuron: keep the line"),
        ("neuron = 1\n", "The file has no function neuron: keep the line"),
        ("1 / 0\n", "Line 1: ZeroDivisionError: division by zero"),
        (
            "def neuron(x, w):\n    return 1\n",
            "TypeError: neuron() takes 2 positional arguments but 3 were given",
        ),
        (f"import os\n{HEADER}    os._exit(3)\n", "It ended the process: it says nothing"),
        (
            f"{HEADER}    return [0] * 10**10\n",
            "Line 5: it needs too much memory; does a list grow for ever?",
        ),
    ],
)
def test_every_accident_gets_one_line(tmp_path: Path, text: str, hint: str) -> None:
    verdict = judge(tmp_path, text)
    assert verdict.state == "wrong"
    assert hint in verdict.hint
    assert "\n" not in verdict.hint
    assert len(verdict.hint) <= 200


@pytest.mark.parametrize(
    "loop", ["while True:\n        pass", "try:\n        while True: pass\n    except Exception: pass"]
)
def test_endless_loop_ends_with_the_line_where_it_was(tmp_path: Path, loop: str) -> None:
    (tmp_path / "neuron.py").write_text(f"{HEADER}    {loop}\n", encoding="utf-8")
    program = (
        "from tasks.exercises import answer_file as a; import sys; a.TIME_LIMIT_S = 0.3; "
        f"sys.argv = ['', 'neuron', {str(tmp_path / 'neuron.py')!r}]; a.main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "it still runs after 0.3 s; does a loop never end?" in result.stdout
    assert '"hint": "Line ' in result.stdout


def test_code_that_no_signal_interrupts_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_file, "PROCESS_LIMIT_S", 1.0)
    began = time.monotonic()
    verdict = judge(
        tmp_path, "import itertools, collections\ncollections.deque(itertools.count(), maxlen=0)\n"
    )
    assert verdict.hint == "It still runs after 1 s; does a loop never end?"
    assert time.monotonic() - began < 10


def test_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neuron.py is missing; git checkout .*neuron.py brings"):
        check_file("neuron", tmp_path)


def test_file_with_the_name_of_a_module_takes_no_ones_place(tmp_path: Path) -> None:
    (tmp_path / "math.py").write_text("raise RuntimeError", encoding="utf-8")
    (tmp_path / "json.py").write_text("raise RuntimeError", encoding="utf-8")
    assert judge(tmp_path, RIGHT).state == "solved"
