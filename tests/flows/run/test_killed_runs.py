import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.states import Completed, Running

from flows.parameters import DriftParameters
from flows.run.flow_run import exclusive_workspace
from flows.run.killed_runs import end_flow_run
from flows.run.lock import workspace_lock

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

HOLD = """
import sys
from flows.run.lock import workspace_lock
with workspace_lock(flow_run_id=sys.argv[1]):
    print('held', flush=True)
    input()
"""


@flow
def long_flow() -> None: ...


@task
def train() -> None: ...


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as opened:
        yield opened


@pytest.fixture
def running(client: SyncPrefectClient) -> tuple[UUID, UUID]:
    """A flow run and its task run that the server holds for running."""
    state: State[None] = Running()
    flow_run = client.create_flow_run(long_flow, state=state)
    return flow_run.id, client.create_task_run(train, flow_run.id, "0", state=state).id


def hold_and_kill(flow_run_id: UUID) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(flow_run_id)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.send_signal(signal.SIGKILL)


@pytest.mark.server
def test_exclusive_workspace_after_a_killed_run_ends_it_and_its_task_runs(
    client: SyncPrefectClient, running: tuple[UUID, UUID], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flow_run, task_run = running
    hold_and_kill(flow_run)
    with exclusive_workspace(DriftParameters(workspace=tmp_path, wait=False)):
        pass
    for state in (client.read_flow_run(flow_run).state, client.read_task_run(task_run).state):
        assert state is not None
        assert (state.name, state.message) == ("Crashed", "its process was killed")


@pytest.mark.server
def test_end_flow_run_that_has_ended_leaves_its_state(
    client: SyncPrefectClient, running: tuple[UUID, UUID]
) -> None:
    flow_run, task_run = running
    ended: State[None] = Completed()
    client.set_task_run_state(task_run, ended, force=True)
    client.set_flow_run_state(flow_run, ended, force=True)
    end_flow_run(str(flow_run))
    assert client.read_flow_run(flow_run).state_name == "Completed"
    assert client.read_task_run(task_run).state_name == "Completed"


@pytest.mark.usefixtures("prefect_server")
def test_end_flow_run_that_the_server_does_not_know_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    end_flow_run(str(uuid4()))
    assert not caplog.records


def test_end_flow_run_without_a_server_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr("flows.run.killed_runs.get_client", refuse)
    end_flow_run(str(uuid4()))
    assert "stays Running in Prefect: ConnectionError" in caplog.text


def test_workspace_lock_hands_on_the_killed_run_until_one_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    killed = uuid4()
    hold_and_kill(killed)
    with workspace_lock() as found:  # one that is no flow run
        assert found == str(killed)
    with workspace_lock(flow_run_id=str(uuid4())) as found:
        assert found == str(killed)
    with workspace_lock(flow_run_id=str(uuid4())) as found:
        assert not found
