"""What a killed process could not tell Prefect's server: that its flow run and its task runs have ended."""

import logging
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

logger = logging.getLogger(__name__)

UNFINISHED = [StateType.RUNNING, StateType.PENDING]


def end_flow_run(flow_run_id: str) -> None:
    """Mark a flow run whose process is gone, and its task runs, as crashed, unless they have ended.

    Display only: a server that does not know the run, or does not answer, stops nothing.
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
    except ObjectNotFound:  # of a temporary server, which went with it
        return
    except Exception as error:  # noqa: BLE001 - whatever the client raises, the run goes on
        reason = type(error).__name__
        logger.warning("the killed flow run %s stays Running in Prefect: %s", flow_run_id, reason)


def _read_unfinished(client: SyncPrefectClient, flow_run_id: UUID) -> list[TaskRun]:
    """All of them: the server answers in pages."""
    task_runs: list[TaskRun] = []
    while page := client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=UNFINISHED))),
        offset=len(task_runs),
    ):
        task_runs += page
    return task_runs
