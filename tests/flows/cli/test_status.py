"""`cifarflow status` as its user has it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli.main import run_command
from flows.run.lock import workspace_lock
from tasks.status.run_log import RunRecord, append_run
from tests.conftest import ROOT
from tests.shipped_params import PARAMS_FILE

IMPORTED = """
import sys
from flows.cli.main import run_command
code = run_command(["status", "--json"])
found = {name.partition(".")[0] for name in sys.modules}
print(code, sorted(found & {"prefect", "dvc", "torch"}), file=sys.stderr)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which nothing has run, and a folder in it, which is the current one."""
    for file in (PARAMS_FILE, ROOT / "dvc.yaml", ROOT / "prefect.yaml"):
        shutil.copy(file, tmp_path)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    return tmp_path


def test_status_is_shown_without_prefect_dvc_or_pytorch(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stderr == "0 []\n"
    assert json.loads(done.stdout)["problems"] == []
    assert "<h1>Status</h1>" in (project / "reports/status.html").read_text()


def test_exit_code_says_whether_there_is_something_to_do(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["status", "--max-age", "8d"]) == 1
    assert capsys.readouterr().out.endswith("problem   no retraining that ended well is recorded here\n")
    assert run_command(["status", "--check"]) == 0
    time = "2026-11-30T02:00:00+00:00"
    append_run(
        RunRecord("retrain", "fox", time, time, "Failed", "FAILED", "no space"),
        project / ".cifarflow-runs.jsonl",
    )
    assert run_command(["status"]) == 0
    assert run_command(["status", "--check"]) == 1
    assert "problem   the last run of retrain (fox) is Failed: no space\n" in capsys.readouterr().out


def test_status_shows_who_runs_and_disturbs_nobody(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    with workspace_lock(flow_run_id="id"):
        assert run_command(["status"]) == 0
    assert f"running   process {os.getpid()} " in capsys.readouterr().out
    Path(".cifarflow.lock").write_text("process 7 (cifarflow)\nid\n")
    assert run_command(["status", "--check"]) == 1
    assert "problem   process 7 (cifarflow) was killed in its run; " in capsys.readouterr().out


def test_page_that_cannot_be_written_is_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "reports").write_text("a file where the folder should be")
    assert run_command(["status"]) == 0
    assert capsys.readouterr().err.startswith("cannot write reports/status.html: ")


def test_wrong_age_exits_2_with_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["status", "--max-age", "soon"]) == 2
    assert capsys.readouterr().err == (
        "cifarflow: 'soon' is no age; write minutes, hours, days or weeks, such as 90m, 36h, 8d or 2w\n"
    )
