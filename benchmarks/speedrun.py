"""Measure the time in which a recipe and other scripts reach their accuracy on one GPU.

    python benchmarks/speedrun.py [--recipe fast94] [--runs 20] [--rounds 2] [--against SCRIPT ...]

The recipe and the scripts run in interleaved rounds. `training` is the time as it is usually reported: from
the first batch on the device to the last, with augmentation, synchronized. `set-up` (initial weights and
whitening) precedes it; `test` follows: all test images through the classifier that is exported, with the
recipe's test-time augmentation, if any. `all` is the sum of these. Warm-up and compilation, which come once
per process and not once per training, have their own column. No column includes validation, by which the
recipe selects an epoch.

SCRIPT is one of airbench's (airbench94_muon.py, airbench96_faster.py of
github.com/KellerJordan/cifar10-airbench) or the speedrun of github.com/hiverge/cifar10-speedrun, which are
not part of this repository. Each runs unchanged, on the same images, in a temporary folder; only its number
of runs, 200, is set to --runs. Time and accuracy are those that it prints: they cover whitening, training and
test-time augmentation, and compare with `all`.

It needs the splits: cifarflow run, or python -m tasks split. Run it on an idle machine.
"""

import argparse
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tasks.evaluate import predict_logits
from tasks.overrides import merge_overrides, parse_overrides, read_recipe, with_overrides
from tasks.params import read_params
from tasks.params.train import TrainConfig
from tasks.train import train
from tasks.training.compile import resolve_device
from tasks.workspace.errors import RunError
from tasks.workspace.splits import Splits, load_splits
from tasks.workspace.weights import load_classifier

ROOT = Path(__file__).resolve().parents[1]
ROW = re.compile(r"\| *(\w*) *\| *(\w+) *\|((?: *[\d.]* *\|)+)")  # The groups are run, epoch, and figures.
RUNS_LINE = "for run in range(200)"
BATCH_SIZE = 2000


@dataclass
class Measurements:
    """The measurements of a recipe or script, one value per run."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    accuracies: list[float] = field(default_factory=list)
    warm_up_seconds: list[float] = field(default_factory=list)
    """warm-up with compilation"""

    def add(self, accuracy: float, **seconds: float) -> None:
        self.accuracies.append(accuracy)
        for name, value in seconds.items():
            self.seconds.setdefault(name, []).append(value)


def run_recipe(measurements: Measurements, splits: Path, data: Splits, config: TrainConfig) -> None:
    device = resolve_device(config.device)
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as devnull:
        weights = Path(folder) / "weights"
        with redirect_stdout(devnull):
            result = train(splits, weights, Path(folder) / "history", config, progress=lambda *_: None)
        classifier = load_classifier(weights)[0].to(device)
        images, labels = data.test.images.to(device), data.test.labels
        predict_logits(classifier, images[:BATCH_SIZE], BATCH_SIZE)  # This is a warm-up.
        began = time.perf_counter()
        # The copy to the CPU waits for the device.
        predicted = predict_logits(classifier, images, BATCH_SIZE).argmax(1).cpu()
        test_seconds = time.perf_counter() - began
    measurements.warm_up_seconds.append(result["warm_up_s"])
    accuracy = (predicted == labels).double().mean().item()
    parts = {"set-up": result["set_up_s"], "training": result["training_s"], "test": test_seconds}
    measurements.add(accuracy, **parts, all=sum(parts.values()))


def run_script(measurements: Measurements, script: Path, data: Splits, num_runs: int) -> None:
    """Let a script train `num_runs` times and parse its output. `RunError` if that fails."""
    text = script.read_text(encoding="utf-8")
    if RUNS_LINE not in text:
        raise RunError(f"{script} has no line `{RUNS_LINE}`: not one of the supported scripts")
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder) / "cifar10", data)
        copy = Path(folder) / script.name
        copy.write_text(text.replace(RUNS_LINE, f"for run in range({num_runs})"), encoding="utf-8")
        began = time.perf_counter()
        process = subprocess.run(
            [sys.executable, copy.name], cwd=folder, capture_output=True, text=True, check=False
        )
        total_seconds = time.perf_counter() - began
    runs = list(parse_output(process.stdout))
    if process.returncode or len(runs) != num_runs:
        last_line = (process.stderr.strip() or process.stdout.strip() or "no output").splitlines()[-1]
        raise RunError(f"{script.name} ended with {len(runs)} of {num_runs} runs: {last_line}")
    for accuracy, seconds in runs:
        measurements.add(accuracy, all=seconds)
    measurements.warm_up_seconds.append(total_seconds - sum(seconds for _, seconds in runs))


def parse_output(output: str) -> Iterator[tuple[float, float]]:
    """Yield accuracy with test-time augmentation and seconds of each run in the output, except warm-ups."""
    run = ""
    for row in ROW.finditer(output):
        run = row[1] or run
        if row[2] == "eval" and run != "warmup":
            accuracy, seconds = row[3].replace(" ", "").strip("|").split("|")[-2:]
            yield float(accuracy), float(seconds)


def write_data(folder: Path, data: Splits) -> None:
    """Write CIFAR-10 as the scripts store it: all 50,000 training images, and the test images."""
    folder.mkdir()
    train_images = torch.cat([data.train.images, data.val.images])
    train_labels = torch.cat([data.train.labels, data.val.labels])
    classes = data.metadata["classes"]
    torch.save({"images": train_images, "labels": train_labels, "classes": classes}, folder / "train.pt")
    test = {"images": data.test.images.clone(), "labels": data.test.labels.clone(), "classes": classes}
    torch.save(test, folder / "test.pt")


def format_table(results: dict[str, Measurements]) -> str:
    """Format mean accuracies with standard errors, and median times, which ignore a slow first run."""
    parts = ["set-up", "training", "test", "all"]
    lines = [
        "| variant | runs | test accuracy, mean and standard error | "
        + " | ".join(f"{part}, s" for part in parts)
        + " | warm-up, s |",
        "| --- | --- | --- |" + " --- |" * (len(parts) + 1),
    ]
    for name, measurements in results.items():
        accuracies, seconds = measurements.accuracies, measurements.seconds
        count = len(accuracies)
        sem = statistics.stdev(accuracies) / math.sqrt(count) if count > 1 else math.nan
        cells = [f"{statistics.median(seconds[part]):.3f}" if part in seconds else "in all" for part in parts]
        accuracy = f"{statistics.mean(accuracies):.2%} ± {sem:.2%}"
        warm_up = max(measurements.warm_up_seconds)
        lines.append(f"| {name} | {count} | {accuracy} | {' | '.join(cells)} | {warm_up:.1f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="fast94")
    parser.add_argument("--runs", type=int, default=20, help="trainings of each variant (default: 20)")
    parser.add_argument("--rounds", type=int, default=2, help="number of interleaved rounds (default: 2)")
    parser.add_argument("--against", nargs="*", type=Path, default=[], metavar="SCRIPT")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--splits", type=Path, help="other splits than those of params.yaml")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="parameters that take precedence over the recipe",
    )
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device; --device cpu tries this script without one")
    try:
        measure(args)
    except RunError as error:
        sys.exit(str(error))


def measure(args: argparse.Namespace) -> None:
    overrides = merge_overrides(read_recipe(args.recipe, ROOT / "recipes"), parse_overrides(args.set))
    params = with_overrides(read_params(ROOT / "params.yaml"), overrides)
    splits = args.splits or ROOT / params.paths.splits
    data = load_splits(splits)
    results = {name: Measurements() for name in (args.recipe, *(script.name for script in args.against))}
    for i in range(args.rounds):
        seeds = range(i * args.runs // args.rounds, (i + 1) * args.runs // args.rounds)
        for seed in seeds:
            changes = {"seed": seed, "device": args.device, "deterministic": False}
            run_recipe(results[args.recipe], splits, data, params.train.model_copy(update=changes))
        for script in args.against:
            run_script(results[script.name], script, data, len(seeds))
    device_name = (
        torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {params.train.num_threads} threads"
    )
    print(f"{device_name}, PyTorch {torch.__version__}, {args.rounds} rounds\n\n{format_table(results)}")


if __name__ == "__main__":
    main()
