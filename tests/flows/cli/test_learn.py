"""`cifarflow learn`."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.cli.main import run_command
from tasks.exercises.catalog import MODULES
from tasks.exercises.checking import Verdict
from tasks.params import Params
from tests.conftest import ROOT

RIGHT = "def pooling(image):\n    return [[max(*image[r][c : c + 2], *image[r + 1][c : c + 2])"
RIGHT += " for c in range(0, len(image[0]) - 1, 2)] for r in range(0, len(image) - 1, 2)]\n"


STEP = """def training_step(model, loss_function, optimizer, inputs, targets):
    optimizer.zero_grad()
    predictions = model(inputs)
    loss = loss_function(predictions, targets)
    loss.backward()
    optimizer.step()
    return predictions.detach(), loss.detach()
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).touch()
    shutil.copytree(ROOT / "exercises", tmp_path / "exercises")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_learn_lists_the_exercises_and_names_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    Path("exercises/pooling.py").write_text(RIGHT, encoding="utf-8")
    Path("exercises/layer.py").write_text("def layer(x, W, b): return 0\n", encoding="utf-8")
    assert run_command(["learn"]) == 0
    output = capsys.readouterr().out
    lines = output.splitlines()
    assert [line.split()[1] for line in lines[: len(MODULES)]] == list(MODULES)
    assert [line.split(maxsplit=2)[2] for line in lines[:3]] == ["not begun", "not right yet", "not begun"]
    assert lines[10] == "11  pooling                solved"
    assert "1 of 12 solved. Next: fill in exercises/neuron.py, then: cifarflow learn neuron" in lines
    assert Path("exercises/pooling.py").read_text(encoding="utf-8") == RIGHT


def test_learn_name_says_solved_or_names_the_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["learn", "pooling"]) == 1
    assert capsys.readouterr().out == "pooling: not begun; fill in exercises/pooling.py\n"
    file = Path("exercises/pooling.py")
    file.write_text(RIGHT.replace("max(", "min("), encoding="utf-8")
    assert run_command(["learn", "pooling"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == "pooling: not yet. This is the smallest of the four; keep the largest."
    assert second.startswith("  pooling([[1, 4, 2, 0], ")
    assert second.endswith(" should be [[4, 5], [6, 7]], and is [[0.5, 0], [0, 1]]")
    file.write_text(RIGHT.replace("    return", "    print('a', image)\n    return"), encoding="utf-8")
    assert run_command(["learn", "pooling"]) == 0
    assert capsys.readouterr().out.startswith("pooling: solved\n  It prints:\n  | a [[1.0, 4.0")


def test_learn_unknown_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["learn", "poling"]) == 2
    assert capsys.readouterr().err == "cifarflow: unknown exercise poling; did you mean pooling?\n"


def test_learn_watch_checks_what_is_saved() -> None:
    command = [sys.executable, "-c", "from flows.cli.main import main; main()", "learn", "--watch"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "Watching exercises/; Ctrl-C ends it.\n"
            time.sleep(1)  # It has seen the files as they are.
            Path("exercises/pooling.py").write_text(RIGHT, encoding="utf-8")
            assert process.stdout.readline() == "pooling: solved\n"
        finally:
            process.kill()


@pytest.mark.slow
def test_right_training_step_trains_the_pipelines_network(
    small_run: Params, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("params.yaml").write_text(json.dumps(small_run.model_dump(mode="json")), encoding="utf-8")
    Path("exercises/training_step.py").write_text(STEP, encoding="utf-8")
    assert run_command(["learn", "training_step"]) == 0
    output = capfd.readouterr().out
    assert "training_step: solved" in output
    assert "epoch 2/2: train loss" in output
    assert "are the same, bit for bit, as those that the pipeline's own step gives" in output


def test_right_training_step_without_images_says_how_to_get_some(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.cli.learn.check_file", lambda *_: Verdict("solved"))
    shutil.copy(ROOT / "tests/params.yaml", "params.yaml")
    assert run_command(["learn", "training_step"]) == 0
    assert "cifarflow run --sample makes some" in capsys.readouterr().out
