"""`cifarflow toys`."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import run_command
from flows.toys.catalog import TOYS


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty: no params.yaml, no data."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_toys_without_a_name_lists_them_without_heavy_imports() -> None:
    program = "import sys; from flows.cli.main import run_command as run; print(run(['toys']), *sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *lines, last = result.stdout.splitlines()
    code, *modules = last.split()
    assert code == "0"
    for name, description in TOYS.items():
        assert f"{name:<18} {description}" in lines
    assert not {"torch", "prefect", "dvc", "matplotlib"} & set(modules)


@pytest.mark.server
def test_toys_name_runs_the_flow(prefect_server: None) -> None:
    assert run_command(["toys", "discounted_return", "--set", "rewards=[1, 1]", "--set", "gammas=[0.5]"]) == 0
    assert "R = 1.5" in Path("reports/toys/discounted_return.svg").read_text(encoding="utf-8")


def test_toys_all_runs_each_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    flows_run: list[str] = []

    def load_fake_flow(name: str) -> Any:
        def flow(return_state: bool) -> Any:
            flows_run.append(name)
            return type("State", (), {"is_completed": lambda _: True})()

        flow.__name__ = name
        return type("Flow", (), {"fn": staticmethod(lambda: None), "__call__": staticmethod(flow)})()

    monkeypatch.setattr("flows.cli.toys.load_flow", load_fake_flow)
    assert run_command(["toys", "all"]) == 0
    assert flows_run == list(TOYS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["newron"], "unknown toy newron; did you mean neuron?"),
        (["x"], f"unknown toy x; choose one of {', '.join(TOYS)}, all"),
        (["neuron", "--set", "w1=two"], "--set: w1 should be a number from -1e+06 to 1e+06, not 'two'"),
        (["neuron", "--set", "w1=.nan"], "--set: w1 should be a number from -1e+06 to 1e+06, not .nan"),
        (["fit", "--set", "nose=1"], "--set: nose is not a parameter; did you mean noise?"),
        (["neuron", "--set", "w1"], "--set w1: expected key=value, e.g. seed=1"),
        (
            ["neuron", "--set", "w1=["],
            "--set w1=[: the value, line 2: not YAML, did not find expected node content",
        ),
        (["fit", "--set", "noise=-1"], "--set: noise should be a number from 0 to 1e+06, not -1"),
        (["loss", "--set", "good=[0.9]"], "--set: good: 3 targets need as many predictions, not 1"),
        (
            ["fit", "--set", "max_degree=60"],
            "--set: max_degree: degree 60 needs more than 60 train_points, not 20",
        ),
        (
            ["discounted_return", "--set", "rewards=[]"],
            (
                "--set: rewards should be a list of 1 to 40 items, "
                "each item a number from -1e+06 to 1e+06, not []"
            ),
        ),
        (["all", "--set", "seed=1"], "--set needs the NAME of one toy, not all"),
        (["--set", "seed=1"], "--set needs the NAME of a toy; cifarflow toys lists them"),
    ],
)
def test_toys_invalid_input_prints_one_line_and_exits_2_before_a_server_starts(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("flows.server.connection.connect_to_server", pytest.fail)
    assert run_command(["toys", *arguments]) == 2
    assert capsys.readouterr().err == f"cifarflow: {message}\n"
