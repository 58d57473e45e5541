"""Record how each flow run ended, for `cifarflow status`, and call the URL that is set for such an end."""

import datetime as dt
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.exceptions import Abort, Pause
from prefect.runtime import flow_run

from tasks.status.ping import ping
from tasks.status.run_log import RUN_LOG, RunRecord, append_run
from tasks.status.status import describe_low_disk
from tasks.workspace.errors import RunError

logger = logging.getLogger(__name__)


def record_run(flow: str, workspace: Path, run: Callable[[], State[Any]]) -> State[Any]:
    """Run a flow's function, and record its last state in the workspace, which may be skipped or suspended.

    A run that is killed leaves no line, but the lock names it. A record that cannot be written, or a URL that
    does not answer, is one line in the log: the run has ended as it has.
    """
    started = _now()
    try:
        state = run()
    except Pause:
        _record(workspace, flow, started, "Suspended", "PAUSED", "")
        raise
    except Abort as later:  # flows/run/attempts.py
        _record(workspace, flow, started, "AwaitingRetry", "SCHEDULED", str(later))
        raise
    except Exception as error:
        _record(workspace, flow, started, "Failed", "FAILED", f"{type(error).__name__}: {error}")
        raise
    except BaseException:
        _record(workspace, flow, started, "Cancelled", "CANCELLED", "interrupted")
        raise
    _record(workspace, flow, started, str(state.name), state.type.value, state.message or "")
    return state


def _record(workspace: Path, flow: str, started: str, *end: str) -> None:
    record = RunRecord(flow, str(flow_run.name), started, _now(), *end)
    try:
        append_run(record, workspace / RUN_LOG)
    except (OSError, RunError) as error:
        logger.warning("the end of this run is not recorded for cifarflow status: %s", error)
    if problem := ping(record):
        logger.warning(problem)
    _report_low_disk(workspace)


def _report_low_disk(workspace: Path) -> None:
    """Emit `cifarflow.disk.low` if the next run may lack disk, since a full disk leaves no time to react."""
    if not workspace.is_dir():
        return  # The run has failed for that reason.
    free_bytes = shutil.disk_usage(workspace).free
    if summary := describe_low_disk(free_bytes):
        payload = {"free_bytes": free_bytes, "summary": summary}
        emit_event("cifarflow.disk.low", {"prefect.resource.id": "cifarflow.disk"}, payload=payload)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
