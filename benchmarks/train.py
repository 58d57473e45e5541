"""How fast training is: the stage `train` against PyTorch's tutorial and a plain DataLoader loop.

    python benchmarks/train.py [--rounds 5] [--epochs 2] [--batch-size N] [--device cuda] [--to-best]

All train the talk's network with Adam on CIFAR-10's training split and take turns; images a second, medians
with the lowest and the highest. `train` is measured whole: reading the splits, validation and a checkpoint an
epoch, and, where it says so, tracking offline. The others are measured in their loop alone: two that load
pictures one by one, and one over batches of a tensor that lies, normalized, on the device, as airbench's
loader does (github.com/KellerJordan/cifar10-airbench). Last comes the floor: the operations of a training
step and the bytes that it has to move (a picture, and weights, gradients and Adam's state once in and out),
each over what the device does in a large matrix product and in a copy, measured in the same run; the slower
of the two counts.

`--to-best` trains the whole recipe of params.yaml once more and says in how many seconds its best validation
epoch was there, and how long each way takes for as many pictures. Run it alone, after `cifarflow run`.
"""

import argparse
import csv
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from models.net import Net
from tasks.params import Params, read_params
from tasks.tracking import Tracker
from tasks.train import train
from tasks.workspace.splits import Split, load_splits

ROOT = Path(__file__).resolve().parents[1]
AUGMENTATION = {"flip": True, "shift": 2}
TO_TENSOR = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]
)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """As torchvision's CIFAR10: a Pillow picture at a time, through the tutorial's transforms."""

    def __init__(self, subset: Split, count: int) -> None:
        self.images, self.labels = subset.images[:count].numpy(), subset.labels[:count].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return TO_TENSOR(Image.fromarray(self.images[index])), self.labels[index]


def dataloader_loop(subset: Split, count: int, batch_size: int, workers: int, device: torch.device) -> float:
    """Images a second of the loop of PyTorch's tutorial "Training a Classifier"."""
    count = min(count, len(subset.labels))
    loader = DataLoader(Pictures(subset, count), batch_size=batch_size, shuffle=True, num_workers=workers)
    net, criterion = Net().to(device), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    began, running_loss = time.perf_counter(), 0.0
    for batch in loader:
        inputs, labels = batch[0].to(device), batch[1].to(device)
        optimizer.zero_grad()
        loss = criterion(net(inputs), labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    return count / (time.perf_counter() - began)


def resident_loop(subset: Split, batch_size: int, device: torch.device) -> float:
    """Images a second over batches of normalized pictures on the device, the last, smaller one left out."""
    images = ((subset.images.to(device).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5).contiguous()
    labels = subset.labels.to(device)
    net = Net().to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001, fused=True)
    wait_for(device)
    began, steps = time.perf_counter(), len(labels) // batch_size
    order = torch.randperm(len(labels), device=device)
    for batch in order[: steps * batch_size].split(batch_size):
        optimizer.zero_grad()
        F.cross_entropy(net(images[batch]), labels[batch]).backward()
        optimizer.step()
    wait_for(device)
    return steps * batch_size / (time.perf_counter() - began)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds, the fewest of ten calls after two."""
    taken = []
    for _ in range(12):
        wait_for(device)
        began = time.perf_counter()
        work()
        wait_for(device)
        taken.append(time.perf_counter() - began)
    return min(taken[2:])


def floor(batch_size: int, device: torch.device) -> tuple[float, str]:
    """Images a second that the device cannot exceed, and what that comes from."""
    net, inputs = Net(), torch.zeros(batch_size, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(net(inputs), torch.zeros(batch_size, dtype=torch.int64)).backward()
    operations = counter.get_total_flops() / batch_size
    state = 8 * 4 * sum(parameter.numel() for parameter in net.parameters())  # of 4 tensors, in and out
    moved = 32 * 32 * 3 + state / batch_size
    size = 4096 if device.type == "cuda" else 1024
    matrix: Tensor = torch.randn(size, size, device=device)
    operations_a_s = 2 * size**3 / fastest(lambda: matrix @ matrix, device)
    source = torch.empty(256 * 1024**2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bytes_a_s = 2 * source.numel() / fastest(lambda: target.copy_(source), device)
    seconds = max(operations / operations_a_s, moved / bytes_a_s)
    return 1 / seconds, (
        f"floor: {operations / 1e6:.2f} million operations a picture at {operations_a_s / 1e12:.2f} TFLOP/s "
        f"in float32, {moved:,.0f} bytes at {bytes_a_s / 1e9:.0f} GB/s"
    )


def to_best(params: Params, splits: Path, device: str) -> tuple[int, float]:
    """The epoch with the best validation, and the seconds until it was over."""
    options = params.train.model_copy(update={"device": device})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            done = train(splits, folder / "weights", folder / "history", options)
        with (folder / "history").open(newline="") as table:
            seconds = [float(row["seconds"]) for row in csv.DictReader(table)]
    return done["best_epoch"], sum(seconds[: done["best_epoch"]])


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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, help="of the stage; default: that of params.yaml")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--to-best", action="store_true")
    parser.add_argument("--splits", type=Path, help="other splits than those of params.yaml")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device; without --device cuda this measures the CPU")
    device = torch.device(chosen.device)
    params = read_params(ROOT / "params.yaml")
    splits = (chosen.splits or ROOT / params.paths.splits).resolve()
    subset = load_splits(splits).train
    count = len(subset.labels)
    batch_size = chosen.batch_size or params.train.batch_size
    changes: dict[str, object] = {
        "epochs": chosen.epochs,
        "device": chosen.device,
        "batch_size": batch_size,
    }
    torch.set_num_threads(params.train.num_threads)

    def stage(mode: str, more: dict[str, object]) -> Callable[[], float]:
        return lambda: whole_stage(params, splits, count, mode, changes | more)

    ways: dict[str, Callable[[], float]] = {
        "the tutorial's loop, batch 4, 2 workers": lambda: dataloader_loop(subset, 4000, 4, 2, device),
        "DataLoader loop, batch 128, no workers": lambda: dataloader_loop(subset, 16_000, 128, 0, device),
        f"loop over a tensor on the device, batch {batch_size}": lambda: resident_loop(
            subset, batch_size, device
        ),
        "train, not tracked": stage("disabled", {}),
        "train, tracked offline": stage("offline", {}),
        "train, tracked, augmented": stage("offline", AUGMENTATION),
    }
    if chosen.device == "cuda":
        ways["train, not tracked, compiled"] = stage("disabled", {"compile": True, "deterministic": False})
    stage("offline", {"epochs": 1})()  # warm-up: W&B's own process, PyTorch's kernels
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(chosen.rounds):
        for way, measure in ways.items():
            speeds[way].append(measure())

    tutorial, loader = (statistics.median(speeds[way]) for way in list(ways)[:2])
    most, why = floor(batch_size, device)
    where = torch.cuda.get_device_name() if chosen.device == "cuda" else "CPU"
    print(f"{where}, PyTorch {torch.__version__}")
    print(f"batch size of train: {batch_size}, {params.train.num_threads} threads, rounds: {chosen.rounds}\n")
    best, seconds = to_best(params, splits, chosen.device) if chosen.to_best else (0, 0.0)
    head = "| way | images/s, median | lowest to highest | to the tutorial's | to the DataLoader's |"
    print(head + " of the floor |" + (f" s for {best} epochs |" if best else ""))
    print("| --- | --- | --- | --- | --- | --- |" + (" --- |" if best else ""))
    for way, measured in speeds.items():
        median = statistics.median(measured)
        span = f"{min(measured):,.0f} to {max(measured):,.0f}"
        row = f"| {way} | {median:,.0f} | {span} | {median / tutorial:.1f} | {median / loader:.1f} |"
        row += f" {median / most:.2%} |"
        print(row + (f" {best * count / median:.1f} |" if best else ""))
    print(f"\n{why}: {most:,.0f} images/s")
    if best:
        print(
            f"the recipe's best validation epoch, the {best}th, was there after {seconds:.1f} s of training"
        )


if __name__ == "__main__":
    main()
