"""The deployments on a real server with a real worker: deploy, run, schedule, wait, many at once."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image
from prefect.server.schemas.schedules import CronSchedule
from ruamel.yaml import YAML

from flows.run.lock import LOCK_FILE
from flows.toys.catalog import TOYS
from tests.conftest import ROOT
from tests.e2e.deployment_server import DeploymentServer, read_deployment_names, wait_until

FLOWS = ("pipeline", "retrain", "rollback", "watch")
EVENTS = {
    "cifarflow: images are waiting": "cifarflow.images.waiting",
    "cifarflow: the data have drifted": "cifarflow.data.drifted",
    "cifarflow: data.dvc has changed": "cifarflow.data.changed",
    "cifarflow: the branch has moved": "cifarflow.branch.moved",
}
"""by the name of the trigger"""

pytestmark = [pytest.mark.server, pytest.mark.distributed, pytest.mark.slow]


def test_deploy_all_creates_every_deployment_with_form_and_schedule(server: DeploymentServer) -> None:
    found = {deployment["name"]: deployment for deployment in server.request("deployments/filter", {})}
    toys = {name.replace("_", "-") for name in TOYS}
    flows = {f"{flow}{place}" for flow in FLOWS for place in ("", "-anywhere")}
    assert found.keys() == {"drift", *flows, *toys} == read_deployment_names(ROOT)
    schema = found["pipeline"]["parameter_openapi_schema"]
    assert schema["definitions"]["TrainConfig"]["properties"]["epochs"]["minimum"] == 1
    (schedule,) = found["retrain"]["schedules"]
    assert (schedule["slug"], schedule["schedule"]["timezone"]) == ("weekly", "Europe/Berlin")
    assert schedule["schedule"]["cron"] == "0 3 * * 1"
    # Deploying again keeps what somebody has set.
    server.run_prefect("deployment", "schedule", "pause", "retrain/retrain", schedule["id"])
    server.run_prefect("deploy", "--name", "retrain")
    (schedule,) = server.request("deployments/name/retrain/retrain")["schedules"]
    assert (schedule["slug"], schedule["active"]) == ("weekly", False)


def test_cron_schedule_respects_dst() -> None:
    """3 a.m. stays 3 a.m. when the clocks change."""
    deployments = YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]
    (entry,) = (entry["schedules"][0] for entry in deployments if entry["name"] == "retrain")
    schedule = CronSchedule(cron=entry["cron"], timezone=entry["timezone"])
    dates = asyncio.run(schedule.get_dates(60, datetime(2026, 1, 1, tzinfo=UTC)))
    assert {(date.weekday(), date.hour, date.minute) for date in dates} == {(0, 3, 0)}
    assert {date.utcoffset() for date in dates} == {timedelta(hours=1), timedelta(hours=2)}
    assert len({date.date() for date in dates}) == 60


def test_worker_runs_pipeline_and_retrain(server: DeploymentServer, own_workspace: Path) -> None:
    overrides = json.dumps({"evaluate": {"calibration_bins": 5}})
    output = server.run_prefect(
        *("deployment", "run", "pipeline/pipeline", "--watch"),
        *("--param", f"overrides={overrides}", "--param", f"workspace={json.dumps(str(own_workspace))}"),
    )
    assert "Completed" in output or "finished successfully" in output, output
    assert "calibration_bins: 5" in (own_workspace / "params.yaml").read_text()
    (run,) = (run for run in server.read_runs() if run["parameters"].get("workspace") == str(own_workspace))
    assert run["state"]["message"] == "ran: evaluate, report"
    retrain = server.start_run("retrain/retrain", workspace=str(own_workspace))
    assert server.wait_until_completed(retrain) == "promoted: the first model"
    assert (own_workspace / "registry/ledger.jsonl").read_text().count("\n") == 1


def test_drift_is_an_event_and_the_state_of_its_run(server: DeploymentServer, own_workspace: Path) -> None:
    folder = own_workspace / "incoming/ring"
    folder.mkdir(parents=True)
    for i in range(40):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(folder / f"{i}.png")
    run = server.start_run("drift/drift", workspace=str(own_workspace))
    wait_until(lambda: server.read_state(run)[0] == "Drifted")
    assert (
        "incoming: drift in 40 images: they differ from the validation images of their classes: "
        in server.read_state(run)[1]
    )

    def read_events() -> list[dict[str, Any]]:
        filters = {"filter": {"event": {"name": ["cifarflow.data.drifted"]}}}
        return list(server.request("events/filter", filters)["events"])

    (event,) = wait_until(read_events)
    assert event["payload"]["shifts"] == ["covariate", "label"]
    assert event["resource"]["cifarflow.shift"] == "covariate label"
    assert event["resource"]["cifarflow.flow"] == "drift"


def test_scheduled_run_of_locked_workspace_is_cancelled_the_next_runs(server: DeploymentServer) -> None:
    def read_fired() -> list[dict[str, Any]]:
        runs = server.read_runs(flows={"name": {"any_": ["retrain"]}})
        return [run for run in runs if run["auto_scheduled"] and run["state_type"] != "SCHEDULED"]

    try:
        with FileLock(server.folder / LOCK_FILE):
            server.run_prefect("deployment", "schedule", "create", "retrain/retrain", "--interval", "8")
            cancelled = wait_until(lambda: [run for run in read_fired() if run["state_type"] == "CANCELLED"])
        assert "try again when it has" in cancelled[0]["state"]["message"]
        completed = wait_until(lambda: [run for run in read_fired() if run["state_type"] == "COMPLETED"])
        assert completed[0]["state"]["name"] == "Skipped"
    finally:
        server.run_prefect("deployment", "schedule", "clear", "-y", "retrain/retrain")


@pytest.fixture
def triggers(server: DeploymentServer) -> Iterator[None]:
    """The triggers of `retrain`, on, for all events of 3 s instead of a minute."""
    file = server.folder / "prefect.yaml"
    text = file.read_text()
    impatient = text.replace("within: 60", "within: 3").replace("schedule_after: 60", "schedule_after: 3")
    file.write_text(impatient.replace("enabled: false", "enabled: true"))
    server.run_prefect("deploy", "--name", "retrain")
    yield
    file.write_text(text)
    server.run_prefect("deploy", "--name", "retrain")


def test_triggers_are_off_until_prefect_yaml_says_otherwise(server: DeploymentServer) -> None:
    automations = [a for a in server.request("automations/filter", {}) if a["trigger"]["type"] == "event"]
    triggers = {a["name"]: a["enabled"] for a in automations if a["name"] in EVENTS}
    assert triggers == dict.fromkeys(EVENTS, False)
    for schedule in (
        server.request(f"deployments/name/watch/{name}")["schedules"] for name in ("watch", "watch-anywhere")
    ):
        assert [entry["active"] for entry in schedule] == [False]


@pytest.mark.usefixtures("triggers")
def test_each_trigger_starts_one_retraining_for_a_burst_of_events(
    server: DeploymentServer, own_workspace: Path
) -> None:
    def read_started() -> list[tuple[str, str]]:
        runs = server.read_runs(flows={"name": {"any_": ["retrain"]}})
        by_trigger = [run for run in runs if (run["created_by"] or {}).get("type") == "AUTOMATION"]
        return sorted((run["created_by"]["display_value"], run["state"]["name"]) for run in by_trigger)

    def is_started(trigger: str) -> bool:
        return trigger in dict(read_started())

    for trigger, event in EVENTS.items():  # one after the other: SQLite may refuse two new runs at once
        if event == "cifarflow.branch.moved":  # as a Git hook does
            server.run_prefect("event", "emit", event, "--resource-id", "cifarflow.branch")
        else:
            server.emit_events(*[event] * 5)
        wait_until(partial(is_started, trigger))
    expected = sorted((trigger, "Skipped") for trigger in EVENTS)  # there is nothing to train on
    wait_until(lambda: {state for _, state in read_started()} == {"Skipped"})
    assert read_started() == expected

    (own_workspace / "incoming/cat").mkdir(parents=True)
    (own_workspace / "incoming/cat/1.png").write_bytes(b"")
    watch = server.start_run("watch/watch", workspace=str(own_workspace), min_images=1)
    assert server.wait_until_completed(watch) == "emitted: cifarflow.images.waiting"
    expected = sorted([*expected, ("cifarflow: images are waiting", "Skipped")])
    wait_until(lambda: read_started() == expected)


def test_run_that_fails_for_a_known_reason_leaves_no_traceback_in_the_worker_log(
    server: DeploymentServer, own_workspace: Path
) -> None:
    (own_workspace / "data/cifar-10-batches-py/test_batch").write_bytes(b"altered")
    before = len(server.worker_log.read_text())
    run = server.start_run("pipeline/pipeline", workspace=str(own_workspace), download_retries=0)
    wait_until(lambda: server.read_state(run)[0] == "Failed")
    wait_until(lambda: not server.read_worker_processes())
    log = server.worker_log.read_text()[before:]
    assert "test_batch is not the published file" in log
    assert "Traceback" not in log


def test_manual_run_of_locked_workspace_waits(server: DeploymentServer, own_workspace: Path) -> None:
    with FileLock(own_workspace / LOCK_FILE):
        run = server.start_run("pipeline/pipeline", workspace=str(own_workspace))
        wait_until(lambda: "waiting for" in server.read_log(run))
        assert server.read_state(run)[0] == "Running"
    assert server.wait_until_completed(run) == "everything was up to date"


def test_five_runs_at_once_all_complete(server: DeploymentServer) -> None:
    runs = [server.start_run("neuron/neuron") for _ in range(5)]
    wait_until(lambda: {server.read_state(run)[0] for run in runs} == {"Completed"})
    # Neither the runs nor the worker see it. (The server's own log may: Prefect begins transactions that
    # read first, and lets clients try again.)
    assert "database is locked" not in server.worker_log.read_text()
    assert not [run for run in runs if "database is locked" in server.read_log(run)]
