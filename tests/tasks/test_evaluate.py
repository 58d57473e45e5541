import contextlib
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn import metrics as sk
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.net import Net
from tasks.evaluate import compute_metrics, evaluate, wilson_interval
from tasks.params import EvaluateConfig
from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_splits, save_tensors
from tasks.workspace.weights import load_network

CLASSES = [f"class {i}" for i in range(10)]
METADATA = {
    "dataset": "sample",
    "classes": CLASSES,
    "data_md5": "a",
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "image_size": 32,
}
CONFIG = EvaluateConfig(batch_size=64, calibration_bins=15)


@pytest.fixture
def predictions() -> tuple[Tensor, Tensor]:
    """Probabilities `(500, 10)` that are right about half the time, and labels."""
    generator = Generator().manual_seed(1)
    labels = torch.randint(10, (500,), generator=generator)
    logits = torch.randn(500, 10, generator=generator) + 2 * F.one_hot(labels, 10)
    return logits.softmax(1), labels


def test_compute_metrics_matches_scikit_learn(predictions: tuple[Tensor, Tensor]) -> None:
    probabilities, labels = predictions
    measured = compute_metrics(probabilities, labels, CLASSES, 15)
    predicted = probabilities.argmax(1)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(labels, predicted)
    assert measured["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert measured["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert measured["macro_f1"] == pytest.approx(f1.mean())
    assert measured["loss"] == pytest.approx(
        sk.log_loss(labels, probabilities.double() / probabilities.double().sum(1, keepdim=True)), rel=1e-5
    )
    for i, name in enumerate(CLASSES):
        assert measured["per_class"][name] == pytest.approx(
            {"precision": precision[i], "recall": recall[i], "f1": f1[i]}
        )


def test_compute_metrics_ece_matches_hand_calculation(predictions: tuple[Tensor, Tensor]) -> None:
    probabilities, labels = predictions
    confidence, predicted = probabilities.numpy().max(1), probabilities.numpy().argmax(1)
    bins = np.minimum((confidence * 15).astype(int), 14)
    error = 0.0
    for i in range(15):
        in_bin = bins == i
        if in_bin.any():
            gap = abs((predicted[in_bin] == labels.numpy()[in_bin]).mean() - confidence[in_bin].mean())
            error += in_bin.mean() * gap
    assert compute_metrics(probabilities, labels, CLASSES, 15)["ece"] == pytest.approx(error, abs=1e-6)


def test_compute_metrics_loss_of_a_certain_error_is_finite() -> None:
    probabilities = F.one_hot(torch.zeros(2, dtype=torch.int64), 10).float()
    assert compute_metrics(probabilities, torch.tensor([0, 1]), CLASSES, 15)["loss"] == pytest.approx(
        87.3 / 2, rel=1e-2
    )


@pytest.mark.parametrize(("num_correct", "total"), [(0, 10), (5, 10), (10, 10), (1, 1), (6344, 10000)])
def test_wilson_interval_is_scipys(num_correct: int, total: int) -> None:
    expected = binomtest(num_correct, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(num_correct, total) == pytest.approx([expected.low, expected.high], abs=1e-12)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Splits of random images, and weights of an untrained network."""
    generator = Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    for name, count in (("train", 10), ("val", 100), ("test", 150)):
        tensors[f"{name}_images"] = torch.randint(
            256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator
        )
        tensors[f"{name}_labels"] = torch.arange(count) % 10
    save_tensors(tmp_path / "splits", tensors, METADATA)
    metadata = METADATA | {"network": "net", "seed": 7, "epochs": 3, "epoch": 2, "device": "cpu"}
    save_tensors(tmp_path / "weights", Net().state_dict(), metadata)
    names = ("splits", "weights", "metrics", "predictions")
    return {name: tmp_path / name for name in names}


def test_evaluate_writes_metrics_in_the_documented_format(files: dict[str, Any]) -> None:
    evaluate(**files, config=CONFIG)
    metrics = json.loads(files["metrics"].read_text())
    assert metrics["model"] == "Net"
    assert (metrics["seed"], metrics["epochs"], metrics["device"]) == (7, 3, "cpu")
    keys = {
        *("loss", "loss_uncalibrated", "ece", "ece_uncalibrated"),
        *("accuracy", "balanced_accuracy", "macro_f1", "per_class"),
    }
    assert metrics["val"].keys() == keys
    assert metrics["test"].keys() == keys | {"accuracy_ci95"}
    assert metrics["temperature"] == 1, "weights of earlier versions have none"
    assert metrics["test"]["ece"] == metrics["test"]["ece_uncalibrated"]
    assert metrics["confident"].keys() == {
        *("threshold", "test_answered", "test_accuracy", "meaningless_images", "meaningless_answered")
    }
    low, high = metrics["test"]["accuracy_ci95"]
    assert low < metrics["test"]["accuracy"] < high
    assert metrics["test"]["per_class"].keys() == set(CLASSES)


def test_evaluate_measures_with_and_without_the_temperature(files: dict[str, Any]) -> None:
    """The temperature changes the probabilities as PyTorch's softmax of the divided logits, and no class."""
    run = {"network": "net", "seed": 7, "epochs": 3, "device": "cpu"}
    network = Net()
    with torch.no_grad():
        network.fc3.weight *= 100
    save_tensors(files["weights"], network.state_dict(), METADATA | run)
    evaluate(**files, config=CONFIG)
    before = json.loads(files["metrics"].read_text())["test"]
    save_tensors(files["weights"], network.state_dict(), METADATA | run | {"temperature": 4.0})
    evaluate(**files, config=CONFIG)
    after = json.loads(files["metrics"].read_text())["test"]
    test = load_splits(files["splits"]).test
    with torch.inference_mode():
        logits = network((test.images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    assert after["loss"] == pytest.approx(F.cross_entropy(logits / 4, test.labels).item(), rel=1e-4)
    assert after["loss"] < 0.9 * before["loss"]
    for name in ("loss", "ece"):
        assert after[f"{name}_uncalibrated"] == before[name]
    assert after["per_class"] == before["per_class"]


def test_evaluate_writes_one_prediction_per_test_image(files: dict[str, Any]) -> None:
    evaluate(**files, config=CONFIG)
    with files["predictions"].open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["actual"] for row in rows] == [CLASSES[i % 10] for i in range(150)]
    num_correct = sum(row["actual"] == row["predicted"] for row in rows)
    assert num_correct / 150 == pytest.approx(json.loads(files["metrics"].read_text())["test"]["accuracy"])


def test_evaluate_is_deterministic(files: dict[str, Any]) -> None:
    evaluate(**files, config=CONFIG)
    first = files["metrics"].read_bytes()
    evaluate(**files, config=CONFIG)
    assert files["metrics"].read_bytes() == first


def test_evaluate_logs_after_the_last_epoch(files: dict[str, Any]) -> None:
    logged: list[int] = []

    class FakeTracker:
        @contextlib.contextmanager
        def resume_run(self, *_: object) -> Iterator[Any]:
            yield self

        def log_evaluation(self, *_: object, step: int) -> None:
            logged.append(step)

    tracker: Any = FakeTracker()
    evaluate(**files, config=CONFIG, tracker=tracker)
    assert logged == [4], "after three epochs"


@pytest.mark.parametrize("md5", ["b", "A"])
def test_evaluate_rejects_weights_of_other_data(files: dict[str, Any], md5: str) -> None:
    metadata = METADATA | {"network": "net", "seed": 7, "epochs": 3, "device": "cpu", "data_md5": md5}
    save_tensors(files["weights"], Net().state_dict(), metadata)
    with pytest.raises(RunError, match="was trained on different data"):
        evaluate(**files, config=CONFIG)
    assert not files["metrics"].exists()


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_evaluate_reports_the_accuracy_without_tta_if_there_is_tta(
    files: dict[str, Any], capsys: pytest.CaptureFixture[str], tta: str
) -> None:
    run = {"network": "net", "seed": 7, "epochs": 3, "device": "cpu", "train": {"tta": tta}}
    save_tensors(files["weights"], Net().state_dict(), METADATA | run)
    evaluate(**files, config=CONFIG)
    metrics = json.loads(files["metrics"].read_text())
    assert ("tta" in metrics) is (tta != "none")
    network, _ = load_network(files["weights"])
    test = load_splits(files["splits"]).test
    inputs = (test.images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.inference_mode():
        expected = (network(inputs).argmax(1) == test.labels).double().mean().item()
    assert metrics["test"]["accuracy" if tta == "none" else "accuracy_no_tta"] == pytest.approx(expected)
    line = f"that is with test-time augmentation (flip); without it: {expected:.2%}\n"
    assert (line in capsys.readouterr().out) is (tta != "none")
