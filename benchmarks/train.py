"""How fast training is: the stage `train` against PyTorch's tutorial and a plain DataLoader loop.

    python benchmarks/train.py [--rounds 5] [--epochs 2] [--batch-size N]

All train the talk's network with Adam on CIFAR-10's training split and take turns; images a second, medians
with the lowest and the highest. `train` is measured whole: reading the splits, validation and a checkpoint an
epoch, and, where it says so, tracking offline. The other two are measured in their loop alone. Run it alone,
after `cifarflow run`.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from models.net import Net
from tasks.artifacts import Subset, read_splits
from tasks.params import Params, read_params
from tasks.tracking import Tracker
from tasks.train import train

ROOT = Path(__file__).resolve().parents[1]
AUGMENTATION = {"flip": True, "shift": 2}
TO_TENSOR = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]
)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """As torchvision's CIFAR10: a Pillow picture at a time, through the tutorial's transforms."""

    def __init__(self, subset: Subset, count: int) -> None:
        self.images, self.labels = subset.images[:count].numpy(), subset.labels[:count].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return TO_TENSOR(Image.fromarray(self.images[index])), self.labels[index]


def dataloader_loop(subset: Subset, count: int, batch_size: int, workers: int) -> float:
    """Images a second of the loop of PyTorch's tutorial "Training a Classifier"."""
    loader = DataLoader(Pictures(subset, count), batch_size=batch_size, shuffle=True, num_workers=workers)
    net, criterion = Net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    began, running_loss = time.perf_counter(), 0.0
    for inputs, labels in loader:
        optimizer.zero_grad()
        loss = criterion(net(inputs), labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    return count / (time.perf_counter() - began)


def whole_stage(params: Params, splits: Path, images: int, mode: str, changes: dict[str, object]) -> float:
    """Images a second of the stage `train`, from its call to its end, in a folder of its own."""
    options = type(params.train).model_validate(params.train.model_dump() | changes)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        values = params.model_dump()
        values["tracking"]["mode"] = mode
        tracker = Tracker(Params.model_validate(values))
        began = time.perf_counter()
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            train(splits, Path(params.paths.weights), Path(params.paths.history), options, tracker)
        return images * options.epochs / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, help="of the stage; default: that of params.yaml")
    chosen = parser.parse_args()
    params = read_params(ROOT / "params.yaml")
    splits = ROOT / params.paths.splits
    subset = read_splits(splits).train
    count = len(subset.labels)
    changes: dict[str, object] = {"epochs": chosen.epochs, "device": "cpu"}
    if chosen.batch_size:
        changes["batch_size"] = chosen.batch_size
    torch.set_num_threads(params.train.threads)

    def stage(mode: str, more: dict[str, object]) -> Callable[[], float]:
        return lambda: whole_stage(params, splits, count, mode, changes | more)

    ways: dict[str, Callable[[], float]] = {
        "the tutorial's loop, batch 4, 2 workers": lambda: dataloader_loop(subset, 4000, 4, 2),
        "DataLoader loop, batch 128, no workers": lambda: dataloader_loop(subset, 16_000, 128, 0),
        "train, not tracked": stage("disabled", {}),
        "train, tracked offline": stage("offline", {}),
        "train, tracked, augmented": stage("offline", AUGMENTATION),
    }
    stage("offline", {"epochs": 1})()  # warm-up: W&B's own process, PyTorch's kernels
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(chosen.rounds):
        for way, measure in ways.items():
            speeds[way].append(measure())

    tutorial, loader = (statistics.median(speeds[way]) for way in list(ways)[:2])
    batch_size = changes.get("batch_size", params.train.batch_size)
    print(f"batch size of train: {batch_size}, {params.train.threads} threads, rounds: {chosen.rounds}\n")
    print("| way | images/s, median | lowest to highest | to the tutorial's | to the DataLoader's |")
    print("| --- | --- | --- | --- | --- |")
    for way, measured in speeds.items():
        median = statistics.median(measured)
        span = f"{min(measured):,.0f} to {max(measured):,.0f}"
        print(f"| {way} | {median:,.0f} | {span} | {median / tutorial:.1f} | {median / loader:.1f} |")


if __name__ == "__main__":
    main()
