"""What the tests of the whole share: the sample's project after `dvc repro`."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.runtime.sample_workspace import prepare_sample_workspace
from tasks.overrides import parse_overrides, write_overrides
from tests.conftest import QUICK, ROOT, copy_of_project


def run_command(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def reproduced_project(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """The project with the sample as its data, in Git, after `dvc repro`, the command."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            (folder / "project").mkdir()
            patch.chdir(copy_of_project(folder / "project"))
            shutil.copy(ROOT / ".gitignore", ".")
            workspace = prepare_sample_workspace(Path())
            (workspace / "data").rename("data")
            (workspace / "params.yaml").rename("params.yaml")
            shutil.rmtree(workspace)
            write_overrides(Path("params.yaml"), parse_overrides(QUICK))
            Path("data.dvc").unlink()
            run_command("git", "init", "--quiet")
            run_command("git", "config", "user.email", "tests@example.org")
            run_command("git", "config", "user.name", "tests")
            run_command("dvc", "init", "--quiet")
            run_command("dvc", "add", "--quiet", "data")
            run_command("dvc", "repro", "--quiet")
            run_command("git", "add", "--all")
            run_command("git", "commit", "--quiet", "--message", "first")

    return once("reproduced", make) / "project"


@pytest.fixture
def project(reproduced_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    shutil.copytree(reproduced_project, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"
