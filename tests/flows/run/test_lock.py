import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.run.lock import LOCK_FILE, WorkspaceLockedError, read_lock, workspace_lock

HOLD = """
from flows.run.lock import workspace_lock
with workspace_lock():
    print('held', flush=True)
    input()
"""


@pytest.fixture
def holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock of the current folder."""
    monkeypatch.chdir(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_workspace_lock_held_by_another_process_raises(holder: "subprocess.Popen[str]") -> None:
    with (
        pytest.raises(WorkspaceLockedError, match=rf"^process {holder.pid} .* is running in this directory"),
        workspace_lock(),
    ):
        pass


def test_workspace_lock_of_a_killed_process_is_free(holder: "subprocess.Popen[str]") -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with workspace_lock():
        pass


def test_workspace_lock_with_wait_waits(
    holder: "subprocess.Popen[str]", capsys: pytest.CaptureFixture[str]
) -> None:
    assert holder.stdin is not None
    threading.Timer(0.2, lambda: holder.communicate("\n")).start()
    with workspace_lock(wait=True):
        assert holder.poll() is not None
    assert f"waiting for process {holder.pid}" in capsys.readouterr().out


def test_workspace_lock_can_be_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        with workspace_lock():
            pass


def test_read_lock_says_who_holds_it_and_whether_a_flow_run_was_killed(
    holder: "subprocess.Popen[str]",
) -> None:
    state = read_lock()
    assert (state.is_held, state.killed) == (True, False)
    assert state.holder.startswith(f"process {holder.pid} ")
    holder.communicate("\n")
    state = read_lock()
    assert (state.is_held, state.killed) == (False, False)
    LOCK_FILE.write_text("process 7 (cifarflow)\nflow-run-id\n")
    assert read_lock().killed


def test_read_lock_creates_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not read_lock().is_held
    assert not LOCK_FILE.exists()
