"""Runs, workers and servers that are killed: runs end as Crashed, resume, or are not affected."""

from pathlib import Path

import psutil
import pytest
from filelock import FileLock
from ruamel.yaml import YAML

from flows.cli.console import PREFECT_ENV
from flows.run.lock import LOCK_FILE
from flows.server.connection import TAG
from tests.conftest import ROOT
from tests.e2e.deployment_server import DeploymentServer, wait_until

pytestmark = [pytest.mark.server, pytest.mark.distributed, pytest.mark.slow]


def find_checkpoints(workspace: Path) -> list[Path]:
    return [*(workspace / "artifacts/checkpoints").rglob("epoch-*.pt")]


def test_killed_run_is_crashed_and_the_next_resumes(server: DeploymentServer, own_workspace: Path) -> None:
    parameters = {"workspace": str(own_workspace), "overrides": {"train": {"epochs": 20}}}
    run = server.start_run("retrain/retrain", **parameters)
    wait_until(lambda: find_checkpoints(own_workspace))
    lock = own_workspace / LOCK_FILE
    psutil.Process(int(lock.read_text().split()[1])).kill()
    wait_until(lambda: server.read_state(run)[0] == "Crashed", 60)
    with FileLock(lock, timeout=1):
        pass
    resumed = server.start_run("retrain/retrain", **parameters)
    server.wait_until_completed(resumed)
    assert "resuming from checkpoint after epoch" in server.read_log(resumed)


def test_run_without_heartbeats_is_crashed(server: DeploymentServer, own_workspace: Path) -> None:
    """Worker and run die at once: nobody is left to report it, and the automation misses the heartbeats."""
    with FileLock(own_workspace / LOCK_FILE):  # the run waits, which takes no processor time
        run = server.start_run("pipeline/pipeline", workspace=str(own_workspace))
        heartbeats = {
            "filter": {
                "event": {"name": ["prefect.flow-run.heartbeat"]},
                "resource": {"id": [f"prefect.flow-run.{run}"]},
            }
        }
        wait_until(lambda: server.request("events/filter", heartbeats)["total"] > 0)
        server.kill_worker()
        try:
            assert server.read_state(run)[0] == "Running"
            wait_until(lambda: server.read_state(run)[0] == "Crashed")
            assert "no heartbeat" in server.read_state(run)[1]
        finally:
            server.start_worker()


def test_automation_allows_for_missed_heartbeats() -> None:
    (automation,) = YAML(typ="safe").load(ROOT / "automations.yaml")["automations"]
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
    parameters = {"workspace": str(own_workspace), "overrides": {"train": {"epochs": 40}}}
    run = server.start_run("retrain/retrain", **parameters)
    wait_until(lambda: find_checkpoints(own_workspace))
    assert server.read_state(run)[0] == "Running"
    server.stop()
    assert not server.is_healthy()
    server.start()
    server.wait_until_completed(run)
