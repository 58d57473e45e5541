"""Bound how often a flow run goes on by itself after a crash.

automations.yaml puts a crashed run of a deployment back into its queue, as the same run, and a worker takes
it up again: it resumes from what is finished, and from its last checkpoint. A run that crashes again and
again, for instance because its memory never suffices, must end some time. Prefect's actions cannot count, so
the run counts.
"""

import datetime as dt
from collections.abc import Sequence

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import Abort
from prefect.states import AwaitingRetry

from tasks.workspace.errors import RunError

PAUSES = (dt.timedelta(0), dt.timedelta(minutes=10), dt.timedelta(hours=1))
"""how long a run waits at least after its first crash, its second and so on; after one more it fails"""


def bound_attempts() -> None:
    """Say which attempt this is, after a crash, and leave the process where the pause is not over yet.

    `RunError` after the last attempt, so that the run fails, which Prefect does not repeat. Whoever retries
    the failed run by hand gives it all attempts again.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        return
    with get_client(sync_client=True) as client:
        crashes = find_crashes(client.read_flow_run_states(context.flow_run.id))
        if not crashes:
            return
        starts_at = find_start(crashes)
        get_run_logger().info("attempt %d of %d, after a crash", len(crashes) + 1, len(PAUSES) + 1)
        if starts_at > dt.datetime.now(dt.UTC):
            state: State[None] = AwaitingRetry(scheduled_time=starts_at, message="it pauses after a crash")
            client.set_flow_run_state(context.flow_run.id, state, force=True)
            raise Abort(f"the next attempt is at {starts_at}")


def find_crashes(states: Sequence[State]) -> list[dt.datetime]:
    """Return when attempts of a run have crashed since it last ended otherwise; `states` is its history.

    One crash may be reported twice, by the worker and by the process that it started.
    """
    crashes: list[dt.datetime] = []
    running = False
    for state in sorted(states, key=lambda state: state.timestamp):
        if state.is_crashed() and running:
            crashes.append(state.timestamp)
        elif state.is_final() and not state.is_crashed():
            crashes.clear()
        running = state.is_running() or (running and not state.is_final())
    return crashes


def find_start(crashes: Sequence[dt.datetime]) -> dt.datetime:
    """Return when the next attempt begins. `RunError` if there is none; `crashes` holds at least one time."""
    if len(crashes) > len(PAUSES):
        raise RunError(
            f"it has crashed {len(crashes)} times since {crashes[0]:%Y-%m-%d %H:%M} UTC, and is not started "
            "again; its log and docs/deployment.md say what to look at"
        )
    return crashes[-1] + PAUSES[len(crashes) - 1]
