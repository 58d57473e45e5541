"""The same training with several seeds, one after the other or at once: how much of a result is chance."""

from __future__ import annotations

import json
import math
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import torch

from tasks.evaluate import evaluate
from tasks.train import resolve_device, train
from tasks.training.checkpoints import training_fingerprint
from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write
from tasks.workspace.process import exit_with_parent
from tasks.workspace.splits import load_splits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from tasks.params import EvaluateConfig, TrainConfig


def run_sweep(
    splits: Path,
    folder: Path,
    report: Path,
    config: TrainConfig,
    evaluate_config: EvaluateConfig,
    seeds: int,
    jobs: int,
) -> dict[str, Any]:
    """Train with `seeds` seeds from the config' own on, `at_once` at once, and write `report` (JSON).

    Each is judged on validation and test as the stage `evaluate` does. On a CPU those at once share the
    threads. `folder` holds what is under way: a sweep that was killed goes on from there, seeds that are done
    stay done. `RunError` names the seeds that failed, after the others ended.
    """
    dataset = load_splits(splits).metadata["dataset"]
    device = resolve_device(config.device)
    if device.type == "cpu":
        config = config.model_copy(update={"num_threads": max(1, config.num_threads // jobs)})
    key = training_fingerprint(splits, config.model_dump(exclude={"seed"}), device)
    trainings = {
        seed: (
            splits,
            folder / key / f"seed-{seed}",
            config.model_copy(update={"seed": seed}),
            evaluate_config,
        )
        for seed in range(config.seed, config.seed + seeds)
    }
    began = time.perf_counter()
    rows, failures = _train_all_seeds(trainings, jobs)
    if failures:
        seed, first = min(failures.items())
        raise RunError(f"{len(failures)} of {seeds} seeds failed, the others are kept; seed {seed}: {first}")
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
    with atomic_write(report) as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(format_summary(result))
    return result


def mean_std_sem(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation of a single run, and standard error of the mean."""
    std = statistics.stdev(values)
    return {
        "mean": statistics.mean(values),
        "std": std,
        "sem": std / math.sqrt(len(values)),
    }


def format_summary(result: dict[str, Any]) -> str:
    lines = []
    for name in ("val", "test"):
        of = result[f"{name}_accuracy"]
        lines.append(
            f"{name} accuracy {of['mean']:.2%}, mean of {len(result['seeds'])} seeds; "
            f"standard deviation {of['std']:.2%}, standard error {of['sem']:.2%}"
        )
    return "\n".join(lines)


def _train_all_seeds(
    trainings: dict[int, tuple[Any, ...]], max_workers: int
) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """A row a seed, and of those that failed why. Each process trains one seed after the other."""
    rows: dict[int, dict[str, Any]] = {}
    failures: dict[int, str] = {}
    pool = ProcessPoolExecutor(max_workers, multiprocessing.get_context("spawn"), exit_with_parent)
    try:
        running: dict[Future[dict[str, Any]], int] = {
            pool.submit(_train_and_evaluate, *job): seed for seed, job in trainings.items()
        }
        for future in as_completed(running):
            seed = running[future]
            try:
                rows[seed] = future.result()
            except BrokenProcessPool:
                failures[seed] = "its process was ended from outside, perhaps for want of memory"
            except RunError as error:
                failures[seed] = str(error)
            else:
                row = rows[seed]
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


def _train_and_evaluate(
    splits: Path, folder: Path, config: TrainConfig, judging: EvaluateConfig
) -> dict[str, Any]:
    """The row of a seed, from its file where it is done. Weights are not kept: the pipeline makes its own."""
    file = folder / "row.json"
    if file.is_file():
        row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return row
    torch.set_num_threads(config.num_threads)
    folder.mkdir(parents=True, exist_ok=True)
    weights, metrics = folder / "model.safetensors", folder / "metrics.json"
    with (folder / "log.txt").open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log):
        done = train(splits, weights, folder / "history.csv", config, progress=lambda *_: None)
        evaluate(splits, weights, metrics, folder / "confusion.csv", judging)
    row = {"seed": config.seed, "best_epoch": done["best_epoch"]}
    row |= {name: done[name] for name in ("training_s", "set_up_s", "warm_up_s")}
    for split, measured in json.loads(metrics.read_text(encoding="utf-8")).items():
        if split in {"val", "test"}:
            row |= {f"{split}_{name}": measured[name] for name in measured if name.startswith("accuracy")}
    row.pop("test_accuracy_ci95", None)
    weights.unlink()
    with atomic_write(file) as partial:
        partial.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return row
