"""The toys as flows, as plain Python and from the command line; their mathematics has tests of its own."""

import inspect
import os
import subprocess
import sys
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
from prefect.client.schemas.objects import State, TaskRun
from prefect.utilities.callables import parameter_schema

from flows.cli.main import run_command
from flows.toys.base import Table
from flows.toys.catalog import TOYS, load_flow
from tasks.workspace.errors import InputError
from tests.conftest import ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder: no params.yaml, no data."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flow_run_id(state: State[Any]) -> UUID:
    assert state.state_details.flow_run_id is not None
    return state.state_details.flow_run_id


def artifacts_of(state: State[Any]) -> list[Any]:
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id(state)]))
    with get_client(sync_client=True) as client:
        return list(client.read_artifacts(artifact_filter=wanted))


def task_runs_of(state: State[Any]) -> list[TaskRun]:
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id(state)]))
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(flow_run_filter=wanted)
    return sorted(runs, key=lambda run: run.start_time)


def test_one_word_in_all_places() -> None:
    shared = {"__init__", "catalogue", "figures", "lesson"}
    assert {file.stem for file in (ROOT / "flows" / "toys").glob("*.py")} == {*TOYS, *shared}
    assert {file.stem for file in (ROOT / "models" / "toys").glob("*.py")} == {*TOYS, "__init__"}
    assert {file.stem for file in (ROOT / "reports" / "toys").glob("*.svg")} == {*TOYS}
    text = (ROOT / "docs" / "toys.md").read_text(encoding="utf-8")
    for name in TOYS:
        assert (ROOT / "tests" / f"test_toys_{name}.py").is_file()
        assert f"\n## {name}\n" in text
        assert f"../reports/toys/{name}.svg" in text


@pytest.mark.parametrize("name", TOYS)
def test_each_is_a_form_with_defaults_and_explanations(name: str) -> None:
    flow = load_flow(name)
    assert flow.name == name
    schema = parameter_schema(flow).properties
    assert schema.keys() == inspect.signature(flow.fn).parameters.keys()
    for key, field in schema.items():
        assert "default" in field, key
        assert field["description"], key
        assert field["type"] in {"number", "integer", "string", "array"}, "nothing untyped"


@pytest.mark.parametrize("name", TOYS)
def test_runs_as_a_flow(name: str, folder: Path, prefect_server: None) -> None:
    state = load_flow(name)(return_state=True)
    assert state.is_completed(), state.message
    (artifact,) = artifacts_of(state)
    assert artifact.key == f"toy-{name.replace('_', '-')}"
    assert f"# {name}: {TOYS[name]}" in artifact.data
    assert "| --- |" in artifact.data
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == {
        f"reports/toys/{name}.svg"
    }
    runs = task_runs_of(state)
    assert len(runs) >= 2, "small tasks"
    assert {run.state_name for run in runs} == {"Completed"}


def test_tasks_are_chained_by_their_results(folder: Path, prefect_server: None) -> None:
    state = load_flow("neuron")(return_state=True)
    runs = {run.name.rpartition("-")[0]: run for run in task_runs_of(state)}
    assert list(runs) == ["multiply", "add_up", "add_bias", "activate", "by_pytorch"]
    for before, after, argument in (("multiply", "add_up", "products"), ("add_bias", "activate", "z")):
        assert [run.id for run in runs[after].task_inputs[argument]] == [runs[before].id]


def test_wrong_parameter_ends_a_run_in_one_line(
    folder: Path, prefect_server: None, caplog: pytest.LogCaptureFixture
) -> None:
    state = load_flow("gradient_descent")(lr_good=-0.1, return_state=True)
    assert state.is_failed()
    assert state.message == "gradient_descent: lr_good should be greater than 0, not -0.1"
    state = load_flow("loss")(good=[0.9], return_state=True)
    assert state.is_failed()
    assert state.message == "loss: 3 targets need as many predictions, not 1"
    assert isinstance(state.result(raise_on_failure=False), InputError)
    assert "Traceback" not in caplog.text
    assert not list(folder.rglob("*.svg"))


@pytest.mark.parametrize("name", ["neuron", "layers"])
def test_runs_as_plain_python_without_a_server(name: str, folder: Path) -> None:
    nowhere = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"flows.toys.{name}"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | nowhere,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name}: {TOYS[name]}\n")
    assert Path(f"reports/toys/{name}.svg").is_file()
    assert "Prefect" not in done.stdout + done.stderr


def test_listed_without_waiting_for_heavy_imports(folder: Path) -> None:
    program = (
        "import sys; from flows.cli.main import exit_code; print(exit_code(['toys'])); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *listed, code, modules = done.stdout.splitlines()
    assert code == "0"
    for name, shows in TOYS.items():
        assert f"{name:<18} {shows}" in listed
    assert not {"torch", "prefect", "dvc", "matplotlib"} & set(modules.split())


def test_run_from_the_command_line(
    folder: Path, prefect_server: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["toys", "discounted_return", "--set", "rewards=[1, 1]", "--set", "gammas=[0.5]"]) == 0
    assert "R = 1.5" in Path("reports/toys/discounted_return.svg").read_text(encoding="utf-8")
    assert run_command(["toys", "loss", "--set", "good=[0.9]"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "cifarflow: loss: 3 targets need as many predictions, not 1"
    )


def test_all_are_run_in_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def flow_of(name: str) -> Any:
        def flow(return_state: bool) -> Any:
            ran.append(name)
            return type("State", (), {"is_completed": lambda _: True})()

        flow.__name__ = name
        return type("Flow", (), {"fn": staticmethod(lambda: None), "__call__": staticmethod(flow)})()

    monkeypatch.setattr("flows.toys.catalog.flow_of", flow_of)
    assert run_command(["toys", "all"]) == 0
    assert ran == list(TOYS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["newron"], "there is no toy newron; did you mean neuron?"),
        (["x"], f"there is no toy x; there are {', '.join(TOYS)} and all"),
        (["neuron", "--set", "w1=two"], "--set: w1 should be a number, not 'two'"),
        (["neuron", "--set", "w1=.nan"], "--set: w1 should be a finite number, not nan"),
        (["fit", "--set", "nose=1"], "--set: nose is not a parameter; did you mean noise?"),
        (["neuron", "--set", "w1"], "--set w1: give it as key=value, such as seed=1"),
        (["neuron", "--set", "w1=["], "--set w1=[: the value is not YAML"),
        (["fit", "--set", "noise=-1"], "--set: noise should be greater than or equal to 0, not -1"),
        (["all", "--set", "seed=1"], "--set needs the NAME of one toy, not all"),
        (["--set", "seed=1"], "--set needs the NAME of a toy; cifarflow toys lists them"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run_command(["toys", *arguments]) == 2
    assert capsys.readouterr().err == f"cifarflow: {message}\n"


def test_tables() -> None:
    table = Table(["name", "value"], [("a", 1 / 3), ("bc", -0.0)])
    assert table.as_text().splitlines() == ["name     value", "a     0.333333", "bc           0"]
    assert table.as_markdown() == "| name | value |\n| --- | --- |\n| a | 0.333333 |\n| bc | 0 |"
