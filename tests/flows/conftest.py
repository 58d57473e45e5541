"""What the tests of the flows share: a workspace with a champion, running flows, asking the server."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
)
from prefect.client.schemas.objects import Artifact, State, TaskRun
from prefect.client.schemas.sorting import ArtifactSort

from flows.pipeline import pipeline
from flows.retrain import retrain
from tasks.overrides import parse_overrides
from tests.conftest import ROOT, enter_copy

# The machines that run tests are busy, so the latency ratio is left out of the decision.
IMPROVE = ("train.epochs=3", "compare.max_latency_ratio=50.0")
GET_WORSE = ("train.epochs=1",)
"""back to the parameters of the first champion"""


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def run_pipeline(*assignments: str, **options: Any) -> State[Any]:
    return pipeline(parse_overrides(assignments) if assignments else None, **options, return_state=True)


def run_retrain(*assignments: str, **options: Any) -> State[Any]:
    return retrain(parse_overrides(assignments) if assignments else None, **options, return_state=True)


def make_champion_workspace(folder: Path, finished_workspace: Path) -> None:
    """The finished workspace under Git, with a first champion, as `folder`/sample.

    DVC's run cache has the stages' results for `IMPROVE`, so that a retraining with it restores them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shutil.copytree(finished_workspace, folder / "sample"))
        Path(".dvc/config").write_text("[core]\n    analytics = false\n")
        Path(".gitignore").write_text("/artifacts/\n/data/\n/incoming/\n/.cifarflow*\n/wandb/\n")
        Path("registry").mkdir()
        shutil.copy(ROOT / "registry/.gitignore", "registry")
        git("init", "--quiet", "--initial-branch=main")
        git("config", "user.name", "T")
        git("config", "user.email", "t@example.org")
        git("add", "--all")
        git("commit", "--quiet", "--message=before")
        assert run_pipeline(*IMPROVE).is_completed()
        git("checkout", "--quiet", ".")
        assert run_retrain().message == "promoted: the first model"


def get_flow_run_id(state: State[Any]) -> UUID:
    assert state.state_details.flow_run_id is not None
    return state.state_details.flow_run_id


def read_task_states(state: State[Any]) -> dict[str, State[Any]]:
    """The final state of each task of a flow run, in the order of their start, as the server has it."""
    return {run.name: run.state for run in read_task_runs(state) if run.state}


def read_task_runs(state: State[Any]) -> list[TaskRun]:
    """The task runs of a flow run, in the order of their start; waits until the server has recorded them."""
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[get_flow_run_id(state)]))
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while True:
            runs = client.read_task_runs(flow_run_filter=of_run)
            if all(run.state and run.state.is_final() for run in runs) or time.monotonic() > deadline:
                return sorted(runs, key=lambda run: str(run.start_time))
            time.sleep(0.1)


def read_artifacts(state: State[Any]) -> dict[str | None, Artifact]:
    """The artifacts of a flow run by key, of several the last, as the server has them."""
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[get_flow_run_id(state)]))
    with get_client(sync_client=True) as client:
        newest_first = client.read_artifacts(artifact_filter=of_run, sort=ArtifactSort.UPDATED_DESC)
    return {artifact.key: artifact for artifact in reversed(newest_first)}


@pytest.fixture(scope="session", autouse=True)
def without_heartbeats() -> Iterator[None]:
    """Prefect waits up to a second at the end of each flow run for the thread that sends them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect.flow_engine.BaseFlowRunEngine.heartbeat_seconds", None)
        yield


@pytest.fixture(scope="session")
def champion_workspace(once: Callable[[str, Callable[[Path], None]], Path], finished_workspace: Path) -> Path:
    """What `make_champion_workspace` makes."""
    return once("champion", lambda folder: make_champion_workspace(folder, finished_workspace)) / "sample"


@pytest.fixture
def champion_copy(champion_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    return enter_copy(champion_workspace, tmp_path, monkeypatch)
