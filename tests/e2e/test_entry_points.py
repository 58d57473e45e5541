"""The flow and `dvc repro` lead to the same state: the same hashes, and nothing left to do for the other."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from flows.pipeline import pipeline
from tasks.overrides import parse_overrides
from tests.conftest import QUICK, copy_of_project
from tests.flows.conftest import read_task_states, run_pipeline

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

TIMED = {"reports/benchmark.json", "reports/index.html", "reports/figures"}
"""What holds times, which no two runs share: the benchmark and what shows it."""


def read_lock(workspace: Path) -> dict[str, Any]:
    """All of dvc.lock but the hashes of what holds times."""
    stages: dict[str, Any] = YAML(typ="safe").load(workspace / "dvc.lock")["stages"]
    for stage in stages.values():
        for kind in ("deps", "outs"):
            stage[kind] = [entry for entry in stage[kind] if entry["path"] not in TIMED]
    return stages


def test_flow_and_dvc_repro_give_identical_hashes(finished_workspace: Path, reproduced_project: Path) -> None:
    """Two fresh runs on the sample, one through each entry point."""
    lock = read_lock(finished_workspace)
    outs = {out["path"] for stage in lock.values() for out in stage["outs"]}
    assert {"artifacts/model.safetensors", "artifacts/model.onnx", "artifacts/model.int8.onnx"} <= outs
    assert {"reports/metrics.json", "reports/history.csv", "reports/predictions.csv"} <= outs
    assert read_lock(reproduced_project) == lock


def test_flow_leaves_dvc_nothing_to_do(workspace: Path) -> None:
    with Repo() as repo:
        assert repo.status() == {}
        assert repo.reproduce() == []


def test_dvc_repro_leaves_flow_nothing_to_do(project: Path) -> None:
    assert {task.name for task in read_task_states(run_pipeline()).values()} == {"Cached"}


@pytest.mark.data
def test_flow_on_cifar10_learns_and_leaves_dvc_nothing_to_do(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch on CIFAR-10; that `dvc repro` gives the same hashes is tested on the sample."""
    copy_of_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    with Repo.init(no_scm=True):
        pass
    source = os.environ.get("CIFAR10_URL")
    if source is None:
        shutil.copytree(request.getfixturevalue("cifar10"), "data")
    recorded = Path("data.dvc").read_bytes()
    quick = [*QUICK, "export.parity_batch_sizes=[250]", "benchmark.backends=[onnxruntime-fp32]"]
    state = pipeline(parse_overrides(quick), return_state=True)
    assert state.is_completed()
    download = read_task_states(state)["download"]
    assert download.message == (f"from {source}, verified" if source else "already present, verified")
    assert Path("data.dvc").read_bytes() == recorded
    with Repo() as repo:
        assert repo.status() == {}
    assert json.loads(Path("reports/metrics.json").read_text())["test"]["accuracy"] > 0.4
