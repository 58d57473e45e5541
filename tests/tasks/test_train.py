import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator

from models.init import build_model
from models.net import Net
from tasks.evaluate import evaluate
from tasks.params import EvaluateConfig
from tasks.train import train
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.splits import load_splits, load_tensors
from tasks.workspace.weights import load_classifier
from tests.brightness import ADAMW, AIRBENCH94, build_config, save_brightness_splits

COLUMNS = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate"]


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    return save_brightness_splits(tmp_path / "splits.safetensors")


@pytest.fixture
def small_splits(tmp_path: Path) -> Path:
    """So few images that a large network trains on them within a test."""
    return save_brightness_splits(tmp_path / "splits.safetensors", train=120, val=40)


def run_train(splits: Path, **changes: object) -> bytes:
    """Train, and return the content of weights and history."""
    weights, history = splits.with_name("model.safetensors"), splits.with_name("history.csv")
    train(splits, weights, history, build_config(**changes))
    return weights.read_bytes() + history.read_bytes()


def read_history(splits: Path) -> list[dict[str, str]]:
    with splits.with_name("history.csv").open(newline="") as table:
        return list(csv.DictReader(table))


def test_train_learns_brightness(splits: Path) -> None:
    run_train(splits, epochs=12)
    assert float(read_history(splits)[-1]["val_accuracy"]) > 0.5


def test_train_is_deterministic_per_seed(splits: Path) -> None:
    """Weights, history and metrics, on two threads: none of them holds a time."""

    def run_train_and_evaluate(**changes: object) -> bytes:
        content = run_train(splits, num_threads=2, **changes)
        weights, metrics = splits.with_name("model.safetensors"), splits.with_name("metrics.json")
        evaluate(
            splits,
            weights,
            metrics,
            splits.with_name("predictions.csv"),
            EvaluateConfig(batch_size=100, calibration_bins=15),
        )
        return content + metrics.read_bytes()

    torch.manual_seed(1)
    first = run_train_and_evaluate()
    torch.manual_seed(2)  # the global generator is not used
    assert run_train_and_evaluate() == first
    assert run_train_and_evaluate(seed=1) != first


def test_train_history_has_one_row_per_epoch(splits: Path) -> None:
    run_train(splits)
    assert list(read_history(splits)[0]) == COLUMNS
    assert [row["epoch"] for row in read_history(splits)] == ["1", "2", "3"]


def test_train_saves_the_best_validation_epoch(splits: Path) -> None:
    run_train(splits, epochs=6, lr=0.01)
    _, metadata = load_tensors(splits.with_name("model.safetensors"))
    best = max(read_history(splits), key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    assert metadata["epoch"] == int(best["epoch"])


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_train_keeps_the_temperature_that_fits_validation(splits: Path, tta: str) -> None:
    """No other temperature of the exported classifier has a lower loss on the validation images."""
    run_train(splits, epochs=4, lr=0.01, tta=tta)
    file = splits.with_name("model.safetensors")
    classifier, metadata = load_classifier(file)
    assert classifier.temperature == metadata["temperature"]
    val = load_splits(splits).val

    def loss(temperature: float) -> float:
        classifier.temperature = temperature
        with torch.inference_mode():
            probabilities = classifier(val.images).double()
        # As if there were one image more, whose label is divided evenly among the classes.
        likelihood = probabilities.log()
        return -float(likelihood.gather(1, val.labels[:, None]).sum() + likelihood.mean())

    best = metadata["temperature"]
    assert best != 1
    assert all(loss(best) < loss(best * ratio) for ratio in (0.9, 1.1))


def test_train_returns_accuracy_and_times(splits: Path) -> None:
    metrics = train(splits, splits.with_name("w"), splits.with_name("history.csv"), build_config())
    best = read_history(splits)[metrics["best_epoch"] - 1]
    assert metrics["val_accuracy"] == float(best["val_accuracy"])
    assert metrics["epochs"] == 3
    assert metrics["training_s"] > 0
    assert metrics["set_up_s"] > 0
    assert metrics["warm_up_s"] == 0  # on CUDA only


def test_train_with_non_finite_loss_raises_and_keeps_old_weights(splits: Path) -> None:
    run_train(splits)
    before = splits.with_name("model.safetensors").read_bytes()
    with pytest.raises(
        RunError,
        match=r"the loss is \S+ in epoch \d, step \d+, at a learning rate of 1000; try a lower train.lr",
    ):
        run_train(splits, optimizer="sgd", lr=1000.0)
    assert splits.with_name("model.safetensors").read_bytes() == before


def test_train_out_of_memory_names_the_batch_size(splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out_of_memory(*_: Any, **__: Any) -> Any:
        raise torch.cuda.OutOfMemoryError

    # In a step, in its optimizer, and where images and network are put onto the GPU.
    for place in ("trainer.training_step", "trainer.build_optimizer", "trainer.ImageStore"):
        with monkeypatch.context() as patch:
            patch.setattr(f"tasks.training.{place}", run_out_of_memory)
            with pytest.raises(RunError, match=r"out of memory with batch size 48; lower train\.batch_size"):
                run_train(splits, batch_size=48)


@pytest.mark.parametrize(
    ("said", "expected", "message"),
    [
        ("CUDA error: out of memory", RunError, "out of memory with batch size 32"),
        ("CUDA error: unspecified launch failure", RuntimeError, "unspecified launch failure"),
    ],
)
def test_train_explains_that_cuda_cannot_start_for_want_of_memory(
    splits: Path, monkeypatch: pytest.MonkeyPatch, said: str, expected: type[Exception], message: str
) -> None:
    def fail(*_: Any) -> Any:
        raise torch.AcceleratorError(said)

    monkeypatch.setattr("tasks.training.trainer.Normalize", fail)
    with pytest.raises(expected, match=message):
        run_train(splits)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_train_without_cuda_raises_if_it_is_configured(splits: Path) -> None:
    with pytest.raises(InputError, match="PyTorch finds no CUDA device"):
        run_train(splits, device="cuda")


@pytest.mark.parametrize("changes", [ADAMW, {"optimizer": "sgd", "lr": 0.01}, {"precision": "bf16-mixed"}])
def test_train_with_other_optimizers_and_precision_learns_deterministically(
    splits: Path, changes: dict[str, object]
) -> None:
    first = run_train(splits, epochs=8, **changes)
    history = read_history(splits)
    assert float(history[-1]["train_loss"]) < float(history[0]["train_loss"]) - 0.02
    assert run_train(splits, epochs=8, **changes) == first


@pytest.mark.slow
def test_train_airbench94_learns_per_seed(small_splits: Path) -> None:
    """That it is deterministic follows from test_train_resumes_after_an_interrupt_bit_identically."""
    first = run_train(small_splits, **AIRBENCH94)
    history = read_history(small_splits)
    assert float(history[-1]["train_loss"]) < float(history[0]["train_loss"]) - 0.2
    assert run_train(small_splits, **AIRBENCH94, seed=1) != first


def test_train_talk_recipe_matches_a_plain_pytorch_loop(splits: Path) -> None:
    """Adam, CrossEntropyLoss and the network, written out as in the talk's code demo."""
    run_train(splits, epochs=1)
    tensors, _ = load_tensors(splits.with_name("model.safetensors"))
    data, _ = load_tensors(splits)
    generator = Generator().manual_seed(0)
    model = build_model(Net, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    for batch in torch.randperm(400, generator=generator).split(32):
        inputs = (data["train_images"][batch].permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        optimizer.zero_grad()
        torch.nn.CrossEntropyLoss()(model(inputs), data["train_labels"][batch]).backward()
        optimizer.step()
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensors[name], tensor, atol=1e-4), name


def test_train_reports_progress_from_0_to_1(splits: Path) -> None:
    reports: list[tuple[float, str]] = []
    weights, history = splits.with_name("model.safetensors"), splits.with_name("history.csv")
    train(splits, weights, history, build_config(), None, lambda *report: reports.append(report))
    fractions = [fraction for fraction, _ in reports]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert reports[-1][1] == "epoch 3/3"


def test_train_config_rejects_warmup_as_long_as_the_training() -> None:
    with pytest.raises(ValueError, match=r"leaves nothing of 3 epochs|must be smaller than epochs \(3\)"):
        build_config(warmup_epochs=3.0)


def test_train_config_rejects_whitening_epochs_without_a_whitening_layer() -> None:
    with pytest.raises(ValueError, match=r"whiten_bias_epochs (is for|must be 0 for)"):
        build_config(whiten_bias_epochs=1)
