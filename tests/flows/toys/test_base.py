"""The toys as plain Python: parameters are validated, tables printed; nothing needs a server."""

import inspect
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow

from flows.toys.base import parse_parameters
from flows.toys.catalog import TOYS, load_flow
from tasks.workspace.errors import InputError
from tests.conftest import ROOT

UNREACHABLE_API = "http://127.0.0.1:9/api"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty: no params.yaml, no data."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shorten_training(flow: Flow[..., Any]) -> dict[str, Any]:
    """One epoch, for a toy that trains."""
    return {"epochs": 1} if "epochs" in inspect.signature(flow.fn).parameters else {}


def test_toy_module_runs_without_a_server(folder: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "flows.toys.neuron"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"PREFECT_API_URL": UNREACHABLE_API, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"neuron: {TOYS['neuron']}\n")
    assert Path("reports/toys/neuron.svg").is_file()
    assert "Prefect" not in result.stdout + result.stderr


@pytest.mark.parametrize("name", TOYS)
def test_plain_call_of_a_toy_prints_and_saves_its_figure(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", UNREACHABLE_API)
    flow = load_flow(name)
    flow.fn(**shorten_training(flow))
    output = capsys.readouterr()
    assert output.out.startswith(f"{name}: {TOYS[name]}\n")
    assert output.out.rstrip().endswith(f"figure: reports/toys/{name}.svg")
    assert "Prefect" not in output.out + output.err
    assert [file for file in folder.rglob("*") if file.is_file()] == [
        folder / "reports" / "toys" / f"{name}.svg"
    ]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("neuron", {"w1": "3"}, "w1 should be a number from -1e+06 to 1e+06, not '3'"),
        ("neuron", {"x1": math.nan}, "x1 should be a number from -1e+06 to 1e+06, not .nan"),
        ("neuron", {"x1": math.inf}, "x1 should be a number from -1e+06 to 1e+06, not .inf"),
        ("neuron", {"w1": 1e200}, "w1 should be a number from -1e+06 to 1e+06, not 1e+200"),
        ("neuron", {"activation": "step"}, "activation should be 'sigmoid', 'tanh' or 'relu', not 'step'"),
        (
            "gradient_descent",
            {"lr_good": -0.1},
            "lr_good should be a number greater than 0 and at most 1e+06, not -0.1",
        ),
        (
            "gradient_descent",
            {"lr_good": 0},
            "lr_good should be a number greater than 0 and at most 1e+06, not 0",
        ),
        (
            "gradient_descent",
            {"lr_good": math.nan},
            "lr_good should be a number greater than 0 and at most 1e+06, not .nan",
        ),
        (
            "gradient_descent",
            {"lr_good": math.inf},
            "lr_good should be a number greater than 0 and at most 1e+06, not .inf",
        ),
        ("loss", {"good": [0.9]}, "good: 3 targets need as many predictions, not 1"),
        (
            "loss",
            {"targets": [0, 1], "good": [0.1, 0.9]},
            "bad: 2 targets need as many predictions, not 3",
        ),
        ("fit", {"max_degree": 60}, "max_degree: degree 60 needs more than 60 train_points, not 20"),
        ("fit", {"train_points": 5}, "max_degree: degree 14 needs more than 14 train_points, not 5"),
        ("discounted_return", {"gammas": [-0.1]}, "gammas.0 should be a number from 0 to 1, not -0.1"),
        ("discounted_return", {"gammas": [1.1]}, "gammas.0 should be a number from 0 to 1, not 1.1"),
        ("discounted_return", {"gammas": [math.nan]}, "gammas.0 should be a number from 0 to 1, not .nan"),
        ("discounted_return", {"rewards": ["5"]}, "rewards.0 should be a number from -1e+06 to 1e+06, not "),
        (
            "discounted_return",
            {"rewards": []},
            "rewards should be a list of 1 to 40 items, each item a number from -1e+06 to 1e+06, not []",
        ),
        (
            "discounted_return",
            {"rewards": [math.nan]},
            "rewards.0 should be a number from -1e+06 to 1e+06, not ",
        ),
    ],
)
def test_toy_flow_invalid_parameter_raises_one_line(
    name: str, parameters: dict[str, Any], message: str, folder: Path
) -> None:
    with pytest.raises(InputError) as error:
        load_flow(name).fn(**parameters)
    assert str(error.value).startswith(f"{name}: {message}")
    assert "\n" not in str(error.value)
    assert not list(folder.rglob("*.svg"))


def test_parse_parameters_reads_yaml_values_and_returns_only_those_given() -> None:
    flow = load_flow("discounted_return")
    assert parse_parameters(flow, ["gammas=[0.5]"]) == {"gammas": [0.5]}
    assert parse_parameters(load_flow("neuron"), ["w1=2", "activation=tanh"]) == {
        "w1": 2.0,
        "activation": "tanh",
    }
    with pytest.raises(InputError, match=r"^--set w1: expected key=value, e\.g\. seed=1$"):
        parse_parameters(load_flow("neuron"), ["w1"])
