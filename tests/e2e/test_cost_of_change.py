"""CONTRIBUTING's table "What to touch": each addition, made in a copy, needs no other file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.additions import ADDITIONS
from tests.shipped_params import PARAMS_FILE

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ADDITIONS)
def test_addition_touches_no_more_files_than_contributing_says(name: str) -> None:
    edits, limit = ADDITIONS[name]
    assert len({edit.file for edit in edits}) <= limit


def test_project_with_all_additions_passes_its_own_rules(tmp_path: Path) -> None:
    project = tmp_path / "project"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        if (ROOT / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, project / name)
    shutil.copy(PARAMS_FILE, project)  # whose values the edits expect
    for edits, _ in ADDITIONS.values():
        for edit in edits:
            edit.apply(project)
    python = [sys.executable, "-m"]
    environment = os.environ | {"PYTHONPATH": str(project)}
    environment = {key: value for key, value in environment.items() if not key.startswith("PYTEST_")}
    subprocess.run([sys.executable, "docs/parameters.py"], cwd=project, env=environment, check=True)
    new = [edit.file for edits, _ in ADDITIONS.values() for edit in edits if "/test_" in edit.file]
    rules = [
        "tests/test_layout.py",
        "tests/tasks/test_stages.py",
        "tests/tasks/test_params.py",
        "tests/tasks/test_overrides.py",
    ]
    command = [
        *python,
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *rules,
        "tests/flows/toys/test_catalog.py",
        *new,
    ]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
