"""The command of one environment, started in projects that are not the one it was installed from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from flows.cli.launch import _require_own
from tests.conftest import ROOT, copy_of_project
from tests.flows.git_clones import git

LAUNCH = (sys.executable, "-P", "-c", "from flows.cli.launch import main; main()")
"""as the command does in an environment in which the code of ROOT is installed"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Another project: a copy of the code, with a version of its own."""
    folder = copy_of_project(tmp_path / "project")
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pyproject.toml").write_text('[project]\nname = "cifarflow"\nversion = "9.8.7"\n')
    return folder


def launch(*arguments: str, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAUNCH, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        **options,  # type: ignore[call-overload]
    )


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [([], "."), ([], "tasks/dataset"), (["-C", "project/tasks"], ".."), (["-Cproject"], "..")],
)
def test_code_of_the_project_runs(arguments: list[str], folder: str, project: Path) -> None:
    done = launch(*arguments, "--version", cwd=project / folder)
    assert done.stdout == f"cifarflow 9.8.7 from {project}\n", done.stderr


def test_installed_code_runs_outside_a_project(project: Path) -> None:
    done = launch("--version", cwd=project.parent)
    assert done.stdout.endswith(f" from {ROOT}\n"), done.stderr


def test_sample_workspace_in_a_project_runs_the_code_of_the_project(project: Path) -> None:
    copy_of_project(project / "sample")
    assert launch("--version", cwd=project / "sample").stdout == f"cifarflow 9.8.7 from {project}\n"


def test_project_through_a_link_is_the_installed_one(project: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(ROOT)
    assert launch("-C", "link", "--version", cwd=tmp_path).stdout.endswith(f" from {ROOT}\n")


def test_processes_that_a_command_starts_run_the_same_code(project: Path) -> None:
    append(
        project / "flows/cli/main.py",
        "\nimport subprocess\n"
        "subprocess.run([sys.executable, '-m', 'tasks.workspace.code', 'train'], cwd='/', check=True)\n",
    )
    append(project / "tasks/workspace/code.py", "\nprint(__file__, flush=True)\n")
    done = launch("--version", cwd=project)
    assert done.stdout.splitlines()[:2] == [str(project / "tasks/workspace/code.py"), "- models"], done.stderr


@pytest.mark.parametrize("file", ["flows/cli/main.py", "tasks/workspace/errors.py", "flows/cli/doctor.py"])
def test_syntax_error_in_the_project_is_one_line(file: str, project: Path) -> None:
    append(project / file, "\ndef broken(:\n")
    done = launch("doctor", cwd=project)
    assert done.returncode == 1
    line = len((project / file).read_text(encoding="utf-8").splitlines())
    assert done.stderr == f"cifarflow: {project / file}, line {line}: invalid syntax\n"


def test_code_of_another_user_is_not_run(project: Path, other_uid: int) -> None:
    for path in (project, project / "flows/cli/main.py"):
        os.chown(path, other_uid, other_uid)
        done = launch("--version", cwd=project / "tasks")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert f"another user owns the project {project}, so its code is not run" in done.stderr
        os.chown(path, 0, 0)


def test_code_that_root_owns_is_run(project: Path, other_uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: other_uid)
    _require_own(project)


@pytest.mark.slow
def test_new_outside_a_project_is_made_of_the_installed_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a shell or a hook has pointed Git at another repository."""
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (16, 16), (40 * i, 0, 0)).save(tmp_path / "images" / label / f"{i}.png")
    other = tmp_path / "other"
    git(tmp_path, "init", "--quiet", str(other))
    variables = {"GIT_DIR": other / ".git", "GIT_WORK_TREE": other, "GIT_INDEX_FILE": tmp_path / "index"}
    identity = {f"GIT_{role}_{key}": "T" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    with monkeypatch.context() as patch:
        for name, value in (variables | identity).items():
            patch.setenv(name, str(value))
        done = launch("new", "flowers", "--images", "images", "--image-size", "16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert git(tmp_path / "flowers", "status", "--short") == ""
    assert git(tmp_path / "flowers", "ls-files", "flows/cli/launch.py")
    assert git(other, "status", "--short") == ""
    assert launch("-C", "flowers", "--version", cwd=tmp_path).stdout.endswith(f" from {tmp_path}/flowers\n")


@pytest.mark.slow
@pytest.mark.server
def test_run_fails_by_the_syntax_error_of_the_project_that_it_is_started_in(project: Path) -> None:
    append(project / "tasks/split.py", "\ndef broken(:\n")
    done = launch("run", "--sample", cwd=project)
    assert done.returncode == 1, done.stdout
    line = len((project / "tasks/split.py").read_text(encoding="utf-8").splitlines())
    assert done.stderr.splitlines()[-1].endswith(f"{project}/tasks/split.py, line {line}: invalid syntax")
    assert (
        "split" not in (project / "sample/dvc.lock").read_text()
        if (project / "sample/dvc.lock").exists()
        else True
    )


def test_stage_refuses_to_run_other_code_than_dvc_hashes(project: Path) -> None:
    append(project / "tasks/split.py", "\nX = 1\n")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tasks", "split"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"split: {project}/tasks/split.py, which DVC hashes, is not the code that runs, {ROOT}/tasks/split.py"
    )
