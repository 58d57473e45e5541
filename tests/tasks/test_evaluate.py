import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.net import Net
from tasks.evaluate import compute_metrics, evaluate, wilson_interval
from tasks.params import EvaluateConfig
from tasks.workspace.errors import RunError
from tasks.workspace.splits import save_tensors

CLASSES = [f"class {i}" for i in range(10)]
ABOUT = {"dataset": "sample", "classes": CLASSES, "data_md5": "a", "mean": [0.5] * 3, "std": [0.25] * 3}
OPTIONS = EvaluateConfig(batch_size=64, calibration_bins=15)


@pytest.fixture
def predictions() -> tuple[Tensor, Tensor]:
    """Probabilities `(500, 10)` that are right about half the time, and labels."""
    generator = Generator().manual_seed(1)
    labels = torch.randint(10, (500,), generator=generator)
    logits = torch.randn(500, 10, generator=generator) + 2 * F.one_hot(labels, 10)
    return logits.softmax(1), labels


def test_metrics_are_those_of_scikit_learn(predictions: tuple[Tensor, Tensor]) -> None:
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


def test_calibration_error_by_hand(predictions: tuple[Tensor, Tensor]) -> None:
    probabilities, labels = predictions
    confidence, predicted = probabilities.numpy().max(1), probabilities.numpy().argmax(1)
    bins = np.minimum((confidence * 15).astype(int), 14)
    error = 0.0
    for i in range(15):
        of_bin = bins == i
        if of_bin.any():
            gap = abs((predicted[of_bin] == labels.numpy()[of_bin]).mean() - confidence[of_bin].mean())
            error += of_bin.mean() * gap
    assert compute_metrics(probabilities, labels, CLASSES, 15)["ece"] == pytest.approx(error, abs=1e-6)


def test_certain_mistake_costs_much_but_not_infinity() -> None:
    probabilities = F.one_hot(torch.zeros(2, dtype=torch.int64), 10).float()
    assert compute_metrics(probabilities, torch.tensor([0, 1]), CLASSES, 15)["loss"] == pytest.approx(
        87.3 / 2, rel=1e-2
    )


@pytest.mark.parametrize(("hits", "low", "high"), [(0, 0.0, 0.2775), (5, 0.2366, 0.7634), (10, 0.7225, 1.0)])
def test_interval_is_wilsons(hits: int, low: float, high: float) -> None:
    """Wilson's formula by hand, for 10 trials and z = 1.96."""
    assert wilson_interval(hits, 10) == pytest.approx([low, high], abs=1e-3)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Splits of random pictures, and weights of an untrained network."""
    generator = Generator().manual_seed(2)
    tensors: dict[str, Tensor] = {}
    for name, count in (("train", 10), ("val", 100), ("test", 150)):
        tensors[f"{name}_images"] = torch.randint(
            256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator
        )
        tensors[f"{name}_labels"] = torch.arange(count) % 10
    save_tensors(tmp_path / "splits", tensors, ABOUT)
    about = ABOUT | {"network": "net", "seed": 7, "epochs": 3, "epoch": 2, "device": "cpu"}
    save_tensors(tmp_path / "weights", Net().state_dict(), about)
    names = ("splits", "weights", "metrics", "confusion")
    return {name: tmp_path / name for name in names}


def test_files_hold_what_other_programs_rely_on(files: dict[str, Path]) -> None:
    evaluate(**files, config=OPTIONS)
    metrics = json.loads(files["metrics"].read_text())
    assert metrics["model"] == "Net"
    assert (metrics["seed"], metrics["epochs"], metrics["device"]) == (7, 3, "cpu")
    keys = {"loss", "accuracy", "balanced_accuracy", "macro_f1", "ece", "per_class"}
    assert metrics["val"].keys() == keys
    assert metrics["test"].keys() == keys | {"accuracy_ci95"}
    low, high = metrics["test"]["accuracy_ci95"]
    assert low < metrics["test"]["accuracy"] < high
    assert metrics["test"]["per_class"].keys() == set(CLASSES)


def test_confusion_has_a_row_an_image(files: dict[str, Path]) -> None:
    evaluate(**files, config=OPTIONS)
    with files["confusion"].open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["actual"] for row in rows] == [CLASSES[i % 10] for i in range(150)]
    right = sum(row["actual"] == row["predicted"] for row in rows)
    assert right / 150 == pytest.approx(json.loads(files["metrics"].read_text())["test"]["accuracy"])


def test_same_input_same_bytes(files: dict[str, Path]) -> None:
    evaluate(**files, config=OPTIONS)
    first = files["metrics"].read_bytes()
    evaluate(**files, config=OPTIONS)
    assert files["metrics"].read_bytes() == first


def test_weights_of_other_data_are_refused(files: dict[str, Path]) -> None:
    about = ABOUT | {"network": "net", "seed": 7, "epochs": 3, "device": "cpu", "data_md5": "b"}
    save_tensors(files["weights"], Net().state_dict(), about)
    with pytest.raises(RunError, match="was trained on other data"):
        evaluate(**files, config=OPTIONS)
    assert not files["metrics"].exists()


def test_weights_of_another_network_are_refused(files: dict[str, Path]) -> None:
    tensors = Net().state_dict()
    tensors["fc3.weight"] = torch.zeros(11, 84)
    save_tensors(files["weights"], tensors, ABOUT | {"network": "net"})
    with pytest.raises(RunError, match=r"does not hold the weights of 'net'.*fc3\.weight"):
        evaluate(**files, config=OPTIONS)
    save_tensors(files["weights"], tensors, ABOUT | {"network": "resnet"})
    with pytest.raises(RunError, match="holds no network that this pipeline knows, but 'resnet'"):
        evaluate(**files, config=OPTIONS)


def test_damaged_weights_are_refused(files: dict[str, Path]) -> None:
    files["weights"].write_bytes(files["weights"].read_bytes()[:1000])
    with pytest.raises(RunError, match="is damaged"):
        evaluate(**files, config=OPTIONS)
