"""Measure training on a data set that is larger than CIFAR-10: images per second and peak memory.

    python benchmarks/large_dataset.py [--times 1 10] [--rounds 3] [--set flip=true translate=2 …]

The splits are CIFAR-10's, with the training and validation images repeated as often as --times says, in a
temporary file (1.5 GB for ten times). Each measurement is one epoch of the stage's trainer in a process of
its own, with the parameters of params.yaml; the sizes are interleaved. Run it on an idle machine, after
`cifarflow run`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tasks.params import read_params
from tasks.params.train import TrainConfig
from tasks.train import train
from tasks.workspace.splits import load_tensors, save_tensors

ROOT = Path(__file__).resolve().parents[1]


def save_repeated_splits(splits: Path, file: Path, times: int) -> int:
    """Write splits with repeated training and validation images; return the number of training images."""
    tensors, metadata = load_tensors(splits)
    for name, tensor in tensors.items():
        if not name.startswith("test"):
            tensors[name] = tensor.repeat(times, *[1] * (tensor.ndim - 1))
    save_tensors(file, tensors, metadata)
    return len(tensors["train_labels"])


def measure_here(splits: Path, config: TrainConfig) -> None:
    """Train in this process, and print the seconds of training and the peak memory in MB as last line."""
    with tempfile.TemporaryDirectory() as folder:
        result = train(
            splits, Path(folder, "weights"), Path(folder, "history"), config, progress=lambda *_: None
        )
    # `ru_maxrss` would start at the parent's peak.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    print(json.dumps([result["training_s"], peak_kb * 1024 / 1e6]))


def measure(splits: Path, config: TrainConfig) -> tuple[float, float]:
    command = [sys.executable, __file__, "--measure", str(splits), config.model_dump_json()]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    seconds, peak_mb = json.loads(output.splitlines()[-1])
    return seconds, peak_mb


def parse_changes(texts: list[str]) -> dict[str, Any]:
    return {name: yaml.safe_load(value) for name, value in (text.split("=", 1) for text in texts)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="parameters of the section train"
    )
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure_here(Path(args.measure[0]), TrainConfig.model_validate_json(args.measure[1]))
        return
    params = read_params(ROOT / "params.yaml")
    changes = parse_changes(args.set) | {"epochs": 1}
    config = TrainConfig.model_validate(params.train.model_dump() | changes)
    speeds: dict[int, list[float]] = {times: [] for times in args.times}
    peaks: dict[int, list[float]] = {times: [] for times in args.times}
    with tempfile.TemporaryDirectory() as folder:
        files = {times: Path(folder, f"{times}.safetensors") for times in args.times}
        counts = {
            times: save_repeated_splits(ROOT / params.paths.splits, file, times)
            for times, file in files.items()
        }
        for _ in range(args.rounds):
            for times, file in files.items():
                seconds, peak_mb = measure(file, config)
                speeds[times].append(counts[times] / seconds)
                peaks[times].append(peak_mb)
    first = statistics.median(speeds[args.times[0]])
    print("| training images | images/s, median | min to max | against the first | peak memory, MB |")
    print("| ---: | ---: | --- | ---: | ---: |")
    for times, values in speeds.items():
        median, span = statistics.median(values), f"{min(values):,.0f} to {max(values):,.0f}"
        ratio, peak = median / first, max(peaks[times])
        print(f"| {counts[times]:,} | {median:,.0f} | {span} | {ratio:.2f} | {peak:,.0f} |")


if __name__ == "__main__":
    main()
