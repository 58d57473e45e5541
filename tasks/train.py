"""The stage `train`: fits the network to the training split and keeps the best validation epoch's weights."""

from __future__ import annotations

import csv
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.networks import NETWORKS
from models.training import initialised, training_step
from tasks.artifacts import read_splits, write_tensors
from tasks.errors import InputError, RunError
from tasks.files import written_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.artifacts import Subset
    from tasks.params import Train

VALIDATION_BATCH = 1000


@dataclass(frozen=True)
class Epoch:
    """A row of the history."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float


def train(splits: Path, weights: Path, history: Path, options: Train) -> dict[str, Any]:
    """Write the best validation epoch's `weights` (safetensors), and `history` (CSV, a row an epoch)."""
    data = read_splits(splits)
    device = choose_device(options.device)
    with _threads(options.threads):
        best, epochs = _fit(
            data.train, data.val, _Normalise(data.about["mean"], data.about["std"], device), options
        )

    write_tensors(
        weights,
        best.tensors,
        {
            **{key: data.about[key] for key in ("classes", "mean", "std", "dataset", "data_md5")},
            "network": options.network,
            "seed": options.seed,
            "epochs": options.epochs,
            "epoch": best.epoch,
            "device": device.type,
            "train": options.model_dump(),
        },
    )
    with written_whole(history) as partial, partial.open("w", newline="", encoding="utf-8") as table:
        rows = csv.DictWriter(table, list(Epoch.__annotations__), lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(epoch) for epoch in epochs)
    return {"val_accuracy": best.accuracy, "best_epoch": best.epoch, "epochs": len(epochs)}


def choose_device(wanted: str) -> torch.device:
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise InputError("train.device is cuda, but PyTorch finds no CUDA device; set it to auto or cpu")
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


@dataclass
class _Best:
    epoch: int
    accuracy: float
    loss: float
    tensors: dict[str, Tensor]


class _Normalise:
    """uint8 `(N, 32, 32, 3)` to float32 `(N, 3, 32, 32)`, channels last in memory.

    What `Classifier.normalise` gives, up to rounding, but in rows of 3,072 values, which is several times as
    fast as with a mean a channel.
    """

    def __init__(self, mean: list[float], std: list[float], device: torch.device) -> None:
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        self.scale = scale.float().repeat(1024).to(device)
        self.shift = (-255 * torch.tensor(mean, dtype=torch.float64) * scale).float().repeat(1024).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        rows = torch.mul(images.flatten(1), self.scale).add_(self.shift)
        return rows.view(images.shape).permute(0, 3, 1, 2)


def _fit(train: Subset, val: Subset, normalise: _Normalise, options: Train) -> tuple[_Best, list[Epoch]]:
    device = normalise.scale.device
    generator = Generator().manual_seed(options.seed)
    net = initialised(NETWORKS[options.network], generator).to(device)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(net.parameters(), lr=options.lr, fused=True)
    images, labels = train.images.to(device), train.labels.to(device)
    val_images, val_labels = val.images.to(device), val.labels.to(device)

    best: _Best | None = None
    epochs: list[Epoch] = []
    for number in range(1, options.epochs + 1):
        began = time.perf_counter()
        # Sums stay on the device, so that no step waits for it.
        loss_sum, hits = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        order = torch.randperm(len(labels), generator=generator).to(device)
        for indices in torch.split(order, options.batch_size):
            targets = labels[indices]
            logits, loss = training_step(net, F.cross_entropy, optimizer, normalise(images[indices]), targets)
            loss_sum += loss * len(indices)
            hits += (logits.argmax(1) == targets).sum()
        train_loss = loss_sum.item() / len(labels)
        if not torch.isfinite(loss_sum):
            raise RunError(
                f"the loss is {train_loss} in epoch {number}; a lower train.lr than {options.lr} may help"
            )
        val_loss, val_accuracy = _validate(net, normalise, val_images, val_labels)
        epoch = Epoch(
            epoch=number,
            train_loss=train_loss,
            train_accuracy=hits.item() / len(labels),
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=options.lr,
            seconds=time.perf_counter() - began,
        )
        epochs.append(epoch)
        if best is None or (val_accuracy, -val_loss) > (best.accuracy, -best.loss):
            tensors = {
                name: tensor.detach().cpu().contiguous().clone() for name, tensor in net.state_dict().items()
            }
            best = _Best(number, val_accuracy, val_loss, tensors)
        print(
            f"epoch {number}/{options.epochs}: train loss {train_loss:.4f} "
            f"accuracy {epoch.train_accuracy:.4f}, "
            f"val loss {val_loss:.4f} accuracy {val_accuracy:.4f}, {epoch.seconds:.1f} s"
        )
    assert best is not None
    return best, epochs


@torch.inference_mode()
def _validate(net: nn.Module, normalise: _Normalise, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy."""
    logits = torch.cat([net(normalise(batch)) for batch in torch.split(images, VALIDATION_BATCH)])
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
