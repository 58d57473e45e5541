"""The command `cifarflow learn` checks the exercises of the course."""

import sys
import time
from pathlib import Path

import click

from flows.cli.project import enter_project
from tasks.exercises.answer_file import FOLDER, check_file
from tasks.exercises.catalog import MODULES, validate_name
from tasks.exercises.checking import Verdict

COURSE = Path("docs/course.md")
POLL_INTERVAL_S = 0.3
MAX_PRINTED_LINES = 10


@click.command()
@click.argument("name", required=False)
@click.option("--watch", is_flag=True, help="Check a file whenever it is saved, until Ctrl-C.")
def learn(name: str | None, *, watch: bool) -> int:
    """Check your answer to an exercise of the course, in exercises/NAME.py. Without a NAME: all of them.

    The last exercise is the training step; once it is right, it trains the pipeline's network. The exit code
    is 1 where the exercise NAME is not solved yet. docs/course.md has the chapters and the answers.

    \b
    Examples:
      cifarflow learn
      cifarflow learn neuron
      cifarflow learn --watch
    """
    names = list(MODULES) if name is None else [validate_name(name)]
    enter_project()
    if watch:
        _watch(names)
    if name is None:
        _list_exercises()
        return 0
    verdict = check_file(name, FOLDER)
    _show(name, verdict)
    if verdict.state == "solved" and name == "training_step":
        from tasks.exercises.train_network import train_with

        train_with(FOLDER / f"{name}.py")
    return int(verdict.state != "solved")


def _list_exercises() -> None:
    """Show which exercises are solved, and which is next."""
    todo = []
    for number, name in enumerate(MODULES, start=1):
        state = check_file(name, FOLDER).state
        if state != "solved":
            todo.append(name)
        print(f"{number:>2}  {name:<22} {'not right yet' if state == 'wrong' else state}", flush=True)
    print(f"\n{len(MODULES) - len(todo)} of {len(MODULES)} solved.", end=" ")
    if todo:
        print(f"Next: fill in {FOLDER / todo[0]}.py, then: cifarflow learn {todo[0]}")
        print(f"cifarflow learn --watch checks whenever you save. {COURSE} explains each exercise.")
    else:
        print(f"{COURSE} goes on from here.")


def _show(name: str, verdict: Verdict) -> None:
    if verdict.state == "not begun":
        print(f"{name}: not begun; fill in {FOLDER / name}.py")
        return
    print(f"{name}: solved" if verdict.state == "solved" else f"{name}: not yet. {verdict.hint}")
    if verdict.evidence:
        print(f"  {verdict.evidence}")
    lines = verdict.printed.splitlines()
    if lines:
        print("  It prints:")
        for line in lines[:MAX_PRINTED_LINES]:
            print(f"  | {line}")
        if len(lines) > MAX_PRINTED_LINES:
            print(f"  | and {len(lines) - MAX_PRINTED_LINES} more lines")


def _watch(names: list[str]) -> None:
    """Check each file now, unless it is empty, and again whenever it is saved."""
    print(f"Watching {FOLDER}/; Ctrl-C ends it.", flush=True)
    seen: dict[str, float] = {}
    while True:
        for name in names:
            file = FOLDER / f"{name}.py"
            saved = file.stat().st_mtime if file.is_file() else 0.0
            if seen.get(name) == saved:
                continue
            is_new = name in seen
            seen[name] = saved
            if not saved:
                continue
            verdict = check_file(name, FOLDER)
            if is_new or verdict.state == "wrong":
                _show(name, verdict)
                sys.stdout.flush()
        time.sleep(POLL_INTERVAL_S)
