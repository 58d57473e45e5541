import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Generator, Tensor

from models.init import build_model
from models.net import Net
from models.step import training_step
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.overrides import parse_overrides, read_recipe, with_overrides, write_overrides
from tasks.params import TrainConfig, read_params
from tasks.train import train
from tasks.training import trainer as module
from tasks.training.lr_scheduler import lr_lambda
from tasks.training.normalize import Normalize
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.splits import load_splits, load_tensors, save_tensors
from tasks.workspace.weights import load_classifier
from tests.conftest import ROOT

ABOUT = {
    "dataset": "sample",
    "classes": [f"class {i}" for i in range(10)],
    "data_md5": "a",
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
}
HISTORY = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"]


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
    save_tensors(tmp_path / "splits.safetensors", tensors, ABOUT)
    return tmp_path / "splits.safetensors"


def config(**changes: object) -> TrainConfig:
    default = read_params(ROOT / "params.yaml").train
    return TrainConfig.model_validate(
        default.model_dump() | {"device": "cpu", "epochs": 3, "batch_size": 32} | changes
    )


def trained(splits: Path, **changes: object) -> bytes:
    weights = splits.with_name("weights.safetensors")
    train(splits, weights, splits.with_name("history.csv"), config(**changes))
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
    _, about = load_tensors(splits.with_name("weights.safetensors"))
    best = max(rows(splits), key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    assert about["epoch"] == int(best["epoch"])


def test_weights_that_blow_up_stop_the_run_and_leave_the_last_ones(splits: Path) -> None:
    before = trained(splits)
    with pytest.raises(
        RunError,
        match=r"the loss is \S+ in epoch \d, step \d+, at a learning rate of 1e\+30; try a lower train.lr",
    ):
        far_too_fast = config().model_copy(update={"lr": 1e30})  # beyond what the schema allows
        train(splits, splits.with_name("weights.safetensors"), splits.with_name("history.csv"), far_too_fast)
    assert splits.with_name("weights.safetensors").read_bytes() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there(splits: Path) -> None:
    with pytest.raises(InputError, match="PyTorch finds no CUDA device"):
        trained(splits, device="cuda")


RECIPE = {
    "optimizer": "adamw",
    "weight_decay": 0.1,
    "lr_schedule": "cosine",
    "warmup_epochs": 0.5,
    "label_smoothing": 0.05,
    "flip": True,
    "translate": 2,
    "ema_decay": 0.9,
}


WHITENED = {
    "network": "airbench94",
    "batch_size": 40,
    "optimizer": "muon",
    "lr": 0.24,
    "momentum": 0.6,
    "weight_decay": 0.004,
    "lr_schedule": "linear",
    "whiten_bias_epochs": 2,
    "label_smoothing": 0.2,
    "flip": "alternating",
    "translate": 1,
    "cutout_size": 4,
    "ema_decay": 0.5,
    "tta": "flip_translate",
}


@pytest.mark.parametrize("changes", [RECIPE, {"optimizer": "sgd", "lr": 0.01}, {"precision": "bf16-mixed"}])
def test_every_kind_of_training_learns_and_gives_the_same_bytes_twice(
    splits: Path, changes: dict[str, object]
) -> None:
    first = trained(splits, epochs=8, **changes)
    assert float(rows(splits)[-1]["train_loss"]) < float(rows(splits)[0]["train_loss"]) - 0.02
    assert trained(splits, epochs=8, **changes) == first


def test_the_talks_recipe_is_the_plain_loop(splits: Path) -> None:
    """Held against Adam, CrossEntropyLoss and the network written down as in the talk's code demo."""
    trained(splits, epochs=1)
    tensors, _ = load_tensors(splits.with_name("weights.safetensors"))
    data, _ = load_tensors(splits)
    generator = Generator().manual_seed(0)
    net = build_model(Net, generator)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    for batch in torch.randperm(400, generator=generator).split(32):
        inputs = (data["train_images"][batch].permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        optimizer.zero_grad()
        torch.nn.CrossEntropyLoss()(net(inputs), data["train_labels"][batch]).backward()
        optimizer.step()
    for name, tensor in net.state_dict().items():
        assert torch.allclose(tensors[name], tensor, atol=1e-4), name


def test_learning_rate_rises_and_falls() -> None:
    factor = lr_lambda(config(epochs=10, lr_schedule="cosine", warmup_epochs=2.0), 10)
    rates = [factor(step) for step in range(101)]
    assert rates[:20] == sorted(rates[:20])
    assert rates[20] == 1
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[60] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_linear_schedule_is_a_straight_line_to_0() -> None:
    factor = lr_lambda(config(epochs=10, lr_schedule="linear", warmup_epochs=2.0), 10)
    assert [factor(step) for step in (20, 40, 60, 80, 100)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_warmup_longer_than_the_training() -> None:
    with pytest.raises(ValueError, match="must be smaller than epochs"):
        config(warmup_epochs=3.0)


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

    monkeypatch.setattr("tasks.training.trainer.training_step", until_the_40th)
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

    monkeypatch.setattr("tasks.training.trainer.training_step", too_much)
    with pytest.raises(RunError, match="batch size 48"):
        trained(splits, batch_size=48)


@pytest.fixture
def workspace(splits: Path) -> Path:
    """Where `python -m tasks train` finds the splits and 60 epochs to train for."""
    folder = splits.parent / "workspace"
    (folder / "artifacts").mkdir(parents=True)
    splits.rename(folder / "artifacts" / splits.name)
    shutil.copy(ROOT / "params.yaml", folder)
    write_overrides(
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
    train(splits, weights, history, config(), None, lambda *said: told.append(said))
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


def test_a_whitening_layer_is_for_a_network_that_has_one() -> None:
    with pytest.raises(ValueError, match="whiten_bias_epochs must be 0 for network net"):
        config(whiten_bias_epochs=1)


@pytest.fixture
def few(splits: Path) -> Path:
    """Of the splits so few pictures that a large network runs through them in a test."""
    tensors, about = load_tensors(splits)
    counts = {"train": 120, "val": 40, "test": 10}
    cut = {name: tensor[: counts[name.partition("_")[0]]].clone() for name, tensor in tensors.items()}
    save_tensors(splits.with_name("few.safetensors"), cut, about)
    return splits.with_name("few.safetensors")


def test_a_whitened_training_learns_and_gives_the_same_bytes_twice(few: Path) -> None:
    first = trained(few, **WHITENED)
    assert float(rows(few)[-1]["train_loss"]) < float(rows(few)[0]["train_loss"]) - 0.2
    assert trained(few, **WHITENED) == first
    assert trained(few, seed=1, **WHITENED) != first


def test_a_whitened_training_that_is_stopped_ends_in_the_same_bytes(
    few: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the statistics of batch normalization, the average, the momenta, and who is mirrored."""
    whole = trained(few, **WHITENED)
    steps = 0

    def until_the_8th(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 8:  # of 3 an epoch
            raise Stop
        return training_step(*arguments)

    monkeypatch.setattr("tasks.training.trainer.training_step", until_the_8th)
    with pytest.raises(Stop):
        trained(few, **WHITENED)
    monkeypatch.undo()
    assert trained(few, **WHITENED) == whole
    assert "resuming from checkpoint after epoch 2" in capsys.readouterr().out


def training(splits: Path, **changes: object) -> module.Trainer:
    data = load_splits(splits)
    normalize = Normalize(data.metadata["mean"], data.metadata["std"], torch.device("cpu"))
    return module.Trainer(data.train, data.val, normalize, config(**changes), lambda *_: None)


def test_a_warm_up_leaves_nothing_behind(few: Path) -> None:
    plain, warm = training(few, **WHITENED), training(few, **WHITENED)
    warm.warm_up()
    assert warm.warm_up_seconds > 0
    for number in (1, 2, 3):
        plain.run_epoch(number)
        warm.run_epoch(number)
    states = [one.state_dict() for one in (plain, warm)]
    for part in ("model", "ema_model"):
        assert all(torch.equal(states[1][part][name], tensor) for name, tensor in states[0][part].items())
    assert torch.equal(states[0]["generator"], states[1]["generator"])
    assert [epoch.val_loss for epoch in plain.history] == [epoch.val_loss for epoch in warm.history]


def test_the_whitenings_bias_is_trained_at_first_and_its_filters_never(few: Path) -> None:
    one = training(few, **WHITENED)
    tensors = []
    for number in (1, 2, 3):
        before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
        one.run_epoch(number)
        tensors.append((before, one.model.state_dict()))
    moved = [not torch.equal(before["whiten.bias"], after["whiten.bias"]) for before, after in tensors[:1]]
    assert moved == [True]
    before, after = tensors[2]
    assert torch.equal(before["whiten.bias"], after["whiten.bias"])
    assert torch.equal(tensors[0][0]["whiten.weight"], after["whiten.weight"])
    assert not torch.equal(before["blocks.0.norms.0.bias"], after["blocks.0.norms.0.bias"])


def test_alternating_shows_every_picture_both_ways_in_two_epochs(splits: Path) -> None:
    one = training(splits, flip="alternating")
    first, second, third = (one.augment(one.images, number) for number in (1, 2, 3))
    assert torch.equal(second, first.flip(2))
    assert torch.equal(third, first)
    mirrored = [not torch.equal(a, b) for a, b in zip(first, one.images, strict=True)]
    assert 150 < sum(mirrored) < 250  # of 400


def test_validation_is_of_the_network_in_its_evaluation_mode_without_augmentation(few: Path) -> None:
    trained(few, epochs=3, **WHITENED | {"ema_decay": 0.0})
    classifier, about = load_classifier(few.with_name("weights.safetensors"))
    val = load_splits(few).val
    with torch.inference_mode():
        logits = classifier.network(classifier.normalize(val.images))
    row = rows(few)[about["epoch"] - 1]
    assert (logits.argmax(1) == val.labels).double().mean().item() == float(row["val_accuracy"])
    assert torch.nn.functional.cross_entropy(logits, val.labels).item() == pytest.approx(
        float(row["val_loss"]), rel=1e-4
    )


def test_a_long_training_says_so_first(
    splits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = trained(splits)
    assert "hours" not in capsys.readouterr().out
    monkeypatch.setattr("tasks.training.progress.ESTIMATE_THRESHOLD_S", 0.0)
    assert trained(splits) == quick
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"estimated training time: 0\.0 hours \(3 epochs of 13 steps.*of 0\.\d\d s\)", lines[0]
    )
    assert len([line for line in lines if "hours" in line]) == 1


@pytest.mark.parametrize("recipe", ["fast94", "strong96"])
def test_a_recipe_for_a_gpu_runs_on_a_cpu_and_ships_what_it_was_judged_by(
    few: Path, tmp_path: Path, recipe: str
) -> None:
    """Scaled down to a few steps, by the code that a full run takes."""
    params = with_overrides(read_params(ROOT / "params.yaml"), read_recipe(recipe, ROOT / "recipes"))
    scaled = params.train.model_dump() | {
        "device": "cpu",
        "epochs": 1,
        "batch_size": 40,
        "warmup_epochs": 0.0,
    }
    weights, metrics, onnx_model = tmp_path / "w", tmp_path / "m", tmp_path / "o"
    train(few, weights, tmp_path / "h", TrainConfig.model_validate(scaled))
    evaluate(few, weights, metrics, tmp_path / "c", params.evaluate)
    judged = json.loads(metrics.read_text())
    assert judged["tta"] == "flip_translate"
    assert {"accuracy", "accuracy_no_tta"} <= judged["test"].keys()
    # PyTorch's exporter writes opset 18 for it.
    done = export(few, weights, onnx_model, params.export.model_copy(update={"opset": 18}))
    assert done["parity_images"] == 10
    test = load_splits(few).test
    session = onnxruntime.InferenceSession(onnx_model.read_bytes())
    shipped = session.run(None, {"images": test.images.numpy()})[0].argmax(1)
    assert (shipped == test.labels.numpy()).mean() == pytest.approx(judged["test"]["accuracy"])
