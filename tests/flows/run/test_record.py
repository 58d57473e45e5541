"""How a flow run ends is recorded, whatever way that is."""

from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.states import Completed, Failed

from flows.run.record import record_run
from tasks.status.run_log import RUN_LOG, read_runs


def record(folder: Path, end: State[Any] | BaseException) -> tuple[str, str, str]:
    """Record a run that ends so: state, type and message of its line."""

    def run() -> State[Any]:
        if isinstance(end, BaseException):
            raise end
        return end

    try:
        assert record_run("retrain", folder, run) is end
    except BaseException as error:
        if error is not end:
            raise
    last = read_runs(folder / RUN_LOG)[-1]
    assert last.flow == "retrain"
    assert last.start_time <= last.end_time
    return last.state, last.state_type, last.message


@pytest.mark.parametrize(
    ("end", "line"),
    [
        (Completed(name="Skipped", message="nothing new"), ("Skipped", "COMPLETED", "nothing new")),
        (Failed(message="the disk is full"), ("Failed", "FAILED", "the disk is full")),
        (Pause("asked"), ("Suspended", "PAUSED", "")),
        (KeyboardInterrupt(), ("Cancelled", "CANCELLED", "interrupted")),
        (ValueError("a bug"), ("Failed", "FAILED", "ValueError: a bug")),
    ],
    ids=["skipped", "failed", "suspended", "interrupted", "bug"],
)
def test_each_end_is_a_line(
    tmp_path: Path, end: State[Any] | BaseException, line: tuple[str, str, str]
) -> None:
    assert record(tmp_path, end) == line


def test_record_or_url_that_fails_is_a_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CIFARFLOW_SUCCESS_URL", "secret")
    state: State[Any] = Completed()
    assert record_run("retrain", tmp_path / "missing", lambda: state) is state
    not_recorded, not_called = caplog.messages
    assert "is not recorded for cifarflow status" in not_recorded
    assert not_called == "CIFARFLOW_SUCCESS_URL is not called: it is no http or https URL"


@pytest.mark.parametrize(("free_bytes", "expected"), [(5e8, ["cifarflow.disk.low"]), (5e11, [])])
def test_little_disk_is_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: float, expected: list[str]
) -> None:
    events: list[str] = []
    monkeypatch.setattr("flows.run.record.emit_event", lambda event, *_, **__: events.append(event))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free_bytes}))
    record(tmp_path, Completed())
    assert events == expected
