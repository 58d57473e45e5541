"""What every flow run needs, without a server: progress, the state after an error."""

import logging
from typing import Any

import pytest
from prefect.client.schemas.objects import State

from flows.run import flow_run
from flows.run.flow_run import ProgressReporter, TaskChain, fail_in_one_line
from flows.run.lock import WorkspaceLockedError
from flows.run.markdown import TaskRunSummary
from tasks.workspace.errors import RunError


def test_task_chain_message_names_what_ran() -> None:
    chain = TaskChain()
    chain.runs = [TaskRunSummary("split", "Cached", 0.1, ""), TaskRunSummary("train", "Completed", 9.0, "")]
    assert chain.message == "ran: train"
    chain.runs = chain.runs[:1]
    assert chain.message == "everything was up to date"


def test_progress_reporter_unreachable_server_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[float] = []

    def create_progress_artifact(progress: float, key: str) -> None:
        calls.append(progress)
        raise ConnectionError("no server")

    monkeypatch.setattr(flow_run, "create_progress_artifact", create_progress_artifact)
    monkeypatch.setattr(flow_run, "get_run_logger", logging.getLogger)
    report = ProgressReporter("train")
    for fraction in (0.0, 0.5, 1.0):
        report(fraction, "an epoch")
    assert calls == [0.0]
    assert caplog.messages == ["progress artifact disabled: ConnectionError"]


@pytest.mark.parametrize(
    ("error", "scheduled", "name"),
    [
        (RunError("x"), False, "Failed"),
        (RunError("x"), True, "Failed"),
        (WorkspaceLockedError("x"), False, "Failed"),
        (WorkspaceLockedError("x"), True, "Cancelled"),
    ],
)
def test_fail_in_one_line_cancels_only_scheduled_runs_of_locked_workspace(
    error: RunError, scheduled: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_run, "_is_scheduled", lambda: scheduled)

    @fail_in_one_line
    def fail() -> State[Any]:
        raise error

    state = fail()
    assert (state.name, state.message) == (name, "x")


def test_fail_in_one_line_names_the_file_that_cannot_be_written() -> None:
    @fail_in_one_line
    def fail() -> State[Any]:
        raise OSError(28, "No space left on device", "dvc.lock")

    state = fail()
    assert (state.name, state.message) == ("Failed", "cannot read or write dvc.lock: No space left on device")
    assert isinstance(state.data, RunError)
