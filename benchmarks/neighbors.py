"""Measure how fast a training is beside another one, by how its threads wait for each other.

    python benchmarks/neighbors.py [--rounds 5] [--seconds 4] [--threads 2] [--variants NAME ...]

Each variant trains the talk's network on random images in batches of 128, in a process of its own. One
process runs alone, then two at once, in interleaved rounds. The table has images per second of one training,
median with minimum and maximum, and the ratios to the first variant alone. `iomp` is Intel's OpenMP library
in place of GCC's, loaded before PyTorch (LD_PRELOAD); it is measured if `uv pip install intel-openmp` was
run. `PyTorch` trains without the operators of `FusedNet`, all others with them. Run it on an idle machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, files

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.fused_net import FusedNet
from models.net import Net
from models.step import training_step
from tasks import OPENMP_SETTINGS
from tasks.training.compile import load_operators

BATCH_SIZE = 128
VARIANTS = {
    "as shipped": OPENMP_SETTINGS,
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 300": {"GOMP_SPINCOUNT": "300"},
    "spin 3,000": {"GOMP_SPINCOUNT": "3000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 30,000": {"GOMP_SPINCOUNT": "30000"},
    "spin 100,000": {"GOMP_SPINCOUNT": "100000"},
    "iomp": {},
    "iomp, 0 ms": {"KMP_BLOCKTIME": "0"},
    "iomp, 100 µs": {"KMP_BLOCKTIME": "100us"},
    "iomp, 300 µs": {"KMP_BLOCKTIME": "300us"},
    "iomp, 1 ms": {"KMP_BLOCKTIME": "1ms"},
    "iomp, 3 ms": {"KMP_BLOCKTIME": "3ms"},
    "PyTorch": {},
    "PyTorch, spin 1,000": {"GOMP_SPINCOUNT": "1000"},
}


def find_intel_openmp() -> str | None:
    try:
        found = files("intel-openmp") or []
    except PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in found if file.name == "libiomp5.so"), None)


def train_for(seconds: float, threads: int, *, fused: bool) -> None:
    """Train in this process: print `ready`, wait for a line on standard input, print images per second."""
    torch.set_num_threads(threads)
    model = Net().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    if fused:
        load_operators()
    network = FusedNet(model) if fused else model
    images = torch.randn(BATCH_SIZE, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH_SIZE,))
    for _ in range(50):
        training_step(network, F.cross_entropy, optimizer, images, labels)
    print("ready", flush=True)
    sys.stdin.readline()
    steps, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        training_step(network, F.cross_entropy, optimizer, images, labels)
        steps += 1
    print(steps * BATCH_SIZE / (time.perf_counter() - start))


def measure(count: int, variant: str, seconds: float, threads: int, library: str | None) -> list[float]:
    """Run `count` trainings at once, and return the images per second of each."""
    command = [sys.executable, __file__, "--train", "--seconds", str(seconds), "--threads", str(threads)]
    if variant.startswith("PyTorch"):
        command.append("--unfused")
    own = {name: value for name, value in os.environ.items() if name not in OPENMP_SETTINGS}
    environment = own | VARIANTS[variant]
    if variant.startswith("iomp"):
        environment["LD_PRELOAD"] = str(library)
    processes = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [float(process.communicate()[0]) for process in processes]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--unfused", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train_for(arguments.seconds, arguments.threads, fused=not arguments.unfused)
        return
    library = find_intel_openmp()
    variants = [name for name in arguments.variants if library or not name.startswith("iomp")]
    rates: dict[tuple[str, int], list[float]] = {(name, count): [] for name in variants for count in (1, 2)}
    for _ in range(arguments.rounds):
        for (name, count), values in rates.items():
            found = measure(count, name, arguments.seconds, arguments.threads, library)
            values.append(statistics.mean(found))
    reference = statistics.median(rates[variants[0], 1])
    print("| threads wait | alone | ratio | each of two | ratio |\n| --- | ---: | ---: | ---: | ---: |")
    for name in variants:
        cells = []
        for count in (1, 2):
            values = rates[name, count]
            median = statistics.median(values)
            cells += [
                f"{median:,.0f} ({min(values):,.0f} to {max(values):,.0f})",
                f"{median / reference:.2f}",
            ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
