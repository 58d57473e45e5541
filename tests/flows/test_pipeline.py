"""The pipeline as a flow, on the sample: what runs and why, what fails, what the server shows."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from prefect.client.schemas.objects import State
from ruamel.yaml import YAML

from flows.versions import dvc_repro
from flows.versions.dvc_repro import load_repo
from tasks.params import Params
from tasks.stages import STAGES
from tasks.workspace.errors import RunError
from tests.flows.conftest import read_artifacts, read_task_states, run_pipeline

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


def read_output_hashes() -> dict[str, list[str]]:
    """What dvc.lock says of each stage's outputs."""
    lock = YAML(typ="safe").load(Path("dvc.lock"))
    return {name: [out["md5"] for out in stage["outs"]] for name, stage in lock["stages"].items()}


@pytest.fixture(scope="module")
def lr_changed(finished_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State[Any]]:
    """A workspace in which the pipeline ran again with another learning rate, and that run's final state."""
    workspace = shutil.copytree(finished_workspace, tmp_path_factory.mktemp("lr") / "copy")
    return workspace, run_pipeline("train.lr=0.002", workspace=workspace)


def test_pipeline_second_run_is_cached(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path("dvc.lock").read_bytes()
    opened: list[Repo] = []

    def open_and_count() -> Repo:
        opened.append(load_repo())
        return opened[-1]

    monkeypatch.setattr(dvc_repro, "load_repo", open_and_count)
    state = run_pipeline()
    assert len(opened) == 1, "to open it takes longer than all else in such a run"
    assert state.message == "everything was up to date"
    tasks = read_task_states(state)
    assert list(tasks) == list(STAGES)
    assert {task.name for task in tasks.values()} == {"Cached"}
    assert {task.message for name, task in tasks.items() if name != "download"} == {"up to date"}
    assert Path("dvc.lock").read_bytes() == before


def test_pipeline_changed_parameter_runs_dependent_stages(lr_changed: tuple[Path, State[Any]]) -> None:
    workspace, state = lr_changed
    tasks = read_task_states(state)
    assert tasks["split"].name == "Cached"
    assert (tasks["train"].name, tasks["train"].message) == ("Completed", "params train.lr changed")
    assert tasks["evaluate"].message == "artifacts/model.safetensors changed"
    assert str(state.message).startswith("ran: train, evaluate, export, ")
    assert "lr: 0.002" in (workspace / "params.yaml").read_text()


def test_pipeline_earlier_parameter_restores_results(
    lr_changed: tuple[Path, State[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shutil.copytree(lr_changed[0], tmp_path / "copy"))
    train = read_task_states(run_pipeline("train.lr=0.001"))["train"]
    assert (train.name, train.message) == ("Restored", "from the DVC cache (params train.lr changed)")


def test_pipeline_training_has_progress_artifact(lr_changed: tuple[Path, State[Any]]) -> None:
    progress = read_artifacts(lr_changed[1])["train-progress"]
    assert (progress.type, progress.data) == ("progress", 100)


def test_pipeline_changed_code_reruns_its_stage(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("tasks", "export.py").open("a") as code:
        code.write("# changed\n")
    state = run_pipeline()
    assert list(read_task_states(state)) == ["download"]
    assert f"{workspace}/tasks/export.py, which DVC hashes, is not the code that runs" in str(state.message)

    monkeypatch.setattr("tasks.workspace.code.ROOT", workspace)  # now the changed code is what runs
    tasks = read_task_states(run_pipeline())
    assert tasks["export"].message == "tasks/export.py changed"
    assert [name for name, task in tasks.items() if task.name != "Cached"] == ["export"]


def test_pipeline_force_runs_every_stage(
    workspace: Path, finished_workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages are replaced by one that writes their outputs again; e2e/ tests that they repeat them."""
    before = read_output_hashes()
    lock = YAML(typ="safe").load(Path("dvc.lock"))
    calls: list[str] = []

    def write_outputs_again(name: str, params: Params, progress: object = None) -> dict[str, Any]:
        calls.append(name)
        for out in lock["stages"].get(name, {}).get("outs", []):
            source = finished_workspace / out["path"]
            if source.is_dir():
                shutil.copytree(source, out["path"])
            else:
                shutil.copy(source, out["path"])
        return {"source": None}

    monkeypatch.setattr("flows.pipeline.run_stage", write_outputs_again)
    tasks = read_task_states(run_pipeline(force=True))
    assert calls == list(STAGES)
    assert {task.message for name, task in tasks.items() if name != "download"} == {"forced"}
    assert read_output_hashes() == before


def test_pipeline_failing_stage_keeps_results_before_it(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = read_output_hashes()
    calls: list[str] = []

    def export(onnx_model: Path) -> None:
        calls.append("export")
        raise RunError("the network was struck by lightning")

    monkeypatch.setattr("tasks.export.export", export)
    state = run_pipeline("evaluate.calibration_bins=7", "export.parity_batch_sizes=[1]")
    assert state.is_failed()
    assert state.message == "export: the network was struck by lightning"
    assert "Traceback" not in caplog.text
    assert calls == ["export"]  # only a download is retried
    tasks = read_task_states(state)
    assert list(tasks) == ["download", "split", "train", "evaluate", "export"]
    assert tasks["evaluate"].message == "params evaluate.calibration_bins changed"
    after = read_output_hashes()
    assert after["evaluate"] != before["evaluate"]
    assert after["export"] == before["export"]

    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    tasks = read_task_states(run_pipeline())
    assert [name for name in STAGES[:5] if tasks[name].name == "Cached"] == list(STAGES[:4])


def test_pipeline_leaves_metrics_as_markdown_artifact(workspace: Path) -> None:
    (artifact,) = read_artifacts(run_pipeline()).values()
    accuracy = json.loads(Path("reports/metrics.json").read_text())["test"]["accuracy"]
    assert artifact.key == "pipeline"
    assert f"Test accuracy **{accuracy:.2%}**" in str(artifact.data)
    assert "a generated sample, not CIFAR-10" in str(artifact.data)


def test_pipeline_wrong_parameter_is_one_line(workspace: Path) -> None:
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("epochs:", "epoks:"))
    state = run_pipeline()
    assert state.is_failed()
    assert "train.epoks is not a parameter; did you mean epochs?" in str(state.message)
