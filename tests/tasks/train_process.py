"""The stage `train` in a process of its own, as `dvc repro` runs it."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def start_train(workspace: Path) -> "subprocess.Popen[str]":
    """Its lines can be read from `stdout` as they come."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "tasks", "train"],
        cwd=workspace,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
