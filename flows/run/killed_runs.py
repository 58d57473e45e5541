"""What a killed process leaves behind: runs that seem to go on, and Prefect's file with its environment."""

import logging
import tempfile
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType, TaskRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from tasks.workspace.files import read_json, write_json

logger = logging.getLogger(__name__)

MANIFESTS = "prefect-workspace-attempt-*/workspace.json"
"""where Prefect writes a file about each run that a worker starts, below the temporary directory"""
UNFINISHED = [StateType.RUNNING, StateType.PENDING]


def end_flow_run(flow_run_id: str) -> None:
    """Mark a flow run whose process is gone, and its task runs, as crashed, unless they have ended.

    A server that does not know the run, or does not answer, stops nothing.
    """
    _end(flow_run_id, with_flow_run=True)


def end_task_runs(flow_run_id: str) -> None:
    """Mark task runs as crashed whose worker was killed together with the training."""
    _end(flow_run_id, with_flow_run=False)


def _end(flow_run_id: str, *, with_flow_run: bool) -> None:
    crashed: State[None] = Crashed(message="its process was killed")
    try:
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(UUID(flow_run_id))
            for task_run in _read_unfinished(client, flow_run.id):
                client.set_task_run_state(task_run.id, crashed, force=True)
            if with_flow_run and flow_run.state_type in UNFINISHED:
                client.set_flow_run_state(flow_run.id, crashed, force=True)
    except ObjectNotFound:  # The run was on a temporary server, which has ended with it.
        return
    except Exception as error:  # noqa: BLE001 - whatever the client raises, the run goes on
        reason = type(error).__name__
        logger.warning("the killed flow run %s stays Running in Prefect: %s", flow_run_id, reason)


def _read_unfinished(client: SyncPrefectClient, flow_run_id: UUID) -> list[TaskRun]:
    """Read all task runs that have not ended; the server gives them in pages."""
    task_runs: list[TaskRun] = []
    while page := client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=UNFINISHED))),
        offset=len(task_runs),
    ):
        task_runs += page
    return task_runs


def clear_manifest_environment() -> None:
    """Take the environment, which holds secrets, out of Prefect's file about the run in this folder.

    Prefect deletes the file at the run's end, but a run that is killed leaves it. Only hooks of flows for a
    crash or a cancellation are started with that environment, and no flow here has one.
    """
    for file in Path(tempfile.gettempdir()).glob(MANIFESTS):
        try:
            manifest = read_json(file)
        except (OSError, ValueError):  # The file is another run's, which deletes or writes it right now.
            continue
        if Path(manifest.get("working_directory", "")).resolve() == Path.cwd():
            write_json(file, manifest | {"environment": {}, "hook_command": None})
