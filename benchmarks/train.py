"""Compare the throughput of the stage `train` with PyTorch's tutorial and a plain DataLoader loop.

    python benchmarks/train.py [--rounds 5] [--epochs 2] [--batch-size N] [--device cuda] [--to-best]

All variants train the talk's network with Adam on CIFAR-10's training split, in interleaved rounds; the table
has images per second, median with minimum and maximum. `train` is the whole stage: loading the splits,
validation and a checkpoint per epoch, and offline tracking where the row says so. On a CPU it is measured
with the operators of `FusedNet` and with PyTorch's. Of the other variants only the loop is measured: two load
images one by one, and one takes batches of a normalized tensor on the device, as airbench's loader does
(github.com/KellerJordan/cifar10-airbench).

The last line is a lower bound of the time (roofline). A training step needs a number of operations, and moves
a number of bytes: an image, and weights, gradients and Adam's state once in and out. They are divided by the
device's rates in a large matrix product and in a copy, measured in the same run; the slower of the two
counts.

`--to-best` also trains the whole recipe of params.yaml and reports the seconds to its best validation epoch,
and how long each variant takes for as many images. Run it on an idle machine, after `cifarflow run`.
"""

import argparse
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
from tasks.training.compile import resolve_machine
from tasks.training.torch_settings import deterministic_algorithms
from tasks.training.trainer import Trainer
from tasks.workspace.splits import Split, load_splits

ROOT = Path(__file__).resolve().parents[1]
TO_TENSOR = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]
)


class PillowDataset(Dataset[tuple[torch.Tensor, int]]):
    """A data set that transforms one Pillow image at a time, like torchvision's CIFAR10 in the tutorial."""

    def __init__(self, subset: Split, count: int) -> None:
        self.images, self.labels = subset.images[:count].numpy(), subset.labels[:count].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return TO_TENSOR(Image.fromarray(self.images[index])), self.labels[index]


def dataloader_loop(subset: Split, count: int, batch_size: int, workers: int, device: torch.device) -> float:
    """Return images per second of the loop of PyTorch's tutorial "Training a Classifier"."""
    count = min(count, len(subset.labels))
    loader = DataLoader(
        PillowDataset(subset, count), batch_size=batch_size, shuffle=True, num_workers=workers
    )
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
    """Return images per second of a loop over normalized images on the device, in whole batches only."""
    images = ((subset.images.to(device).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5).contiguous()
    labels = subset.labels.to(device)
    net = Net().to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001, fused=True)
    synchronize(device)
    began, steps = time.perf_counter(), len(labels) // batch_size
    order = torch.randperm(len(labels), device=device)
    for batch in order[: steps * batch_size].split(batch_size):
        optimizer.zero_grad()
        F.cross_entropy(net(images[batch]), labels[batch]).backward()
        optimizer.step()
    synchronize(device)
    return steps * batch_size / (time.perf_counter() - began)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_fastest(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of ten calls, after two untimed ones."""
    seconds = []
    for _ in range(12):
        synchronize(device)
        began = time.perf_counter()
        function()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[2:])


def estimate_roofline(batch_size: int, device: torch.device) -> tuple[float, str]:
    """Return the images per second that the device cannot exceed, and how the number is derived."""
    net, inputs = Net(), torch.zeros(batch_size, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(net(inputs), torch.zeros(batch_size, dtype=torch.int64)).backward()
    operations = counter.get_total_flops() / batch_size
    state = 8 * 4 * sum(parameter.numel() for parameter in net.parameters())  # four tensors, in and out
    num_bytes = 32 * 32 * 3 + state / batch_size
    size = 4096 if device.type == "cuda" else 1024
    matrix: Tensor = torch.randn(size, size, device=device)
    operations_per_s = 2 * size**3 / measure_fastest(lambda: matrix @ matrix, device)
    source = torch.empty(256 * 1024**2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bytes_per_s = 2 * source.numel() / measure_fastest(lambda: target.copy_(source), device)
    seconds = max(operations / operations_per_s, num_bytes / bytes_per_s)
    return 1 / seconds, (
        f"roofline: {operations / 1e6:.2f} million operations per image at "
        f"{operations_per_s / 1e12:.2f} TFLOP/s in float32, "
        f"{num_bytes:,.0f} bytes at {bytes_per_s / 1e9:.0f} GB/s"
    )


def measure_to_best(params: Params, splits: Path, device: torch.device) -> tuple[int, float]:
    """Train once; return the epoch with the best validation, and the seconds of all epochs up to it."""
    config = params.train.model_copy(update={"device": device.type})
    data = load_splits(splits)
    trainer = Trainer(data, config, resolve_machine(config), progress=lambda *_: None)
    settings = deterministic_algorithms(device, enabled=config.deterministic)
    with Path(os.devnull).open("w") as devnull, redirect_stdout(devnull), settings:
        if device.type == "cuda":
            trainer.warm_up()
        for epoch in range(1, config.epochs + 1):
            trainer.run_epoch(epoch)
    assert trainer.best is not None
    return trainer.best.epoch, sum(trainer.epoch_seconds[: trainer.best.epoch])


def measure_stage(params: Params, splits: Path, images: int, mode: str, changes: dict[str, object]) -> float:
    """Return images per second of the whole stage `train`, run in a temporary folder."""
    config = type(params.train).model_validate(params.train.model_dump() | changes)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        values = params.model_dump()
        values["tracking"]["mode"] = mode
        tracker = Tracker(Params.model_validate(values))
        began = time.perf_counter()
        with Path(os.devnull).open("w") as devnull, redirect_stdout(devnull):
            train(splits, Path(params.paths.weights), Path(params.paths.history), config, tracker)
        return images * config.epochs / (time.perf_counter() - began)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument(
        "--batch-size", type=int, help="batch size of the stage (default: that of params.yaml)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--to-best", action="store_true")
    parser.add_argument("--splits", type=Path, help="other splits than those of params.yaml")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device; without --device cuda this measures the CPU")
    device = torch.device(args.device)
    params = read_params(ROOT / "params.yaml")
    splits = (args.splits or ROOT / params.paths.splits).resolve()
    subset = load_splits(splits).train
    count = len(subset.labels)
    batch_size = args.batch_size or params.train.batch_size
    torch.set_num_threads(params.train.num_threads)

    def stage(mode: str, **changes: object) -> Callable[[], float]:
        given = {"epochs": args.epochs, "device": args.device, "batch_size": batch_size}
        return lambda: measure_stage(params, splits, count, mode, given | changes)

    variants: dict[str, Callable[[], float]] = {
        "the tutorial's loop, batch 4, 2 workers": lambda: dataloader_loop(subset, 4000, 4, 2, device),
        "DataLoader loop, batch 128, no workers": lambda: dataloader_loop(subset, 16_000, 128, 0, device),
        f"loop over a tensor on the device, batch {batch_size}": lambda: resident_loop(
            subset, batch_size, device
        ),
        "train, not tracked": stage("disabled"),
        "train, tracked offline": stage("offline"),
        "train, tracked, with augmentation": stage("offline", flip=True, translate=2),
    }
    if args.device == "cpu":
        variants["train, not tracked, PyTorch's operators"] = stage("disabled", fused=False)
        augmented = {"flip": True, "translate": 2, "fused": False}
        variants["train, tracked, with augmentation, PyTorch's operators"] = stage("offline", **augmented)
    if args.device == "cuda":
        variants["train, not tracked, compiled"] = stage("disabled", compile=True, deterministic=False)
    stage("offline", epochs=1)()  # This warms up W&B's process and PyTorch's kernels.
    throughputs: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(args.rounds):
        for name, measure in variants.items():
            throughputs[name].append(measure())

    tutorial, dataloader = (statistics.median(throughputs[name]) for name in list(variants)[:2])
    bound, derivation = estimate_roofline(batch_size, device)
    device_name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(f"{device_name}, PyTorch {torch.__version__}")
    print(f"batch size of train: {batch_size}, {params.train.num_threads} threads, rounds: {args.rounds}\n")
    best_epoch, seconds = measure_to_best(params, splits, device) if args.to_best else (0, 0.0)
    head = "| variant | images/s, median | min to max | vs. tutorial | vs. DataLoader | of the roofline |"
    print(head + (f" s for {best_epoch} epochs |" if best_epoch else ""))
    print("| --- | --- | --- | --- | --- | --- |" + (" --- |" if best_epoch else ""))
    for name, values in throughputs.items():
        median = statistics.median(values)
        span = f"{min(values):,.0f} to {max(values):,.0f}"
        row = f"| {name} | {median:,.0f} | {span} | {median / tutorial:.1f} | {median / dataloader:.1f} |"
        row += f" {median / bound:.2%} |"
        print(row + (f" {best_epoch * count / median:.1f} |" if best_epoch else ""))
    print(f"\n{derivation}: {bound:,.0f} images/s")
    if best_epoch:
        print(f"best validation epoch of the recipe: {best_epoch}, after {seconds:.1f} s")


if __name__ == "__main__":
    main()
