import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from prefect.settings import get_current_settings

from flows.sweep import divide_threads, mean_std_sem, run_sweep
from tasks.evaluate import evaluate
from tasks.params import read_params
from tasks.train import train
from tasks.training.compile import Machine
from tasks.workspace.errors import InputError, RunError
from tests.brightness import build_config, build_params, save_brightness_splits
from tests.conftest import ROOT
from tests.shipped_params import PARAMS_FILE

pytestmark = [pytest.mark.slow, pytest.mark.distributed, pytest.mark.usefixtures("prefect_server")]

EVALUATE_CONFIG = read_params(PARAMS_FILE).evaluate
CONFIG: dict[str, object] = {"epochs": 2, "batch_size": 20, "seed": 3}
LONG_EPOCHS = 40


def sweep_seeds(splits: Path, num_seeds: int, jobs: int, **changes: object) -> dict[str, Any]:
    weights, result = (str(splits.with_name(name)) for name in ("weights", "sweep.json"))
    params = build_params(build_config(**CONFIG | changes), splits=str(splits), weights=weights, sweep=result)
    return run_sweep(params, num_seeds, jobs)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_brightness_splits(tmp_path_factory.mktemp("sweep") / "splits", 200, 60, 50)


@pytest.fixture(scope="module")
def result(splits: Path) -> dict[str, Any]:
    """Of two seeds in two processes, which share two threads."""
    return sweep_seeds(splits, 2, 2, num_threads=2)


def test_run_sweep_gives_the_metrics_of_a_training_of_each_seed(splits: Path, result: dict[str, Any]) -> None:
    assert [row["seed"] for row in result["seeds"]] == [3, 4]
    weights, metrics_file = splits.with_name("weights"), splits.with_name("metrics")
    for row in result["seeds"]:
        config = build_config(**CONFIG | {"seed": row["seed"]})
        trained = train(splits, weights, splits.with_name("history"), config)
        evaluate(splits, weights, metrics_file, splits.with_name("predictions"), EVALUATE_CONFIG)
        metrics = json.loads(metrics_file.read_text())
        assert row["best_epoch"] == trained["best_epoch"]
        assert row["val_accuracy"] == metrics["val"]["accuracy"]
        assert row["test_accuracy"] == metrics["test"]["accuracy"]
    accuracies = [row["test_accuracy"] for row in result["seeds"]]
    assert result["test_accuracy"]["mean"] == pytest.approx(sum(accuracies) / 2)
    assert json.loads(splits.with_name("sweep.json").read_text()) == result


def test_run_sweep_deletes_the_weights_and_records_its_parameters(
    splits: Path, result: dict[str, Any]
) -> None:
    assert not list(splits.with_name("sweep").rglob("model.safetensors"))
    assert (result["jobs"], result["device"], result["dataset"]) == (2, "cpu", "sample")
    assert result["train"]["num_threads"] == 1
    assert "seed" not in result["train"]


def test_run_sweep_keeps_finished_seeds(
    splits: Path, result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    again = sweep_seeds(splits, 3, 2, num_threads=2)
    assert (
        again["seeds"][:2] == result["seeds"]
    )  # including their times, which no second training would share
    output = capsys.readouterr().out
    assert "already finished: seed 3, 4\n" in output
    assert "seed 5: validation" in output
    assert "(3 of 3)" in output


@pytest.mark.usefixtures("result")
def test_run_sweep_keeps_no_seed_that_other_operators_trained(
    splits: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.sweep.find_machine", lambda *_: Machine("cpu", fused=False))
    assert not sweep_seeds(splits, 2, 2, num_threads=2)["fused"]
    assert "already finished" not in capsys.readouterr().out


@pytest.mark.usefixtures("result")
def test_run_sweep_names_failed_seeds_and_keeps_the_old_output(splits: Path) -> None:
    """Other parameters, so that no finished seed counts."""
    before = splits.with_name("sweep.json").read_bytes()
    with pytest.raises(RunError, match=r"2 of 2 seeds failed.*seed 3: the loss is"):
        sweep_seeds(splits, 2, 1, optimizer="sgd", lr=1000.0)
    assert splits.with_name("sweep.json").read_bytes() == before


def test_run_sweep_without_splits_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not found; run the stage that produces it first"):
        sweep_seeds(tmp_path / "splits", 2, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_run_sweep_without_cuda_raises_if_it_is_configured(splits: Path) -> None:
    with pytest.raises(InputError, match="PyTorch finds no CUDA device"):
        sweep_seeds(splits, 2, 1, device="cuda")


def test_mean_std_sem_matches_hand_calculation() -> None:
    assert mean_std_sem([0.1, 0.2, 0.6]) == pytest.approx(
        {"mean": 0.3, "std": 0.07**0.5, "sem": (0.07 / 3) ** 0.5}
    )
    assert mean_std_sem([0.5, 0.7])["std"] == pytest.approx(statistics.stdev([0.5, 0.7]))


@pytest.mark.parametrize(
    ("device", "jobs", "expected"),
    [("cpu", 1, 4), ("cpu", 2, 2), ("cpu", 3, 1), ("cpu", 8, 1), ("cuda", 2, 4)],
)
def test_divide_threads_shares_those_of_a_cpu(device: str, jobs: int, expected: int) -> None:
    config = divide_threads(build_config(num_threads=4), device, jobs)
    assert config.num_threads == expected


PROGRAM = """
if __name__ == "__main__":  # the worker imports this file as well, but not what follows
    import signal, sys
    sys.path.insert(0, {root!r})
    from pathlib import Path
    from tests.flows.test_sweep_seeds import LONG_EPOCHS, sweep_seeds

    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the test suite ignores it
    sweep_seeds(Path({splits!r}), 2, 1, epochs=LONG_EPOCHS)
"""


@pytest.mark.faults
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_run_sweep_killed_leaves_no_process_and_resumes(tmp_path: Path, signal_number: int) -> None:
    splits, program = save_brightness_splits(tmp_path / "splits", 200, 60, 50), tmp_path / "program.py"
    program.write_text(PROGRAM.format(root=str(ROOT), splits=str(splits)))
    process = subprocess.Popen(
        [sys.executable, program],
        env=os.environ | {"PREFECT_API_URL": str(get_current_settings().api.url)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    folder = tmp_path / "sweep"
    deadline = time.monotonic() + 120
    while not list(folder.glob("*/seed-4/checkpoints/*/epoch-*.pt")):  # the second seed is in training
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(signal_number)
    process.communicate(timeout=30)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    (log,) = folder.glob("*/seed-4/log.txt")
    assert f"epoch {LONG_EPOCHS}/{LONG_EPOCHS}" not in log.read_text()
    (finished,) = (json.loads(row.read_text()) for row in folder.glob("*/seed-3/row.json"))

    result = sweep_seeds(splits, 2, 1, epochs=LONG_EPOCHS)
    assert result["seeds"][0] == finished
    assert "resuming from checkpoint after epoch" in log.read_text()
