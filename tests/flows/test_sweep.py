import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from flows.cli.main import run_command
from flows.runtime.seeds import mean_std_sem, run_sweep
from flows.sweep import sweep as flow
from tasks.evaluate import evaluate
from tasks.overrides import parse_overrides, with_overrides
from tasks.params import TrainConfig, read_params
from tasks.train import train
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.splits import save_tensors
from tests.conftest import ROOT

ABOUT = {
    "dataset": "sample",
    "classes": [f"class {i}" for i in range(10)],
    "data_md5": "a",
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
}
PARAMS = read_params(ROOT / "params.yaml")


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    generator = Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    for name, count in (("train", 200), ("val", 60), ("test", 50)):
        labels = torch.arange(count) % 10
        noise = torch.randint(20, (count, 32, 32, 3), generator=generator)
        tensors[f"{name}_images"] = (noise + 23 * labels[:, None, None, None]).to(torch.uint8)
        tensors[f"{name}_labels"] = labels
    save_tensors(tmp_path / "artifacts" / "splits.safetensors", tensors, ABOUT)
    return tmp_path / "artifacts" / "splits.safetensors"


def options(**changes: object) -> TrainConfig:
    small = {"device": "cpu", "epochs": 2, "batch_size": 20, "threads": 1, "seed": 3}
    return TrainConfig.model_validate(PARAMS.train.model_dump() | small | changes)


def swept(splits: Path, seeds: int = 3, at_once: int = 2, **changes: object) -> dict[str, Any]:
    report = splits.parents[1] / "sweep.json"
    return run_sweep(
        splits, splits.with_name("sweep"), report, options(**changes), PARAMS.evaluate, seeds, at_once
    )


def test_each_seed_is_the_training_of_that_seed(splits: Path) -> None:
    result = swept(splits)
    assert [row["seed"] for row in result["seeds"]] == [3, 4, 5]
    weights, metrics = splits.with_name("w"), splits.with_name("m")
    for row in result["seeds"]:
        train(splits, weights, splits.with_name("h"), options(seed=row["seed"]))
        evaluate(splits, weights, metrics, splits.with_name("c"), PARAMS.evaluate)
        alone = json.loads(metrics.read_text())
        assert row["val_accuracy"] == alone["val"]["accuracy"]
        assert row["test_accuracy"] == alone["test"]["accuracy"]
    written = json.loads((splits.parents[1] / "sweep.json").read_text())
    assert written == result
    accuracies = [row["test_accuracy"] for row in result["seeds"]]
    assert written["test_accuracy"]["mean"] == pytest.approx(sum(accuracies) / 3)


def test_spread_by_hand() -> None:
    assert mean_std_sem([0.1, 0.2, 0.6]) == pytest.approx(
        {"mean": 0.3, "std": 0.07**0.5, "sem": (0.07 / 3) ** 0.5}
    )
    assert mean_std_sem([0.5, 0.7])["std"] == pytest.approx(statistics.stdev([0.5, 0.7]))


def test_seeds_at_once_share_the_threads(splits: Path) -> None:
    assert swept(splits, 2, 2, threads=2, epochs=1)["train"]["threads"] == 1
    assert swept(splits, 2, 1, threads=2, epochs=1)["train"]["threads"] == 2


def test_finished_seeds_are_kept(splits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = swept(splits, 2)
    again = swept(splits, 3)
    assert again["seeds"][:2] == first["seeds"]  # with their seconds, which no second training would share
    other = swept(splits, 2, epochs=1)
    assert other["seeds"] != first["seeds"]


def test_a_seed_that_fails_is_named_and_the_report_is_left(splits: Path) -> None:
    with pytest.raises(RunError, match=r"2 of 2 seeds failed.*seed 3: the loss is"):
        swept(splits, 2, lr=1e30)
    assert not (splits.parents[1] / "sweep.json").exists()


def test_what_is_missing_is_one_line(splits: Path) -> None:
    splits.unlink()
    with pytest.raises(RunError, match="is not there; the stage that makes it has to run first"):
        swept(splits)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there(splits: Path) -> None:
    with pytest.raises(InputError, match="PyTorch finds no CUDA device"):
        swept(splits, device="cuda")


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.flows.test_sweep import swept

if __name__ == "__main__":
    swept(Path({splits!r}), 2, 1, epochs=100)
"""


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_killed_it_leaves_no_process_and_goes_on(splits: Path, signal_number: int) -> None:
    program = splits.with_name("program.py")
    program.write_text(PROGRAM.format(root=str(ROOT), splits=str(splits)))
    process = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True)
    folder = splits.with_name("sweep")
    end = time.monotonic() + 120
    while not list(folder.glob("*/seed-4/checkpoints/*/epoch-*.pt")):  # the second one is under way
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal_number)
    process.communicate(timeout=30)
    (log,) = folder.glob("*/seed-4/log.txt")
    time.sleep(2)  # by then a training that was left at work would have written
    before = log.read_bytes()
    time.sleep(0.5)
    assert log.read_bytes() == before
    (done,) = (json.loads(row.read_text()) for row in folder.glob("*/seed-3/row.json"))

    result = swept(splits, 2, 1, epochs=100)
    assert result["seeds"][0] == done
    assert "going on after epoch" in log.read_text()


@pytest.mark.usefixtures("prefect_server")
def test_as_a_flow_it_leaves_the_pipeline_alone(splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(splits.parents[1])
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    before = {file: file.read_bytes() for file in Path().rglob("*") if file.is_file()}
    changes = parse_overrides(["train.epochs=1", "train.device=cpu", "train.num_threads=1"])
    state = flow(num_seeds=2, overrides=changes, return_state=True)
    assert state.is_completed()
    assert "mean of 2 seeds" in str(state.message)
    assert {file: file.read_bytes() for file in before} == before
    written = json.loads(Path("reports/sweep.json").read_text())
    assert written["train"]["epochs"] == 1
    assert sorted(file.name for file in Path("artifacts").iterdir()) == ["splits.safetensors", "sweep"]


def test_wrong_numbers_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["sweep", "--seeds", "1"], ["sweep", "--jobs", "0"], ["sweep", "--recipe", "x"]):
        assert run_command(arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_overridden_changes_no_file() -> None:
    assert with_overrides(PARAMS, parse_overrides(["train.epochs=77"])).train.epochs == 77
    with pytest.raises(InputError, match="leaves nothing of"):
        with_overrides(PARAMS, parse_overrides(["train.warmup_epochs=24.0"]))
