"""`predict --record` and `drift` as their user has them."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from flows.cli.main import run_command
from tasks.params import Params
from tests.conftest import ROOT
from tests.shipped_params import PARAMS_FILE


@pytest.fixture
def project(small_run: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the sample's model and splits, and a folder in it, which is the current one."""
    for file in (PARAMS_FILE, ROOT / "dvc.yaml"):
        shutil.copy(file, tmp_path)
    (tmp_path / "artifacts").mkdir()
    for name in (small_run.paths.onnx_model, small_run.paths.splits):
        shutil.copy(name, tmp_path / "artifacts")
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path / "images")
    return tmp_path


def test_drift_of_recorded_predictions_is_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(60):
        Image.new("RGB", (32, 32), (i, i, i)).save(f"{i}.png")
    assert run_command(["predict", "--record", "asked.jsonl", "--json", "."]) == 0
    assert len(Path("asked.jsonl").read_text().splitlines()) == 60
    capsys.readouterr()
    assert run_command(["drift", "asked.jsonl"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("images/asked.jsonl: drift in 60 images: they differ from the validation images: ")
    assert line.endswith(": reports/drift.html")
    assert (project / "reports/drift.html").is_file()
    assert run_command(["drift"]) == 0
    assert capsys.readouterr().out.startswith("incoming: too few images to test for drift: 0, from ")


def test_drift_of_what_is_no_record_exits_2_with_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("notes.txt").write_text("no record\n")
    for source, message in (("notes.txt", "is no record of predictions"), ("none", "'none' does not exist")):
        assert run_command(["drift", source]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
