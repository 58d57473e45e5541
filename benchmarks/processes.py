"""Compare the speed of one training on several processes (train.processes) with that on one.

    python benchmarks/processes.py [--processes 1 2] [--networks net airbench94] [--images 4096] [--rounds 5]

Each network is trained for some epochs on the first training images, with the parameters of params.yaml and
batches of 512; the processes share train.num_threads. Each round has every combination once. The table has
images per second of all epochs but the first, median with minimum and maximum, the ratio to one process (the
median over the rounds), and the seconds until the first epoch ends. Run it on an idle machine, after
`cifarflow run`.
"""

import argparse
import os
import statistics
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from tasks.params import read_params
from tasks.params.train import TrainConfig
from tasks.train import train
from tasks.workspace.splits import load_tensors, save_tensors

ROOT = Path(__file__).resolve().parents[1]
BATCH_SIZE = 512
EPOCHS = 4


def save_first_images(splits: Path, count: int, target: Path) -> None:
    """Write splits with the first `count` training images, and so few others that they take no time."""
    tensors, metadata = load_tensors(splits)
    counts = {"train": count, "val": 64, "test": 64}
    save_tensors(
        target, {name: tensor[: counts[name.split("_")[0]]] for name, tensor in tensors.items()}, metadata
    )


def measure(splits: Path, config: TrainConfig, images: int) -> tuple[float, float]:
    """Return images per second after the first epoch, and the seconds until the first epoch ended."""
    ends = [time.perf_counter()]

    def note_end(_fraction: float, description: str) -> None:
        if description == f"epoch {len(ends)}/{config.epochs}":
            ends.append(time.perf_counter())

    folder = splits.parent
    with Path(os.devnull).open("w") as devnull, redirect_stdout(devnull):
        train(splits, folder / "model.safetensors", folder / "history.csv", config, progress=note_end)
    return images * (config.epochs - 1) / (ends[-1] - ends[1]), ends[1] - ends[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--networks", nargs="+", default=["net", "airbench94"])
    parser.add_argument("--images", type=int, default=4096)
    args = parser.parse_args()
    params = read_params(ROOT / "params.yaml")
    given = {"epochs": EPOCHS, "batch_size": BATCH_SIZE}
    speeds: dict[tuple[str, int], list[float]] = {}
    starts: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        splits = Path(folder) / "splits.safetensors"
        save_first_images(ROOT / params.paths.splits, args.images, splits)
        for _ in range(args.rounds):
            for network in args.networks:
                for processes in args.processes:
                    changes = given | {"network": network, "processes": processes}
                    config = TrainConfig.model_validate(params.train.model_dump() | changes)
                    speed, start = measure(splits, config, args.images)
                    speeds.setdefault((network, processes), []).append(speed)
                    starts.setdefault((network, processes), []).append(start)

    print(f"{os.cpu_count()} cores, {params.train.num_threads} threads, {args.rounds} rounds\n")
    print("| network | processes | images/s, median | min to max | ratio | first epoch, s |")
    print("| --- | ---: | ---: | --- | ---: | ---: |")
    for (network, processes), values in speeds.items():
        base = speeds[network, args.processes[0]]
        ratio = statistics.median(value / one for value, one in zip(values, base, strict=True))
        print(
            f"| `{network}` | {processes} | {statistics.median(values):,.0f} | "
            f"{min(values):,.0f} to {max(values):,.0f} | {ratio:.2f} | "
            f"{statistics.median(starts[network, processes]):.1f} |"
        )


if __name__ == "__main__":
    main()
