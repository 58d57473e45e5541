"""The flow `sweep` trains once per seed, and reports mean and standard deviation of the accuracies.

A sweep does not touch the pipeline's artifacts.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.parameters import SweepParameters
from flows.run.flow_run import exclusive_workspace, read_params_with, workspace_flow
from flows.trainings.cluster import find_machine
from flows.trainings.trainings import ROW, Tracking, Training, run_trainings, training_cluster
from tasks.dataset.catalog import open_dataset
from tasks.params import Params
from tasks.params.train import TrainConfig
from tasks.reporting.markdown import escape_markdown
from tasks.training.checkpoints import training_fingerprint
from tasks.training.network import find_pretrained
from tasks.workspace.errors import RunError
from tasks.workspace.files import read_json, write_json
from tasks.workspace.splits import load_splits


@workspace_flow("sweep")
def sweep(parameters: SweepParameters) -> State[Any]:
    """Train with several seeds and report mean and standard deviation. An interrupted sweep resumes."""
    with exclusive_workspace(parameters):
        params = read_params_with(parameters.overrides)
        result = run_sweep(params, parameters.num_seeds, parameters.jobs, parameters.address)
        create_markdown_artifact(sweep_markdown(result), key="sweep")
    return Completed(message=format_summary(result).splitlines()[-1])


def run_sweep(params: Params, num_seeds: int, jobs: int, address: str | None = None) -> dict[str, Any]:
    """Train with `num_seeds` seeds, starting at `train.seed`, and write the result as JSON.

    Each is evaluated on validation and test as in the stage `evaluate`. `jobs` are trained in parallel, on a
    local cluster, where on a CPU they share the threads, or on the Dask cluster at `address`. A folder beside
    the weights holds the state: an interrupted sweep keeps the finished seeds and resumes the others.
    `RunError` names the seeds that failed, after the others have finished.
    """
    config, splits, pretrained = params.train, Path(params.paths.splits), Path(params.paths.pretrained)
    dataset = load_splits(splits).metadata["dataset"]
    machine = find_machine(config, address)
    if address is None:
        config = divide_threads(config, machine.device, jobs)
    weights = find_pretrained(pretrained, config.weights)
    values = config.model_dump(exclude={"seed"})
    fingerprint = training_fingerprint(splits, values, machine, weights)
    folder = Path(params.paths.weights).with_name("sweep") / fingerprint
    trainings = {
        seed: Training(
            f"seed {seed}",
            machine.resolve(config.model_copy(update={"seed": seed})),
            params.evaluate,
            splits,
            folder / f"seed-{seed}",
            pretrained,
            tracking=Tracking(params, f"sweep {fingerprint}"),
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
    write_json(Path(params.paths.sweep), result)
    print(format_summary(result))
    return result


def divide_threads(config: TrainConfig, device: str, jobs: int) -> TrainConfig:
    """Return the configuration of each of `jobs` parallel trainings, which on a CPU share the threads."""
    if device != "cpu":
        return config
    return config.model_copy(update={"num_threads": max(1, config.num_threads // jobs)})


def mean_std_sem(values: Sequence[float]) -> dict[str, float]:
    """Compute the mean, the standard deviation of a single run, and the standard error of the mean."""
    std = statistics.stdev(values)
    return {"mean": statistics.mean(values), "std": std, "sem": std / math.sqrt(len(values))}


def format_summary(result: dict[str, Any]) -> str:
    """Write one line for validation and one for test."""
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
    """Train what has no row yet; return a row per seed, and for each seed that failed the reason."""
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
                    f"seed {seed}: validation {row['val_accuracy']:.2%}, test {row['test_accuracy']:.2%}, "
                    f"{row['training_s']:.1f} s of training ({len(rows)} of {len(trainings)})"
                )
    return rows, failures


def sweep_markdown(result: dict[str, Any]) -> str:
    """Write a table with a row per seed, then mean, standard deviation and standard error."""
    network, rows = result["train"]["network"], result["seeds"]
    subject = escape_markdown(f"{network} on {open_dataset(result['dataset']).description}")
    lines = [f"# {len(rows)} seeds of {subject}", ""]
    lines += ["| seed | validation | test | training, s |", "| --- | ---: | ---: | ---: |"]
    for row in rows:
        val, test = row["val_accuracy"], row["test_accuracy"]
        lines.append(f"| {row['seed']} | {val:.2%} | {test:.2%} | {row['training_s']:.1f} |")
    for label, name in (("mean", "mean"), ("standard deviation", "std"), ("standard error", "sem")):
        val, test = (result[f"{split}_accuracy"][name] for split in ("val", "test"))
        lines.append(f"| {label} | {val:.2%} | {test:.2%} | |")
    return "\n".join(lines) + "\n"
