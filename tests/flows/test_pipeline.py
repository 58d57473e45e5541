import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from dvc.repo import Repo
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import State

from flows import pipeline as pipeline_module
from flows.pipeline import pipeline
from tasks.download import DataUnavailableError
from tasks.overrides import parse_overrides
from tasks.workspace.errors import RunError
from tests.conftest import QUICK, copy_of_project

STAGES = ["download", "split", "train", "evaluate", "export", "quantize", "benchmark", "report"]

pytestmark = pytest.mark.usefixtures("prefect_server")


def flow_run_id(state: State[Any]) -> UUID:
    assert state.state_details.flow_run_id is not None
    return state.state_details.flow_run_id


def stages_of(state: State[Any]) -> dict[str, State[Any]]:
    """The final state of each task of a flow run, as the server has it."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id(state)]))
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=wanted)
    return {run.name: run.state for run in sorted(runs, key=lambda run: run.start_time) if run.state}


def hashes() -> dict[str, list[str]]:
    """What dvc.lock says of what each stage made; what holds timings, which no two runs share, left out."""
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    timed = {"reports/benchmark.json", "reports/history.csv", "reports/index.html", "reports/figures"}
    return {
        name: [out["md5"] for out in stage["outs"] if out["path"] not in timed]
        for name, stage in lock["stages"].items()
    }


def run(*assignments: str, **options: Any) -> State[Any]:
    return pipeline(parse_overrides(assignments) if assignments else None, **options, return_state=True)


def test_afterwards_dvc_has_nothing_to_do(workspace: Path) -> None:
    with Repo() as repo:
        assert repo.status() == {}
        assert repo.reproduce() == []


def test_second_time_everything_is_cached(workspace: Path) -> None:
    before = Path("dvc.lock").read_bytes()
    state = run()
    assert state.message == "everything was up to date"
    stages = stages_of(state)
    assert list(stages) == STAGES
    assert {stage.name for stage in stages.values()} == {"Cached"}
    assert {stage.message for name, stage in stages.items() if name != "download"} == {"up to date"}
    assert Path("dvc.lock").read_bytes() == before


def test_both_doors_lead_to_the_same_room(workspace: Path) -> None:
    by_flow = hashes()
    for name in ("artifacts", "reports"):
        shutil.rmtree(name)
    Path("dvc.lock").unlink()
    with Repo() as repo:
        repo.reproduce(force=True, run_cache=False)
        assert repo.status() == {}
    assert hashes() == by_flow
    assert {stage.name for stage in stages_of(run()).values()} == {"Cached"}


def test_says_why_and_runs_what_depends_on_it(workspace: Path) -> None:
    state = run("train.lr=0.002")
    stages = stages_of(state)
    assert stages["split"].name == "Cached"
    assert (stages["train"].name, stages["train"].message) == ("Completed", "params train.lr changed")
    assert stages["evaluate"].message == "artifacts/model.safetensors changed"
    assert "lr: 0.002" in Path("params.yaml").read_text()

    state = run("train.lr=0.001")
    restored = stages_of(state)
    assert (restored["train"].name, restored["train"].message) == (
        "Restored",
        "from the DVC cache (params train.lr changed)",
    )


def test_changed_code_is_a_reason(workspace: Path) -> None:
    with Path("tasks", "export.py").open("a") as code:
        code.write("# changed\n")
    stages = stages_of(run())
    assert stages["export"].message == "tasks/export.py changed"
    assert [name for name, stage in stages.items() if stage.name != "Cached"] == ["export"]


def test_force_runs_everything(workspace: Path) -> None:
    before = hashes()
    stages = stages_of(run(force=True))
    assert {stage.message for name, stage in stages.items() if name != "download"} == {"forced"}
    assert hashes() == before


def test_failing_stage_fails_the_flow_and_leaves_the_rest(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = hashes()

    def export(onnx_model: Path) -> None:
        raise RunError("the network was struck by lightning")

    monkeypatch.setattr("tasks.export.export", export)
    state = run("train.lr=0.003")
    assert state.is_failed()
    assert state.message == "export: the network was struck by lightning"
    assert "Traceback" not in caplog.text
    stages = stages_of(state)
    assert list(stages) == ["download", "split", "train", "evaluate", "export"]
    after = hashes()
    assert after["train"] != before["train"]
    assert after["evaluate"] != before["evaluate"]
    assert after["export"] == before["export"]

    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    assert {name for name, stage in stages_of(run()).items() if stage.name == "Cached"} == set(STAGES[:4])


def test_leaves_a_markdown_artifact_with_the_metrics(workspace: Path) -> None:
    state = run()
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id(state)]))
    with get_client(sync_client=True) as client:
        (artifact,) = client.read_artifacts(artifact_filter=wanted)
    accuracy = json.loads(Path("reports/metrics.json").read_text())["test"]["accuracy"]
    assert f"Test accuracy **{accuracy:.2%}**" in str(artifact.data)
    assert "a generated sample, not CIFAR-10" in str(artifact.data)


def test_the_training_has_a_progress_artifact(workspace: Path) -> None:
    state = run("train.seed=5")
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id(state)]))
    with get_client(sync_client=True) as client:
        found = {artifact.key: artifact for artifact in client.read_artifacts(artifact_filter=wanted)}
    assert found["train-progress"].type == "progress"
    assert found["train-progress"].data == 100


def test_changed_byte_in_the_data_is_refused(workspace: Path) -> None:
    file = Path("data/cifar-10-batches-py/data_batch_2")
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    before = Path("data.dvc").read_bytes()
    state = run()
    assert state.is_failed()
    assert "data_batch_2 is not the published file" in str(state.message)
    assert Path("data.dvc").read_bytes() == before


def test_missing_data_comes_from_dvcs_cache(workspace: Path) -> None:
    shutil.rmtree("data")
    stages = stages_of(run())
    assert (stages["download"].name, stages["split"].name) == ("Restored", "Cached")


def test_missing_data_comes_from_a_remote(workspace: Path, tmp_path: Path) -> None:
    Path(".dvc", "config").write_text(
        f"[core]\n no_scm = True\n remote = r\n['remote \"r\"']\n url = {tmp_path}/remote\n"
    )
    with Repo() as repo:
        repo.push()
    for gone in ("data", "artifacts", ".dvc/cache"):
        shutil.rmtree(gone)
    with Repo() as repo:
        repo.fetch(run_cache=False)
    assert {name: stage.name for name, stage in stages_of(run()).items()} == {
        "download": "Restored",
        "split": "Restored",
        "train": "Restored",
        "evaluate": "Cached",
        "export": "Restored",
        "quantize": "Restored",
        "benchmark": "Cached",
        "report": "Cached",
    }


def test_only_the_download_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workspace: Path
) -> None:
    calls: list[str] = []

    def failing(name: str, error: RunError) -> Callable[..., None]:
        def stage(dataset: str = "", onnx_model: str = "") -> None:
            calls.append(name)
            raise error

        return stage

    def download(dataset: str) -> None:
        failing("download", DataUnavailableError("nobody answers"))()

    monkeypatch.setattr("tasks.download.download", download)
    monkeypatch.setattr(pipeline_module.download, "retry_delay_seconds", [0.0])
    state = run(download_retries=2)
    assert state.message == "download: nobody answers"
    assert calls == ["download"] * 3


def test_wrong_parameter_is_one_line(workspace: Path) -> None:
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("epochs:", "epoks:"))
    state = run()
    assert state.is_failed()
    assert "train.epoks is not a parameter; did you mean epochs?" in str(state.message)


def test_real_data_by_both_doors(cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch on CIFAR-10: by the flow, then by `dvc repro` from nothing, with the same hashes."""
    copy_of_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    with Repo.init(no_scm=True):
        pass
    committed = Path("data.dvc").read_bytes()
    state = run(*QUICK)
    assert state.is_completed()
    assert stages_of(state)["download"].message == f"from {cifar10_source()}, verified"
    assert Path("data.dvc").read_bytes() == committed
    with Repo() as repo:
        assert repo.status() == {}
    by_flow = hashes()

    for name in ("artifacts", "reports"):
        shutil.rmtree(name)
    Path("dvc.lock").unlink()
    with Repo() as repo:
        repo.reproduce(force=True, run_cache=False)
    assert hashes() == by_flow
    assert json.loads(Path("reports/metrics.json").read_text())["test"]["accuracy"] > 0.4


def cifar10_source() -> str:
    import os

    return os.environ["CIFAR10_URL"]
