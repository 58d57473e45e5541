"""How fast a recipe reaches its accuracy on one GPU, against other scripts on the same one, in turns.

    python benchmarks/speedrun.py [--recipe fast94] [--runs 20] [--rounds 2] [--against SCRIPT ...]

`training` is what the field calls the time: from the first batch on the device to the last, with
augmentation, synchronized. Beside it stand what a run has before (`set-up`: drawing the first weights and
the whitening) and after it (`test`: all test images as the model ships, with test-time augmentation, if the
recipe has it), and, as they come once a process and not once a training, warm-up and compilation.
Validation, by which the recipe keeps an epoch, is in none of these. `all` is set-up, training and test.

SCRIPT is one of airbench's (airbench94_muon.py, airbench96_faster.py of
github.com/KellerJordan/cifar10-airbench) or the speedrun of github.com/hiverge/cifar10-speedrun, which are
not part of this repository. Each runs as it is, on the same pictures, in a folder of its own; only its
number of runs, 200, is set to --runs. Its time and accuracy are those that it prints: they are of
whitening, training and test-time augmentation, and to be held against `all`.

It needs the splits: cifarflow run, or python -m tasks split. Run it alone.
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

from tasks.evaluate import predict_proba
from tasks.overrides import merge_overrides, parse_overrides, read_recipe, with_overrides
from tasks.params import TrainConfig, read_params
from tasks.train import resolve_device, train
from tasks.workspace.errors import RunError
from tasks.workspace.splits import Splits, load_splits
from tasks.workspace.weights import load_classifier

ROOT = Path(__file__).resolve().parents[1]
ROW = re.compile(r"\| *(\w*) *\| *(\w+) *\|((?: *[\d.]* *\|)+)")  # run, epoch, figures
RUNS = "for run in range(200)"
BATCH = 2000


@dataclass
class Way:
    """What was measured of one way to train; a value a run."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    accuracies: list[float] = field(default_factory=list)
    once: list[float] = field(default_factory=list)
    """seconds of warm-up and compilation"""

    def add(self, accuracy: float, **seconds: float) -> None:
        self.accuracies.append(accuracy)
        for name, value in seconds.items():
            self.seconds.setdefault(name, []).append(value)


def run_recipe(way: Way, splits: Path, data: Splits, options: TrainConfig) -> None:
    device = resolve_device(options.device)
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        weights = Path(folder) / "weights"
        with redirect_stdout(nowhere):
            done = train(splits, weights, Path(folder) / "history", options, progress=lambda *_: None)
        classifier = load_classifier(weights)[0].to(device)
        images, labels = data.test.images.to(device), data.test.labels
        predict_proba(classifier, images[:BATCH], BATCH)  # warm-up
        began = time.perf_counter()
        predicted = predict_proba(classifier, images, BATCH).argmax(1).cpu()  # waits for the device
        test = time.perf_counter() - began
    way.once.append(done["warm_up_s"])
    accuracy = (predicted == labels).double().mean().item()
    parts = {"set-up": done["set_up_s"], "training": done["training_s"], "test": test}
    way.add(accuracy, **parts, all=sum(parts.values()))


def run_script(way: Way, script: Path, data: Splits, runs: int) -> None:
    """Let a script train `runs` times, and take in what it prints."""
    text = script.read_text(encoding="utf-8")
    if RUNS not in text:
        raise RunError(f"{script} has no line `{RUNS}`: it is none of the scripts that are known here")
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder) / "cifar10", data)
        copy = Path(folder) / script.name
        copy.write_text(text.replace(RUNS, f"for run in range({runs})"), encoding="utf-8")
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, copy.name], cwd=folder, capture_output=True, text=True, check=False
        )
        took = time.perf_counter() - began
    found = list(printed(done.stdout))
    if done.returncode or len(found) != runs:
        last = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()[-1]
        raise RunError(f"{script.name} ended with {len(found)} of {runs} runs: {last}")
    for accuracy, seconds in found:
        way.add(accuracy, all=seconds)
    way.once.append(took - sum(seconds for _, seconds in found))


def printed(output: str) -> Iterator[tuple[float, float]]:
    """Accuracy, with test-time augmentation, and seconds of each run that a script printed but a warm-up."""
    run = ""
    for row in ROW.finditer(output):
        run = row[1] or run
        if row[2] == "eval" and run != "warmup":
            accuracy, seconds = row[3].replace(" ", "").strip("|").split("|")[-2:]
            yield float(accuracy), float(seconds)


def write_data(folder: Path, data: Splits) -> None:
    """CIFAR-10 as the scripts keep it after their download: all 50,000 training pictures, and the test's."""
    folder.mkdir()
    train_images = torch.cat([data.train.images, data.val.images])
    train_labels = torch.cat([data.train.labels, data.val.labels])
    classes = data.about["classes"]
    torch.save({"images": train_images, "labels": train_labels, "classes": classes}, folder / "train.pt")
    test = {"images": data.test.images.clone(), "labels": data.test.labels.clone(), "classes": classes}
    torch.save(test, folder / "test.pt")


def table(ways: dict[str, Way]) -> str:
    """Accuracies with mean and standard error, times by the median, which a slow first run does not move."""
    parts = ["set-up", "training", "test", "all"]
    lines = [
        "| way | runs | test accuracy, mean and standard error | " + " | ".join(f"{p}, s" for p in parts)
    ]
    lines[0] += " | warm-up, s |"
    lines.append("| --- | --- | --- |" + " --- |" * (len(parts) + 1))
    for name, way in ways.items():
        count = len(way.accuracies)
        error = statistics.stdev(way.accuracies) / math.sqrt(count) if count > 1 else math.nan
        cells = [
            f"{statistics.median(way.seconds[part]):.3f}" if part in way.seconds else "in all"
            for part in parts
        ]
        accuracy = f"{statistics.mean(way.accuracies):.2%} ± {error:.2%}"
        lines.append(f"| {name} | {count} | {accuracy} | {' | '.join(cells)} | {max(way.once):.1f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="fast94")
    parser.add_argument("--runs", type=int, default=20, help="of each way; 20")
    parser.add_argument("--rounds", type=int, default=2, help="in which the ways take turns; 2")
    parser.add_argument("--against", nargs="*", type=Path, default=[], metavar="SCRIPT")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--splits", type=Path, help="other splits than those of params.yaml")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="goes beyond the recipe")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device; --device cpu tries this script without one")
    try:
        measure(chosen)
    except RunError as error:
        sys.exit(str(error))


def measure(chosen: argparse.Namespace) -> None:
    overrides = merge_overrides(read_recipe(chosen.recipe, ROOT / "recipes"), parse_overrides(chosen.set))
    params = with_overrides(read_params(ROOT / "params.yaml"), overrides)
    splits = chosen.splits or ROOT / params.paths.splits
    data = load_splits(splits)
    ways = {chosen.recipe: Way()} | {script.name: Way() for script in chosen.against}
    for turn in range(chosen.rounds):
        runs = range(turn * chosen.runs // chosen.rounds, (turn + 1) * chosen.runs // chosen.rounds)
        for seed in runs:
            changes = {"seed": seed, "device": chosen.device, "deterministic": False}
            run_recipe(ways[chosen.recipe], splits, data, params.train.model_copy(update=changes))
        for script in chosen.against:
            run_script(ways[script.name], script, data, len(runs))
    where = (
        torch.cuda.get_device_name()
        if chosen.device == "cuda"
        else f"CPU, {params.train.num_threads} threads"
    )
    print(f"{where}, PyTorch {torch.__version__}, {chosen.rounds} rounds\n\n{table(ways)}")


if __name__ == "__main__":
    main()
