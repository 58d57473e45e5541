"""One training per seed, in one or several processes: mean and standard deviation of the accuracy."""

from __future__ import annotations

import math
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tasks.evaluate import evaluate
from tasks.train import train
from tasks.training.checkpoints import training_fingerprint
from tasks.training.device import resolve_device
from tasks.training.pretrained import find_pretrained
from tasks.workspace.errors import RunError
from tasks.workspace.files import read_json, write_json
from tasks.workspace.process import exit_with_parent
from tasks.workspace.splits import load_splits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from tasks.params import EvaluateConfig
    from tasks.params.train import TrainConfig


@dataclass(frozen=True)
class SeedTraining:
    """A training for a process of the pool; `config` holds the seed."""

    splits: Path
    folder: Path
    config: TrainConfig
    evaluate_config: EvaluateConfig
    pretrained: Path | None = None

    @property
    def row_file(self) -> Path:
        """The row of `sweep.json`, once the training has finished."""
        return self.folder / "row.json"


def run_sweep(
    splits: Path,
    folder: Path,
    output: Path,
    config: TrainConfig,
    evaluate_config: EvaluateConfig,
    num_seeds: int,
    jobs: int,
    pretrained: Path | None = None,
) -> dict[str, Any]:
    """Train with `num_seeds` seeds, starting at the seed of `config`, and write `output` (JSON).

    Each is evaluated on validation and test as in the stage `evaluate`. `jobs` are trained in parallel; on a
    CPU they share the threads. `folder` holds the state: an interrupted sweep keeps the finished seeds and
    resumes the others. `RunError` names the seeds that failed, after the others have finished.
    """
    dataset = load_splits(splits).metadata["dataset"]
    device = resolve_device(config.device)
    config = divide_threads(config, device, jobs)
    weights = find_pretrained(pretrained, config.weights) if config.weights else None
    fingerprint = training_fingerprint(splits, config.model_dump(exclude={"seed"}), device, weights)
    trainings = {
        seed: SeedTraining(
            splits,
            folder / fingerprint / f"seed-{seed}",
            config.model_copy(update={"seed": seed}),
            evaluate_config,
            pretrained,
        )
        for seed in range(config.seed, config.seed + num_seeds)
    }
    began = time.perf_counter()
    rows, failures = _train_all_seeds(trainings, jobs)
    if failures:
        seed, reason = min(failures.items())
        raise RunError(
            f"{len(failures)} of {num_seeds} seeds failed, the others are kept; seed {seed}: {reason}"
        )
    result = {
        "dataset": dataset,
        "device": device.type,
        "jobs": jobs,
        "seconds": time.perf_counter() - began,
        "seeds": [rows[seed] for seed in sorted(rows)],
        "val_accuracy": mean_std_sem([row["val_accuracy"] for row in rows.values()]),
        "test_accuracy": mean_std_sem([row["test_accuracy"] for row in rows.values()]),
        "train": config.model_dump(exclude={"seed"}),
    }
    write_json(output, result)
    print(format_summary(result))
    return result


def divide_threads(config: TrainConfig, device: torch.device, jobs: int) -> TrainConfig:
    """The configuration of each of `jobs` parallel trainings: on a CPU they share the threads."""
    if device.type != "cpu":
        return config
    return config.model_copy(update={"num_threads": max(1, config.num_threads // jobs)})


def mean_std_sem(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation of a single run, and standard error of the mean."""
    std = statistics.stdev(values)
    return {"mean": statistics.mean(values), "std": std, "sem": std / math.sqrt(len(values))}


def format_summary(result: dict[str, Any]) -> str:
    """One line for validation, one for test."""
    lines = []
    for split in ("val", "test"):
        accuracy = result[f"{split}_accuracy"]
        lines.append(
            f"{split} accuracy {accuracy['mean']:.2%}, mean of {len(result['seeds'])} seeds; "
            f"standard deviation {accuracy['std']:.2%}, standard error {accuracy['sem']:.2%}"
        )
    return "\n".join(lines)


def _train_all_seeds(
    trainings: dict[int, SeedTraining], max_workers: int
) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """A row per seed, and the reasons of those that failed. Each process trains one seed after another."""
    rows: dict[int, dict[str, Any]] = {
        seed: read_json(training.row_file)
        for seed, training in trainings.items()
        if training.row_file.is_file()
    }
    if rows:
        print(f"already finished: seed {', '.join(str(seed) for seed in rows)}")
    failures: dict[int, str] = {}
    pool = ProcessPoolExecutor(max_workers, multiprocessing.get_context("spawn"), exit_with_parent)
    try:
        seeds: dict[Future[dict[str, Any]], int] = {
            pool.submit(_train_and_evaluate, training): seed
            for seed, training in trainings.items()
            if seed not in rows
        }
        for future in as_completed(seeds):
            seed = seeds[future]
            try:
                row = rows[seed] = future.result()
            except BrokenProcessPool:
                failures[seed] = "its process was killed, possibly out of memory"
            except RunError as error:
                failures[seed] = str(error)
            else:
                print(
                    f"seed {seed}: validation {row['val_accuracy']:.4f}, test {row['test_accuracy']:.4f}, "
                    f"{row['training_s']:.1f} s of training ({len(rows)} of {len(trainings)})"
                )
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return rows, failures


def _train_and_evaluate(training: SeedTraining) -> dict[str, Any]:
    """Write the row of a seed and return it. The weights are deleted: the pipeline trains its own."""
    folder, config = training.folder, training.config
    torch.set_num_threads(config.num_threads)
    folder.mkdir(parents=True, exist_ok=True)
    weights, metrics_file = folder / "model.safetensors", folder / "metrics.json"
    with (folder / "log.txt").open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log):
        result = train(
            training.splits,
            weights,
            folder / "history.csv",
            config,
            progress=lambda *_: None,
            pretrained=training.pretrained,
        )
        evaluate(training.splits, weights, metrics_file, folder / "predictions.csv", training.evaluate_config)
    row = {"seed": config.seed, "best_epoch": result["best_epoch"]}
    row |= {name: result[name] for name in ("training_s", "set_up_s", "warm_up_s")}
    metrics = read_json(metrics_file)
    for split in ("val", "test"):
        accuracies = [name for name in metrics[split] if name.startswith("accuracy")]
        row |= {f"{split}_{name}": metrics[split][name] for name in accuracies}
    row.pop("test_accuracy_ci95", None)
    weights.unlink()
    write_json(training.row_file, row, indent=None)
    return row
