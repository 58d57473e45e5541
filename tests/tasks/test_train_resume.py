"""A training that is interrupted or killed resumes and ends in the same bytes."""

import math
import multiprocessing
import random
import shutil
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from models.step import training_step
from tasks.overrides import parse_overrides, write_overrides
from tasks.train import train
from tests.brightness import ADAMW, AIRBENCH94, build_config, save_brightness_splits
from tests.shipped_params import PARAMS_FILE
from tests.tasks.train_process import start_train

pytestmark = pytest.mark.slow

NUM_KILLS = 5
KILLED_EPOCHS = 40


class Interrupt(BaseException):
    """As Ctrl-C or SIGTERM."""


def run_train(splits: Path, **changes: object) -> bytes:
    """Train, and return the content of weights and history."""
    weights, history = splits.with_name("model.safetensors"), splits.with_name("history.csv")
    train(splits, weights, history, build_config(**changes), progress=lambda *_: None)
    return weights.read_bytes() + history.read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 5},
        ADAMW | {"epochs": 5},
        AIRBENCH94,  # with batch normalization, weight averaging, Muon, and the half that is mirrored
    ],
    ids=["adam", "adamw", "airbench94"],
)
def test_train_resumes_after_an_interrupt_bit_identically(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
) -> None:
    num_images = 120 if "network" in changes else 400
    splits = save_brightness_splits(tmp_path / "splits", train=num_images, val=40)
    uninterrupted = run_train(splits, **changes)
    splits.with_name("model.safetensors").unlink()
    steps_per_epoch = math.ceil(num_images / build_config(**changes).batch_size)
    num_steps = 0

    def interrupt_in_epoch_3(*arguments: Any) -> Any:
        nonlocal num_steps
        num_steps += 1
        if num_steps == 2 * steps_per_epoch + 2:
            raise Interrupt
        return training_step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("tasks.training.trainer.training_step", interrupt_in_epoch_3)
        with pytest.raises(Interrupt):
            run_train(splits, **changes)
    assert "interrupted; the next run resumes after epoch 2" in capsys.readouterr().out
    assert not splits.with_name("model.safetensors").exists()
    assert run_train(splits, **changes) == uninterrupted
    assert "resuming from checkpoint after epoch 2" in capsys.readouterr().out
    assert not splits.with_name("checkpoints").exists()


def run_train_with_log(splits: Path, log: Path) -> None:
    with log.open("w", buffering=1) as file, redirect_stdout(file):
        run_train(splits, epochs=KILLED_EPOCHS)


@pytest.mark.slow
def test_train_resumes_after_kills_bit_identically(tmp_path: Path) -> None:
    """SIGKILL at random moments. A fork server imports PyTorch once for all processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", __name__])  # the first is what optimizers import late
    splits, log = save_brightness_splits(tmp_path / "splits"), tmp_path / "log"
    results = [splits.with_name("model.safetensors"), splits.with_name("history.csv")]

    def start_process() -> multiprocessing.process.BaseProcess:
        log.unlink(missing_ok=True)
        process = context.Process(target=run_train_with_log, args=(splits, log))
        process.start()
        return process

    generator = random.Random()
    for _ in range(NUM_KILLS):
        process = start_process()
        num_lines = generator.randrange(1, 4)
        while not log.exists() or len(log.read_text().splitlines()) < num_lines:
            assert process.is_alive(), "the process should be killed before it ends"
            time.sleep(0.005)
        time.sleep(generator.random() * 0.03)
        assert process.is_alive(), "the process should be killed before it ends"
        process.kill()
        process.join()
        assert not results[0].exists()
    process = start_process()
    process.join()
    assert process.exitcode == 0
    assert log.read_text().startswith("resuming from checkpoint after epoch ")
    after_kills = [file.read_bytes() for file in results]

    results[0].unlink()
    process = start_process()
    process.join()
    assert log.read_text().startswith(f"epoch 1/{KILLED_EPOCHS}:")
    assert [file.read_bytes() for file in results] == after_kills


def test_train_on_sigterm_says_where_it_resumes(tmp_path: Path) -> None:
    """The stage as `dvc repro` runs it; without a terminal there is no progress bar."""
    save_brightness_splits(tmp_path / "artifacts" / "splits.safetensors")
    shutil.copy(PARAMS_FILE, tmp_path)
    overrides = ["train.epochs=1000", "train.batch_size=32", "train.device=cpu", "tracking.mode=disabled"]
    write_overrides(tmp_path / "params.yaml", parse_overrides(overrides))
    process = start_train(tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the next run resumes after epoch" in output
    assert errors == "train: interrupted\n"
    assert list((tmp_path / "artifacts" / "checkpoints").glob("*/epoch-*.pt"))
