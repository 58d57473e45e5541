"""`check_file` judges a learner's file in a fresh process with limits of time and memory.

The process is `python -m tasks.exercises.answer_file NAME FILE`; it prints the verdict as JSON.
"""

import ast
import importlib.util
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FunctionType
from typing import Any

from tasks.exercises.catalog import load_exercise
from tasks.exercises.checking import (
    AnswerError,
    TimeLimitError,
    Verdict,
    check_answer,
    describe_error,
    limit_time,
)
from tasks.processes import python_path
from tasks.workspace.errors import InputError, escape_unprintable

FOLDER = Path("exercises")
TIME_LIMIT_S = 5.0
PROCESS_LIMIT_S = 60.0  # PyTorch's import on a busy machine, and code that no signal interrupts
MEMORY_LIMIT_BYTES = 2 * 1024**3


def check_file(name: str, folder: Path) -> Verdict:
    """Judge the answer in `folder`/NAME.py. `InputError` if the file is missing."""
    file = folder / f"{name}.py"
    if not file.is_file():
        raise InputError(f"{file} is missing; git checkout {file} brings the empty exercise back")
    if is_blank(name, file):
        return Verdict("not begun")
    try:
        result = run_python(
            __name__, name, str(file.absolute()), capture_output=True, timeout=PROCESS_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return Verdict("wrong", f"It still runs after {PROCESS_LIMIT_S:g} s; does a loop never end?")
    try:
        return Verdict(**json.loads(result.stdout.splitlines()[-1]))
    except (IndexError, TypeError, ValueError):
        lines = result.stderr.decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")
        return Verdict("wrong", f"It ended the process: {escape_unprintable(last)}")


def run_python(module: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a module of this project in a fresh process, without the current folder among its modules.

    A learner's file may have the name of a module, and must not take its place.
    """
    return subprocess.run(  # noqa: S603 - this project's own code
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": python_path()},
        check=False,
        **options,
    )


def is_blank(name: str, file: Path) -> bool:
    """Whether the function still does nothing but raise `NotImplementedError`."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return False
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            body = node.body[1:] if ast.get_docstring(node) else node.body
            return len(body) == 1 and ast.unparse(body[0]).startswith("raise NotImplementedError")
    return False


def load_answer(name: str, file: Path) -> Callable[..., Any]:
    """Run the file and return its function; `AnswerError` if there is none."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    answer = getattr(module, name, None)
    if not isinstance(answer, FunctionType):
        raise AnswerError(f"The file has no function {name}: keep the line that begins with `def {name}`.")
    return answer


def main() -> None:
    name, file = sys.argv[1], Path(sys.argv[2])
    exercise = load_exercise(name)
    if "torch" not in sys.modules:  # It reserves more addresses than any limit that would help.
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)  # What the file itself prints does not come between.
        try:
            with limit_time(TIME_LIMIT_S):
                answer = load_answer(name, file)
            verdict = check_answer(exercise, answer, TIME_LIMIT_S)
        except AnswerError as error:
            verdict = Verdict("wrong", str(error))
        except SyntaxError as error:
            text = f"{error.text.strip()[:60]!r}" if error.text else ""
            verdict = Verdict("wrong", f"Line {error.lineno}: this is not Python, {error.msg}: {text}")
        except (Exception, SystemExit, TimeLimitError) as error:  # noqa: BLE001 - whatever the file may raise
            verdict = Verdict("wrong", describe_error(error, str(file)))
        print(json.dumps(asdict(verdict)), file=output)


if __name__ == "__main__":
    main()
