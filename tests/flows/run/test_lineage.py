"""Lineage: the edges are those of the pipeline, on the server too; no failure stops a run."""

import time
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client

from flows.run.lineage import record_data, record_stage
from flows.versions.dvc_repro import open_repo
from tasks.params import read_params
from tasks.workspace.files import hash_file
from tests.flows.conftest import IMPROVE, get_flow_run_id, run_retrain

pytestmark = pytest.mark.slow

SUCCEEDED, REFERENCED = "prefect.asset.materialization.succeeded", "prefect.asset.referenced"
KEY = "cifarflow://"


def read_lineage(events: list[dict[str, Any]]) -> dict[str, set[str]]:
    """For each path that was made, the paths that it was made from."""
    return {
        event["resource"]["prefect.resource.id"].removeprefix(KEY): {
            related["prefect.resource.id"].removeprefix(KEY)
            for related in event["related"]
            if related["prefect.resource.role"] == "asset"
        }
        for event in events
        if event["event"] == SUCCEEDED
    }


def test_lineage_of_the_stages_is_that_of_dvc(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[dict[str, Any]] = []
    monkeypatch.setattr("prefect.events.emit_event", lambda **event: events.append(event))
    with open_repo() as repo:
        record_data(repo)
        for stage in ("split", "train", "export"):
            record_stage(repo, stage)
    splits, weights = "artifacts/splits.safetensors", "artifacts/model.safetensors"
    assert read_lineage(events) == {
        "data": set(),
        splits: {"data"},
        weights: {splits},
        "reports/history.csv": {splits},
        "artifacts/model.onnx": {splits, weights},
    }
    md5s = {
        event["resource"]["prefect.resource.id"]: event["payload"]["md5"]
        for event in events
        if "payload" in event
    }
    assert md5s[KEY + weights] == hash_file(Path(weights), "md5")


def test_retraining_records_lineage_from_splits_to_champion_on_the_server(champion_copy: Path) -> None:
    state = run_retrain(*IMPROVE)
    assert str(state.message).startswith("promoted"), state.message
    related = {"resources_in_roles": [[f"prefect.flow-run.{get_flow_run_id(state)}", "flow-run"]]}
    query = {"filter": {"event": {"prefix": ["prefect.asset."]}, "related": related}, "limit": 50}
    champion = "registry/champion.onnx"
    deadline = time.monotonic() + 30
    while True:
        with get_client(sync_client=True) as client:
            events = client.request("POST", "/events/filter", json=query).json()["events"]
        lineage = read_lineage(events)
        if champion in lineage or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    paths = read_params(Path("params.yaml")).paths
    assert lineage[champion] == {paths.onnx_model}
    assert lineage[paths.onnx_model] == {paths.splits, paths.weights}
    assert lineage[paths.weights] == {paths.splits}
    assert "data" not in lineage  # was up to date, as was the split
    assert paths.splits not in lineage
    assert {event["event"] for event in events} == {SUCCEEDED, REFERENCED}


def test_lineage_that_fails_is_one_line(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: Any) -> None:
        raise ConnectionError("server lost")

    monkeypatch.setattr("prefect.events.emit_event", fail)
    with open_repo() as repo:
        record_stage(repo, "split")
    assert capsys.readouterr().out == "lineage not recorded: ConnectionError\n"
