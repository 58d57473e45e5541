"""One training per seed: mean and standard deviation of the accuracy."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from flows.trainings.cluster import find_machine
from flows.trainings.trainings import ROW, Tracking, Training, run_trainings, training_cluster
from tasks.training.checkpoints import training_fingerprint
from tasks.training.network import find_pretrained
from tasks.workspace.errors import RunError
from tasks.workspace.files import read_json, write_json
from tasks.workspace.splits import load_splits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tasks.params import EvaluateConfig, Params
    from tasks.params.train import TrainConfig


def run_sweep(
    splits: Path,
    folder: Path,
    output: Path,
    config: TrainConfig,
    evaluate_config: EvaluateConfig,
    num_seeds: int,
    jobs: int,
    pretrained: Path | None = None,
    address: str | None = None,
    params: Params | None = None,
) -> dict[str, Any]:
    """Train with `num_seeds` seeds, starting at the seed of `config`, and write `output` (JSON).

    Each is evaluated on validation and test as in the stage `evaluate`. `jobs` are trained in parallel, on a
    local cluster, where on a CPU they share the threads, or on the Dask cluster at `address`. `folder` holds
    the state: an interrupted sweep keeps the finished seeds and resumes the others. `RunError` names the
    seeds that failed, after the others have finished. With `params`, each is tracked in W&B as they say.
    """
    dataset = load_splits(splits).metadata["dataset"]
    machine = find_machine(config, address)
    device = torch.device(machine.device)
    if address is None:
        config = divide_threads(config, device, jobs)
    weights = find_pretrained(pretrained, config.weights)
    values = config.model_dump(exclude={"seed"})
    fingerprint = training_fingerprint(splits, values, machine, weights)
    trainings = {
        seed: Training(
            f"seed {seed}",
            machine.resolve(config.model_copy(update={"seed": seed})),
            evaluate_config,
            splits,
            folder / fingerprint / f"seed-{seed}",
            pretrained,
            tracking=None if params is None else Tracking(params, f"sweep {fingerprint}"),
        )
        for seed in range(config.seed, config.seed + num_seeds)
    }
    began = time.perf_counter()
    files = [splits] if weights is None else [splits, weights]
    rows, failures = _train_all_seeds(trainings, jobs, address, files)
    if failures:
        seed, reason = min(failures.items())
        raise RunError(
            f"{len(failures)} of {num_seeds} seeds failed, the others are kept; seed {seed}: {reason}"
        )
    result = {
        "dataset": dataset,
        **asdict(machine),
        "jobs": jobs,
        "seconds": time.perf_counter() - began,
        "seeds": [rows[seed] for seed in sorted(rows)],
        "val_accuracy": mean_std_sem([row["val_accuracy"] for row in rows.values()]),
        "test_accuracy": mean_std_sem([row["test_accuracy"] for row in rows.values()]),
        "train": values,
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
    trainings: dict[int, Training], jobs: int, address: str | None, files: list[Path]
) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """A row per seed, and the reasons of those that failed."""
    rows: dict[int, dict[str, Any]] = {
        seed: {"seed": seed} | read_json(training.folder / ROW)
        for seed, training in trainings.items()
        if (training.folder / ROW).is_file()
    }
    if rows:
        print(f"already finished: seed {', '.join(str(seed) for seed in rows)}")
    missing = [training for seed, training in trainings.items() if seed not in rows]
    failures: dict[int, str] = {}
    if missing:
        with training_cluster(jobs, address, files) as cluster:
            for training, outcome in run_trainings(cluster, missing):
                seed = training.config.seed
                if isinstance(outcome, str):
                    failures[seed] = outcome
                    continue
                row = rows[seed] = {"seed": seed} | outcome
                write_json(training.folder / ROW, row, indent=None)
                print(
                    f"seed {seed}: validation {row['val_accuracy']:.4f}, test {row['test_accuracy']:.4f}, "
                    f"{row['training_s']:.1f} s of training ({len(rows)} of {len(trainings)})"
                )
    return rows, failures
