"""Retrainings that wait for a person on a real server with a real worker: yes, no, no answer, a restart."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from flows.run.lock import LOCK_FILE
from tasks.registry import ledger
from tasks.registry.ledger import CHAMPION, LEDGER
from tests.e2e.deployment_server import DeploymentServer, wait_until

pytestmark = [pytest.mark.server, pytest.mark.distributed, pytest.mark.slow]

IMPROVE = {"train": {"epochs": 3}, "compare": {"max_latency_ratio": 50.0}}  # as in tests/flows/conftest.py
YES = {"approve": True, "reason": "good on my photos, too", "person": "ada"}


@pytest.fixture
def start_retrain(
    server: DeploymentServer, deployment_folder: Path, tmp_path: Path
) -> Callable[..., tuple[str, Path]]:
    """Starts a retraining that asks before it promotes, in a workspace of its own."""

    def start(name: str, **parameters: Any) -> tuple[str, Path]:
        workspace = shutil.copytree(deployment_folder, tmp_path / name)
        parameters |= {"workspace": str(workspace), "overrides": IMPROVE, "approve": True}
        return server.start_run("retrain/retrain", **parameters), workspace

    return start


def wait_until_suspended(server: DeploymentServer, run: str) -> None:
    final = {"Suspended", "Failed", "Crashed", "Completed"}
    state = wait_until(lambda: (s := server.request(f"flow_runs/{run}")["state"])["name"] in final and s)
    assert state["name"] == "Suspended", state["message"]
    keys = state["state_details"]["run_input_keyset"]
    wait_until(lambda: server.request(f"flow_runs/{run}/input/{keys['description']}"))  # the form comes last


def answer(server: DeploymentServer, run: str, **run_input: Any) -> dict[str, Any]:
    """What the form in Prefect's UI sends."""
    return dict(server.request(f"flow_runs/{run}/resume", {"run_input": run_input}))


def read_entries(workspace: Path) -> list[ledger.LedgerEntry]:
    return ledger.read_ledger(workspace / LEDGER)


def test_retrain_is_suspended_until_approved_and_outlives_a_restart_of_the_server(
    server: DeploymentServer, start_retrain: Callable[..., tuple[str, Path]]
) -> None:
    run, workspace = start_retrain("approved")
    wait_until_suspended(server, run)
    champion = (workspace / CHAMPION).read_bytes()
    assert [entry.decision for entry in read_entries(workspace)] == ["promoted", "pending_approval"]
    wait_until(lambda: not server.read_worker_processes())
    with FileLock(workspace / LOCK_FILE, timeout=0):
        pass
    (artifact,) = server.request(
        "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": ["decision"]}}}
    )
    assert artifact["data"].startswith("# Pending approval: +")
    keys = server.request(f"flow_runs/{run}")["state"]["state_details"]["run_input_keyset"]
    shown = server.request(f"flow_runs/{run}/input/{keys['description']}")
    assert "| accuracy, val |" in shown
    assert "reports/decisions/2.html in " in shown
    for wrong in ({}, YES | {"reason": " "}, YES | {"approve": "perhaps"}):
        assert answer(server, run, **wrong)["status"] == "REJECT"
    assert server.read_state(run)[0] == "Suspended"

    server.stop()
    server.start()
    assert server.read_state(run)[0] == "Suspended"
    other = server.start_run("retrain/retrain", workspace=str(workspace))
    assert "awaits approval of this model until" in server.wait_until_completed(other, name="Skipped")

    assert answer(server, run, **YES)["status"] == "ACCEPT"
    message = server.wait_until_completed(run)
    assert message.startswith("promoted: +")
    assert message.endswith(", approved by ada: good on my photos, too")
    entries = read_entries(workspace)
    assert [entry.decision for entry in entries] == ["promoted", "pending_approval", "promoted"]
    assert entries[2].approval == {"approved": True, "person": "ada", "reason": "good on my photos, too"}
    assert entries[2].evidence == entries[1].evidence
    assert len(ledger.look_times(entries)) == 1, "the answer is no look"
    assert (
        (workspace / CHAMPION).read_bytes() == (workspace / "artifacts/model.onnx").read_bytes() != champion
    )


def test_retrain_is_rejected_by_a_no_or_when_the_time_is_over(
    server: DeploymentServer, start_retrain: Callable[..., tuple[str, Path]]
) -> None:
    unanswered, late = start_retrain("unanswered", approve_timeout_hours=1 / 3600)
    run, workspace = start_retrain("rejected", approve_timeout_hours=0.5)
    wait_until_suspended(server, run)
    assert (
        answer(server, run, approve=False, reason="too slow on my phone", person="ada")["status"] == "ACCEPT"
    )
    message = server.wait_until_completed(run)
    assert message.endswith(", not approved by ada: too slow on my phone")
    entries = read_entries(workspace)
    assert [entry.decision for entry in entries] == ["promoted", "pending_approval", "rejected"]
    assert entries[2].approval == {"approved": False, "person": "ada", "reason": "too slow on my phone"}

    wait_until(lambda: server.read_state(unanswered)[0] == "Failed")
    assert server.read_state(unanswered)[1] == "The flow was paused and never resumed."
    before = (late / CHAMPION).read_bytes()
    again = server.start_run("retrain/retrain", workspace=str(late))
    message = server.wait_until_completed(again, name="Skipped")
    assert "when this model was rejected: +" in message
    assert "not approved (no answer by " in message
    assert json.loads((late / LEDGER).read_text().splitlines()[-1])["approval"]["person"] == ""
    assert (late / CHAMPION).read_bytes() == before
