"""Plot accuracy over seconds of training for every recipe in one figure.

    python benchmarks/recipes.py [--recipes talk net76 …] [--seeds 3] [--minutes 15] [--results FILE]

First the seconds per epoch of each recipe are measured, in interleaved rounds over a part of the images; this
needs an idle machine. Then each recipe is trained, and validation accuracy is drawn over epochs times these
seconds: the accuracy of an epoch does not depend on what else the machine does. A recipe that takes longer
than `--minutes` is trained that long; its curve then ends before its learning rate has come down. The table
has the test accuracy of the kept epoch. `--results` names a JSON file of what was done, from which a later
call goes on. The script writes docs/images/recipes.svg. Run it after `cifarflow run`.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from tasks.evaluate import evaluate
from tasks.overrides import read_recipe, with_overrides
from tasks.params import Params, read_params
from tasks.params.train import TrainConfig
from tasks.reporting.svg import BLUE, INK, MUTED, ORANGE, STYLE, make_standalone, render_svg_element
from tasks.train import train
from tasks.training.compile import resolve_machine
from tasks.training.trainer import Trainer
from tasks.workspace.files import read_json
from tasks.workspace.splits import Split, Splits, load_splits

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "recipes.svg"
ROUNDS = 3
TIMED_S = 10.0  # approximate time of a measurement of a recipe, in each round


def build_config(params: Params, recipe: str, **changes: object) -> TrainConfig:
    config = with_overrides(params, read_recipe(recipe, ROOT / "recipes")).train
    return config.model_copy(update=changes)


def build_trainer(data: Splits, config: TrainConfig) -> Trainer:
    machine = resolve_machine(config.model_copy(update={"device": "cpu"}))
    return Trainer(data, config, machine, progress=lambda *_: None)


def measure_epoch(data: Splits, config: TrainConfig, num_images: int) -> float:
    """Return the seconds per epoch with validation, from a second epoch over `num_images` only."""
    part = Split(data.train.images[:num_images], data.train.labels[:num_images])
    num_val = max(1, len(data.val.labels) * num_images // len(data.train.labels))
    val = Split(data.val.images[:num_val], data.val.labels[:num_val])
    trainer = build_trainer(replace(data, train=part, val=val), config)
    trainer.run_epoch(1)
    trainer.run_epoch(2)
    return trainer.epoch_seconds[-1] * len(data.train.labels) / num_images


def measure_recipes(data: Splits, configs: dict[str, TrainConfig]) -> dict[str, list[float]]:
    """Measure the seconds per epoch of each recipe in each round."""
    sizes = {}
    # Each recipe is timed on as many images as take about TIMED_S.
    for name, config in configs.items():
        seconds = measure_epoch(data, config, 2 * config.batch_size) / len(data.train.labels)
        batches = math.ceil(TIMED_S / seconds / config.batch_size)
        sizes[name] = min(max(2, batches) * config.batch_size, len(data.train.labels))
    rounds: dict[str, list[float]] = {name: [] for name in configs}
    for _ in range(ROUNDS):
        for name, config in configs.items():
            rounds[name].append(measure_epoch(data, config, sizes[name]))
            print(f"{name}: {rounds[name][-1]:.1f} s per epoch", flush=True)
    return rounds


def train_recipe(splits: Path, config: TrainConfig, epochs: int, params: Params) -> dict[str, Any]:
    """Train a recipe; return validation accuracies by epoch, and the test accuracy of a whole training."""
    with tempfile.TemporaryDirectory() as folder:
        weights, history = Path(folder, "weights"), Path(folder, "history.csv")
        if epochs < config.epochs:
            return {"val": _train_in_part(load_splits(splits), config, epochs), "test": None}
        with Path(os.devnull).open("w") as devnull, redirect_stdout(devnull):
            train(splits, weights, history, config, progress=lambda *_: None)
            metrics = Path(folder, "metrics.json")
            evaluate(splits, weights, metrics, Path(folder, "predictions.csv"), params.evaluate)
        rows = [line.split(",") for line in history.read_text(encoding="utf-8").splitlines()]
        column = rows[0].index("val_accuracy")
        results = read_json(metrics)
        return {"val": [float(row[column]) for row in rows[1:]], "test": results["test"]["accuracy"]}


def _train_in_part(data: Splits, config: TrainConfig, epochs: int) -> list[float]:
    torch.set_num_threads(config.num_threads)
    trainer = build_trainer(data, config)
    return [trainer.run_epoch(epoch).val_accuracy for epoch in range(1, epochs + 1)]


@rc_context(STYLE)
def draw(results: dict[str, Any], picture: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    styles = [(BLUE, "-"), (ORANGE, "-"), (INK, "-"), (MUTED, "-"), (BLUE, ":"), (ORANGE, ":")]
    for (color, line), (name, result) in zip(styles, results.items(), strict=False):
        seconds = statistics.median(result["epoch_s"])
        for curve in result["seeds"].values():
            times = [seconds * (epoch + 1) for epoch in range(len(curve["val"]))]
            best = [max(curve["val"][: epoch + 1]) for epoch in range(len(curve["val"]))]
            (drawn,) = axes.plot(times, best, color=color, linestyle=line, linewidth=1.6)
        drawn.set_label(name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("validation accuracy, best epoch so far")
    axes.legend(frameon=False, loc="lower right")
    picture.write_text(make_standalone(render_svg_element(figure)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    recipes = sorted(file.stem for file in (ROOT / "recipes").glob("*.yaml"))
    parser.add_argument("--recipes", nargs="+", default=recipes, choices=recipes)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    params = read_params(ROOT / "params.yaml")
    splits = ROOT / params.paths.splits
    data = load_splits(splits)
    torch.set_num_threads(params.train.num_threads)
    results: dict[str, Any] = {}
    if args.results and args.results.is_file():
        results = json.loads(args.results.read_text(encoding="utf-8"))

    def save() -> None:
        if args.results:
            args.results.write_text(json.dumps(results, indent=1), encoding="utf-8")

    configs = {name: build_config(params, name) for name in args.recipes}
    missing = {name: config for name, config in configs.items() if name not in results}
    for name, rounds in measure_recipes(data, missing).items():
        results[name] = {"epoch_s": rounds, "seeds": {}}
    save()
    for name, config in configs.items():
        epoch_s = statistics.median(results[name]["epoch_s"])
        epochs = min(config.epochs, max(1, int(60 * args.minutes / epoch_s)))
        for seed in range(args.seeds):
            if str(seed) in results[name]["seeds"]:
                continue
            began = time.perf_counter()
            seeded = config.model_copy(update={"seed": seed})
            results[name]["seeds"][str(seed)] = train_recipe(splits, seeded, epochs, params)
            print(f"{name}, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
            save()
    draw({name: results[name] for name in args.recipes}, PICTURE)
    print(f"\n{os.cpu_count()} cores, {params.train.num_threads} threads, PyTorch {torch.__version__}\n")
    print("| recipe | s per epoch, median | min to max | epochs | minutes | validation | test | seeds |")
    print("| --- | ---: | --- | ---: | ---: | --- | --- | ---: |")
    for name, config in configs.items():
        rounds, seeds = results[name]["epoch_s"], results[name]["seeds"].values()
        epochs = len(next(iter(seeds))["val"])
        whole = "" if epochs == config.epochs else f" of {config.epochs}"
        median = statistics.median(rounds)
        val = _format_spread([max(seed["val"]) for seed in seeds])
        test = _format_spread([seed["test"] for seed in seeds if seed["test"] is not None])
        print(
            f"| {name} | {median:.1f} | {min(rounds):.1f} to {max(rounds):.1f} | {epochs}{whole} "
            f"| {epochs * median / 60:.1f} | {val} | {test} | {len(seeds)} |"
        )


def _format_spread(values: list[float]) -> str:
    if not values:
        return "not trained to the end"
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}%{spread}"


if __name__ == "__main__":
    main()
