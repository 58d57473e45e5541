import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.main import run_command
from flows.cli.project import enter_project, find_project
from tasks.workspace.errors import InputError
from tests.conftest import ROOT, copy_of_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_of_project(tmp_path / "project")


def test_find_project_from_a_subdirectory_gives_the_root(project: Path) -> None:
    below = project / "tasks" / "dataset"
    assert find_project(below) == find_project(project) == project


def test_find_project_outside_raises_one_line_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not in a cifarflow project .*cifarflow -C DIR") as raised:
        find_project(tmp_path)
    assert len(str(raised.value).splitlines()) == 1


def test_enter_project_returns_where_the_user_stands(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / "models")
    assert enter_project() == project / "models"
    assert Path.cwd() == project


@pytest.mark.parametrize("command", [["run"], ["doctor"], ["predict", "x.png"], ["serve"]])
def test_command_outside_a_project_exits_2_with_one_line(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(command) == 2
    error = capsys.readouterr().err
    assert "is not in a cifarflow project" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("command", [["--help"], ["--version"], ["toys"], ["run", "--help"]])
def test_command_that_needs_no_project_works_anywhere(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(command) == 0


def test_directory_option_runs_as_if_started_there(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["-C", str(project / "tasks"), "run", "--set", "train.epochs=many"]) == 2
    assert "train.epochs" in capsys.readouterr().err
    assert Path.cwd() == tmp_path
    assert run_command(["-C", "nowhere", "run"]) == 2
    assert "'nowhere' does not exist" in capsys.readouterr().err


def test_recipe_file_is_taken_from_where_the_user_stands(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "models" / "mine.yaml").write_text("train: {epochs: none}\n")
    monkeypatch.chdir(project / "models")
    assert run_command(["run", "--recipe", "mine.yaml"]) == 2
    assert "train.epochs" in capsys.readouterr().err


@pytest.mark.slow
def test_predict_in_a_subdirectory_takes_paths_from_there(small_run: object, project: Path) -> None:
    from PIL import Image

    model = Path(small_run.paths.onnx_model)  # type: ignore[attr-defined]
    (project / "artifacts").mkdir()
    (project / "artifacts" / "model.onnx").write_bytes(model.read_bytes())
    (project / "holiday").mkdir()
    Image.new("RGB", (40, 30), "red").save(project / "holiday" / "red.png")
    command = [sys.executable, "-c", "from flows.cli.main import main; main()", "predict", "red.png"]
    done = subprocess.run(
        command,
        cwd=project / "holiday",
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "red.png" in done.stdout
    assert "../artifacts/model.onnx" in done.stderr
