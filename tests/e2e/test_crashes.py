"""Runs, workers and servers that are killed: runs end as Crashed, resume, or are not affected."""

import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from filelock import FileLock
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from ruamel.yaml import YAML

from flows.cli.flow_command import PREFECT_ENV
from flows.run.lock import LOCK_FILE
from flows.server.connection import TAG
from tests.conftest import ROOT
from tests.e2e.deployment_server import BIN, DeploymentServer, start_process, stop_process, wait_until

pytestmark = [pytest.mark.server, pytest.mark.distributed, pytest.mark.slow]


def find_checkpoints(workspace: Path) -> list[Path]:
    return [*(workspace / "artifacts/checkpoints").rglob("epoch-*.pt")]


def test_killed_run_is_crashed_and_goes_on_by_itself(server: DeploymentServer, own_workspace: Path) -> None:
    parameters: dict[str, Any] = {"workspace": str(own_workspace), "overrides": {"train": {"epochs": 20}}}
    run = server.start_run("retrain/retrain", **parameters)
    wait_until(lambda: find_checkpoints(own_workspace))
    psutil.Process(int((own_workspace / LOCK_FILE).read_text().split()[1])).kill()
    wait_until(lambda: server.read_state(run) == ("AwaitingRetry", "it crashed, and goes on by itself"))
    server.wait_until_completed(run)
    assert {"Scheduled", "Crashed"} < set(server.read_state_names(run))
    wait_until(lambda: "attempt 2 of 4, after a crash" in server.read_log(run))
    assert "resuming from checkpoint after epoch" in server.read_log(run)


def test_run_that_crashes_again_pauses_and_fails_at_last(
    server: DeploymentServer, own_workspace: Path
) -> None:
    twice = ("RUNNING", "CRASHED", "RUNNING", "CRASHED")
    run = server.start_run("pipeline/pipeline", "2100-01-01T00:00:00Z", workspace=str(own_workspace))
    server.set_states(run, *twice, "SCHEDULED")
    wait_until(lambda: server.read_state(run) == ("AwaitingRetry", "it pauses after a crash"))
    wait_until(lambda: "attempt 3 of 4, after a crash" in server.read_log(run))
    wait_until(lambda: not server.read_worker_processes())
    server.set_states(run, *twice, "SCHEDULED")
    assert server.wait_until_completed(run, name="Failed").startswith("it has crashed 4 times since ")


@pytest.fixture
def start_command(
    server: DeploymentServer, champion_copy: Path
) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts `cifarflow run --wait` in a locked project: it waits, which takes no processor time."""
    commands: list[subprocess.Popen[bytes]] = []
    machine = server.at(champion_copy)

    def start() -> subprocess.Popen[bytes]:
        log = champion_copy / f"command-{len(commands)}.log"
        commands.append(start_process([str(BIN / "cifarflow"), "run", "--wait"], machine, log))
        return commands[-1]

    with FileLock(champion_copy / LOCK_FILE):
        yield start
        for command in commands:
            stop_process(command)


def test_runs_that_miss_their_heartbeats_and_no_others_are_crashed(
    server: DeploymentServer, own_workspace: Path, start_command: Callable[[], subprocess.Popen[bytes]]
) -> None:
    """The automation sees four runs at once, and has to wait as long as heartbeats allow only once."""
    finished = server.start_run("neuron/neuron")
    known = {run["id"] for run in server.read_runs()}

    def start_and_find() -> tuple[subprocess.Popen[bytes], str]:
        command = start_command()
        run = wait_until(lambda: {run["id"] for run in server.read_runs()} - known).pop()
        known.add(run)
        wait_until(lambda: server.read_events("prefect.flow-run.heartbeat", run))
        return command, run

    _, alive = start_and_find()
    command, killed = start_and_find()
    command.kill()
    with FileLock(own_workspace / LOCK_FILE):
        run = server.start_run("pipeline/pipeline", workspace=str(own_workspace))
        wait_until(lambda: server.read_events("prefect.flow-run.heartbeat", run))
        server.wait_until_completed(finished)
        server.emit_heartbeat(finished)  # as from a thread that ends too late
        server.kill_worker()  # with its run: nobody is left to report it
        try:
            assert {server.read_state(each)[0] for each in (alive, killed, run)} == {"Running"}
            for each in (killed, run):
                wait_until(partial(is_crashed, server, each))
            # The command's run has no deployment, from which it could be started again.
            assert "no heartbeat" in server.read_state(killed)[1]
            wait_until(
                lambda: server.read_state(run) == ("AwaitingRetry", "it crashed, and goes on by itself")
            )
            # The automation has looked at the finished run as well, and Prefect lets no run leave its end.
            wait_until(lambda: server.read_events("prefect.automation.action.failed", finished))
        finally:
            server.start_worker()
    assert server.read_state(finished)[0] == "Completed"
    assert server.read_state(alive)[0] == "Running"  # its first heartbeat was the first of all


def is_crashed(server: DeploymentServer, run: str) -> bool:
    return "Crashed" in server.read_state_names(run)


def test_automation_allows_for_missed_heartbeats() -> None:
    automation, *_ = YAML(typ="safe").load(ROOT / "automations.yaml")["automations"]
    deployments = YAML(typ="safe").load(ROOT / "prefect.yaml")
    interval_s = {
        int(deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
        for deployment in deployments["deployments"]
    }
    assert interval_s == {30} == {int(PREFECT_ENV["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])}
    assert automation["trigger"]["match_related"]["prefect.resource.id"] == f"prefect.tag.{TAG}"
    assert all(TAG in deployment["tags"] for deployment in deployments["deployments"])
    assert automation["trigger"]["within"] == 100  # three of them, and some seconds


def test_restarted_server_loses_no_run(server: DeploymentServer, own_workspace: Path) -> None:
    parameters: dict[str, Any] = {"workspace": str(own_workspace), "overrides": {"train": {"epochs": 40}}}
    run = server.start_run("retrain/retrain", **parameters)
    wait_until(lambda: find_checkpoints(own_workspace))
    assert server.read_state(run)[0] == "Running"
    server.stop()
    assert not server.is_healthy()
    server.start()
    server.wait_until_completed(run)


def test_missing_retraining_is_noticed_while_the_server_runs(server: DeploymentServer) -> None:
    def read_alarms() -> list[str]:
        events = server.request(
            "events/filter", {"filter": {"event": {"name": ["prefect.automation.triggered"]}}}
        )["events"]
        return [
            event["id"] for event in events if "no retraining" in event["resource"]["prefect.resource.name"]
        ]

    wait_until(read_alarms)


def test_only_a_retraining_that_ended_well_resets_the_alarm() -> None:
    _, automation, *_ = YAML(typ="safe").load(ROOT / "automations.yaml")["automations"]
    trigger = EventTrigger.model_validate(automation["trigger"])

    def is_expected(event: str, flow: str) -> bool:
        related = {"prefect.resource.role": "flow", "prefect.resource.id": "prefect.flow.1"}
        received = ReceivedEvent.model_validate(
            {
                "id": uuid4(),
                "occurred": datetime.now(UTC),
                "event": f"prefect.flow-run.{event}",
                "resource": {"prefect.resource.id": "prefect.flow-run.1"},
                "related": [related | {"prefect.resource.name": flow}],
            }
        )
        return trigger.covers(received) and trigger.expects(received.event)

    assert is_expected("Completed", "retrain")
    assert is_expected("Skipped", "retrain")
    assert not is_expected("Failed", "retrain")
    assert not is_expected("Completed", "pipeline")
