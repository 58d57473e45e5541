"""The project: the directory that holds dvc.yaml and params.yaml."""

import os
from pathlib import Path

from flows.cli.launch import MARKERS
from tasks.workspace.errors import InputError


def find_project(start: Path) -> Path:
    """`start` or the nearest directory above it that is a project, as Git and DVC find theirs.

    `InputError` where there is none.
    """
    for directory in (start, *start.parents):
        if all((directory / name).is_file() for name in MARKERS):
            return directory
    raise InputError(
        f"{start} is not in a cifarflow project (no directory from here up has {' and '.join(MARKERS)}); "
        "change to one, or name it: cifarflow -C DIR ..."
    )


def enter_project() -> Path:
    """Make the project the current directory; returns the one before, which the user's paths refer to."""
    start = Path.cwd()
    os.chdir(find_project(start))
    return start
