"""The toys as Prefect flow runs: task runs, artifacts, and errors without a traceback."""

from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State, TaskRunResult

from flows.toys.catalog import TOYS, load_flow
from tasks.workspace.errors import InputError
from tests.flows.conftest import read_artifacts, read_task_runs
from tests.flows.toys.test_base import shorten_training

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty: no params.yaml, no data."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_flow(name: str, **parameters: Any) -> State[Any]:
    flow: Any = load_flow(name)
    state: State[Any] = flow(**parameters, return_state=True)
    return state


@pytest.mark.parametrize("name", TOYS)
def test_toy_flow_run_completes_with_task_runs_and_an_artifact(name: str, folder: Path) -> None:
    state = run_flow(name, **shorten_training(load_flow(name)))
    assert state.is_completed(), state.message
    (artifact,) = read_artifacts(state).values()
    assert artifact.key == f"toy-{name.replace('_', '-')}"
    assert isinstance(artifact.data, str)
    assert f"# {name}: {TOYS[name]}" in artifact.data
    assert "| --- |" in artifact.data
    assert f"Figure: `reports/toys/{name}.svg`" in artifact.data
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == {
        f"reports/toys/{name}.svg"
    }
    task_runs = read_task_runs(state)
    assert len(task_runs) >= 2, "small tasks"
    assert {run.state_name for run in task_runs} == {"Completed"}

    if name == "neuron":  # its tasks are chained by their results
        runs = {run.name.rpartition("-")[0]: run for run in task_runs}
        assert list(runs) == ["multiply", "add_up", "add_bias", "activate", "with_torch_linear"]
        for before, after, argument in (("multiply", "add_up", "products"), ("add_bias", "activate", "z")):
            inputs = runs[after].task_inputs[argument]
            assert [run.id for run in inputs if isinstance(run, TaskRunResult)] == [runs[before].id]


def test_toy_flow_run_invalid_parameter_fails_without_traceback(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = run_flow("gradient_descent", lr_good=-0.1)
    assert state.is_failed()
    allowed = "a number greater than 0 and at most 1e+06"
    assert state.message == f"gradient_descent: lr_good should be {allowed}, not -0.1"
    state = run_flow("loss", good=[0.9])
    assert state.is_failed()
    assert state.message == "loss: good: 3 targets need as many predictions, not 1"
    assert isinstance(state.result(raise_on_failure=False), InputError)
    assert "Traceback" not in caplog.text
    assert not list(folder.rglob("*.svg"))


def test_toy_interrupted_before_its_task_run_exists_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's engine, which then has no run to mark as crashed, raises a `ValueError` instead."""

    def interrupt(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("prefect.task_engine._create_task_run_locally", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_flow("neuron")
