import csv
import os
import random
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from models.net import Net
from models.training import initialised, training_step
from tasks.artifacts import read_tensors, write_tensors
from tasks.errors import InputError, RunError
from tasks.params import Train, override, parse_overrides, read_params
from tasks.train import learning_rate_factor, train

ROOT = Path(__file__).parents[1]
ABOUT = {
    "dataset": "sample",
    "classes": [f"class {i}" for i in range(10)],
    "data_md5": "a",
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
}
HISTORY = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds"]


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """Splits of pictures whose class is their brightness."""
    generator = Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    for name, count in (("train", 400), ("val", 100), ("test", 10)):
        labels = torch.arange(count) % 10
        noise = torch.randint(20, (count, 32, 32, 3), generator=generator)
        tensors[f"{name}_images"] = (noise + 23 * labels[:, None, None, None]).to(torch.uint8)
        tensors[f"{name}_labels"] = labels
    write_tensors(tmp_path / "splits.safetensors", tensors, ABOUT)
    return tmp_path / "splits.safetensors"


def options(**changes: object) -> Train:
    default = read_params(Path(__file__).parents[1] / "params.yaml").train
    return Train.model_validate(
        default.model_dump() | {"device": "cpu", "epochs": 3, "batch_size": 32} | changes
    )


def trained(splits: Path, **changes: object) -> bytes:
    weights = splits.with_name("weights.safetensors")
    train(splits, weights, splits.with_name("history.csv"), options(**changes))
    return weights.read_bytes()


def rows(splits: Path) -> list[dict[str, str]]:
    with splits.with_name("history.csv").open(newline="") as table:
        return list(csv.DictReader(table))


def test_the_talks_network() -> None:
    assert sum(parameter.numel() for parameter in Net().parameters()) == 62_006


def test_learns(splits: Path) -> None:
    trained(splits, epochs=12)
    assert float(rows(splits)[-1]["val_accuracy"]) > 0.5


def test_same_bytes_twice_and_others_with_another_seed(splits: Path) -> None:
    torch.manual_seed(1)
    first = trained(splits)
    torch.manual_seed(2)  # global state takes no part
    assert trained(splits) == first
    assert trained(splits, seed=1) != first


def test_history_has_a_row_an_epoch(splits: Path) -> None:
    trained(splits)
    assert list(rows(splits)[0]) == HISTORY
    assert [row["epoch"] for row in rows(splits)] == ["1", "2", "3"]


def test_best_epoch_is_kept(splits: Path) -> None:
    trained(splits, epochs=6, lr=0.01)
    _, about = read_tensors(splits.with_name("weights.safetensors"))
    best = max(rows(splits), key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    assert about["epoch"] == int(best["epoch"])


def test_weights_that_blow_up_stop_the_run_and_leave_the_last_ones(splits: Path) -> None:
    before = trained(splits)
    with pytest.raises(
        RunError,
        match=r"the loss is \S+ in epoch \d, step \d+, at a learning rate of 1e\+30; a lower train.lr",
    ):
        trained(splits, lr=1e30)
    assert splits.with_name("weights.safetensors").read_bytes() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there(splits: Path) -> None:
    with pytest.raises(InputError, match="PyTorch finds no CUDA device"):
        trained(splits, device="cuda")


RECIPE = {
    "optimizer": "adamw",
    "weight_decay": 0.1,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "label_smoothing": 0.05,
    "flip": True,
    "shift": 2,
    "averaging": 0.9,
}


@pytest.mark.parametrize("changes", [RECIPE, {"optimizer": "sgd", "lr": 0.01}, {"precision": "bfloat16"}])
def test_every_kind_of_training_learns_and_gives_the_same_bytes_twice(
    splits: Path, changes: dict[str, object]
) -> None:
    first = trained(splits, epochs=8, **changes)
    assert float(rows(splits)[-1]["train_loss"]) < float(rows(splits)[0]["train_loss"]) - 0.02
    assert trained(splits, epochs=8, **changes) == first


def test_the_talks_recipe_is_the_plain_loop(splits: Path) -> None:
    """Held against Adam, CrossEntropyLoss and the network written down as in the talk's code demo."""
    trained(splits, epochs=1)
    tensors, _ = read_tensors(splits.with_name("weights.safetensors"))
    data, _ = read_tensors(splits)
    generator = Generator().manual_seed(0)
    net = initialised(Net, generator)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    for batch in torch.randperm(400, generator=generator).split(32):
        inputs = (data["train_images"][batch].permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        optimizer.zero_grad()
        torch.nn.CrossEntropyLoss()(net(inputs), data["train_labels"][batch]).backward()
        optimizer.step()
    for name, tensor in net.state_dict().items():
        assert torch.allclose(tensors[name], tensor, atol=1e-4), name


def test_learning_rate_rises_and_falls() -> None:
    factor = learning_rate_factor(options(epochs=10, schedule="cosine", warmup_epochs=2.0), 10)
    rates = [factor(step) for step in range(101)]
    assert rates[:20] == sorted(rates[:20])
    assert rates[20] == 1
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[60] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_warmup_longer_than_the_training() -> None:
    with pytest.raises(ValueError, match="leaves nothing of 3 epochs"):
        options(warmup_epochs=3.0)


class Stop(BaseException):
    """As a signal that asks for an end."""


@pytest.mark.parametrize("changes", [{}, RECIPE])
def test_stopped_training_goes_on_and_ends_in_the_same_bytes(
    splits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
) -> None:
    whole = trained(splits, epochs=5, **changes)
    splits.with_name("weights.safetensors").unlink()
    steps = 0

    def until_the_40th(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 40:  # of 13 an epoch
            raise Stop
        return training_step(*arguments)

    monkeypatch.setattr("tasks.train.training_step", until_the_40th)
    with pytest.raises(Stop):
        trained(splits, epochs=5, **changes)
    monkeypatch.undo()
    assert "stopped; the next run goes on after epoch 3" in capsys.readouterr().out
    assert not splits.with_name("weights.safetensors").exists()
    assert trained(splits, epochs=5, **changes) == whole
    assert "going on after epoch 3" in capsys.readouterr().out
    assert not splits.with_name("checkpoints").exists()


def test_memory_that_does_not_suffice_names_the_batch_size(
    splits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr("tasks.train.training_step", too_much)
    with pytest.raises(RunError, match="batches of 48 do not fit"):
        trained(splits, batch_size=48)


@pytest.fixture
def workspace(splits: Path) -> Path:
    """Where `python -m tasks train` finds the splits and 60 epochs to train for."""
    folder = splits.parent / "workspace"
    (folder / "artifacts").mkdir(parents=True)
    splits.rename(folder / "artifacts" / splits.name)
    shutil.copy(ROOT / "params.yaml", folder)
    override(
        folder / "params.yaml",
        parse_overrides(["train.epochs=60", "train.batch_size=32", "train.device=cpu"]),
    )
    return folder


def started(workspace: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "tasks", "train"],
        cwd=workspace,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_killed_at_random_moments_it_ends_in_the_same_bytes(workspace: Path) -> None:
    weights = workspace / "artifacts" / "model.safetensors"
    chance = random.Random()
    kills = 0
    while kills < 5:
        process = started(workspace)
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 8)):  # lines
            process.stdout.readline()
        time.sleep(chance.random() * 0.1)
        assert process.poll() is None, "it was to be killed, not to end"
        process.kill()
        process.communicate()
        kills += 1
        assert not weights.exists()
    last, _ = started(workspace).communicate()
    assert last.startswith("going on after epoch ")
    after_kills = weights.read_bytes()

    weights.unlink()
    whole, _ = started(workspace).communicate()
    assert whole.startswith("epoch 1/60:")
    assert weights.read_bytes() == after_kills


def test_terminated_says_where_it_will_go_on(workspace: Path) -> None:
    process = started(workspace)
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the next run goes on after epoch" in out
    assert list((workspace / "artifacts" / "checkpoints").glob("*/epoch-*.pt"))


def test_progress_is_told_from_nothing_to_all(splits: Path) -> None:
    told: list[tuple[float, str]] = []
    weights, history = splits.with_name("weights.safetensors"), splits.with_name("history.csv")
    train(splits, weights, history, options(), None, lambda *said: told.append(said))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert told[-1][1] == "epoch 3/3"


def test_a_terminal_shows_a_bar_and_nothing_else_does(workspace: Path) -> None:
    shown, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    command = [sys.executable, "-u", "-m", "tasks", "train"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=workspace, env=environment, stdout=subprocess.DEVNULL, stderr=terminal
    )
    said = ""
    while "batches/s" not in said and process.poll() is None:
        said += os.read(shown, 4096).decode(errors="replace")
    process.kill()
    process.communicate()
    os.close(shown)
    os.close(terminal)
    assert "epoch 1/60:" in said
    assert "batches/s" in said

    silent = subprocess.Popen(
        command, cwd=workspace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert silent.stdout is not None
    silent.stdout.readline()
    silent.kill()
    assert silent.communicate()[1] == ""
