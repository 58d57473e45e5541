"""A comparison of two models on random images, as a retraining makes it, and its line in the ledger."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.decision_pages.page import ComparedModels
from tasks.params import CompareConfig, read_params
from tasks.registry import ledger
from tasks.registry.compare import compare
from tasks.registry.ledger import LedgerEntry
from tasks.workspace.splits import load_splits, save_tensors
from tests.shipped_params import PARAMS_FILE

PARITY = {"max_abs_diff": 1e-6, "argmax_agreement": 1.0}
CLASSES = ["plane <b>", "car", "bird", "cat & dog", "deer"]
CONFIG: CompareConfig = read_params(PARAMS_FILE).compare.model_copy(update={"max_latency_ratio": 100.0})


class RandomModel:
    """It is right on a share of the images, which `seed` decides, and is more or less sure of that."""

    def __init__(self, labels: NDArray[np.int64], accuracy: float, seed: int, **train: Any) -> None:
        rng = np.random.default_rng(seed)
        self.classes = CLASSES
        self.metadata: dict[str, Any] = {"train": train, "seed": seed, "network": "net"}
        wrong = (labels + rng.integers(1, len(CLASSES), len(labels))) % len(CLASSES)
        predicted = np.where(rng.random(len(labels)) < accuracy, labels, wrong)
        logits = rng.normal(size=(len(labels), len(CLASSES))) + 3 * np.eye(len(CLASSES))[predicted]
        logits[np.arange(len(labels)), predicted] = logits.max(1) + 0.1
        exp = np.exp(logits)
        self.probabilities = (exp / exp.sum(1, keepdims=True)).astype(np.float32)

    def predict_proba(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.probabilities[: len(images)]


def save_random_splits(file: Path, count: int, added: int, size: int) -> Path:
    rng = np.random.default_rng(0)
    tensors = {}
    for name in ("train", "val", "test"):
        pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        tensors[f"{name}_images"] = torch.from_numpy(pixels)
        tensors[f"{name}_labels"] = torch.arange(count) % len(CLASSES)
    save_tensors(file, tensors, {"dataset": "noise", "val_added": added, "classes": CLASSES})
    return file


def compare_random_models(
    count: int = 1000, *, added: int = 0, size: int = 32, accuracies: tuple[float, ...] = (0.8, 0.6)
) -> tuple[LedgerEntry, ComparedModels]:
    """Compare in the current folder and append the decision; a second accuracy is that of a champion."""
    splits = save_random_splits(Path("splits.safetensors"), count, added, size)
    data = load_splits(splits)
    recipes = {"lr": 0.1, "epochs": 3}, {"lr": 0.2}
    models = [
        RandomModel(data.val.labels.numpy(), accuracy, seed, **recipes[seed])
        for seed, accuracy in enumerate(accuracies)
    ]
    champion = ledger.append(build_entry("promoted", "c", "the first model", {})) if models[1:] else None
    decision = compare(models[0], models[1] if champion else None, splits, PARITY, CONFIG)
    kind = "promoted" if decision.promote else "rejected"
    entry = ledger.append(
        build_entry(kind, "a", decision.reason, decision.evidence.as_dict(), page=name_page())
    )
    metadata = [model.metadata for model in models]
    return entry, ComparedModels(data, CLASSES, metadata, decision.val_probabilities, champion)


def name_page() -> str:
    return f"reports/decisions/{ledger.next_version()}.html"


def build_entry(
    decision: Any, model: str, reason: str, evidence: dict[str, Any], **fields: Any
) -> LedgerEntry:
    provenance = {"data": f"{model}1", "params": f"{model}2", "code": f"{model}3", "weights": f"{model}4"}
    return LedgerEntry(decision, reason, model * 32, 1000, "otter", "id", provenance, evidence, **fields)
