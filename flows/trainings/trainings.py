"""Run many trainings on a Dask cluster: a local one that ends with the flow, or one that runs already.

One Prefect task per training. A worker keeps the splits and its checkpoints, so a training whose worker was
killed goes on from its last checkpoint; rows of finished ones are kept by whoever asked for them.
"""

import io
import logging
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from distributed import KilledWorker
from distributed.client import FutureCancelledError
from prefect import get_run_logger
from prefect.context import TaskRunContext
from prefect.futures import as_completed
from prefect_dask.task_runners import DaskTaskRunner

from flows.run.flow_run import current_flow_run_id, workspace_task
from flows.run.killed_runs import end_task_runs
from flows.trainings.cluster import describe_code, find_file, send_files, stop_if_unwanted
from flows.trainings.local_cluster import start_local_cluster
from tasks.evaluate import evaluate
from tasks.params import EvaluateConfig, Params
from tasks.params.train import TrainConfig
from tasks.tracking import Tracker
from tasks.train import train
from tasks.workspace.errors import RunError
from tasks.workspace.files import cache_folder, read_json, write_json

ROW = "row.json"


@dataclass(frozen=True)
class Tracking:
    """What a W&B run of the training needs; `params` has all parameters but those of this training."""

    params: Params
    group: str


@dataclass(frozen=True)
class Training:
    """One training of many. On a cluster that runs already, paths are below the worker's own folder."""

    name: str
    config: TrainConfig
    evaluate_config: EvaluateConfig
    splits: Path
    folder: Path
    pretrained: Path | None = None
    until: int | None = None
    """the epoch after which the training stops, to go on later"""
    test: bool = True
    """whether the test split is evaluated"""
    tracking: Tracking | None = None
    sent: Mapping[Path, str] = field(default_factory=dict)
    """SHA-256 of the files that the worker finds in its cache; `run_trainings` sets it"""
    code: Mapping[str, str] = field(default_factory=dict)
    """the code and PyTorch that the worker must have; `run_trainings` sets it"""


@dataclass(frozen=True)
class Cluster:
    runner: DaskTaskRunner
    sent: Mapping[Path, str]
    """SHA-256 of the files that workers have in their caches; empty where they read the files themselves"""


@contextmanager
def training_cluster(jobs: int, address: str | None, files: Iterable[Path]) -> Iterator[Cluster]:
    """Open a cluster for `jobs` parallel trainings. Without an `address` it is local: a process per job.

    The workers of a cluster at an address, which `find_machine` has checked, get the `files`.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # Dask reports every connection.
    if address is None:
        # The lines of a training go to the server; the terminal shows one line per training.
        environment = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
        with (
            start_local_cluster(jobs, environment) as local,
            DaskTaskRunner(cluster=local) as runner,
        ):
            try:
                yield Cluster(runner, {})
            except BaseException:  # Dask would let the running trainings go on for seconds.
                for process in multiprocessing.active_children():
                    process.kill()
                if flow_run_id := current_flow_run_id():
                    end_task_runs(str(flow_run_id))
                raise
        return
    with send_files(address, files) as sent, DaskTaskRunner(address=address) as runner:
        yield Cluster(runner, sent)


def run_trainings(
    cluster: Cluster, trainings: Sequence[Training]
) -> Iterator[tuple[Training, dict[str, Any] | str]]:
    """Yield each training when it ends, with its row or with the reason why it failed."""
    submitted: dict[Any, Training] = {}
    for training in trainings:
        sent = replace(training, sent=cluster.sent, code=describe_code())
        if not cluster.sent:  # Local workers share the folders, but not the current one.
            pretrained = training.pretrained and training.pretrained.absolute()
            sent = replace(
                training,
                splits=training.splits.absolute(),
                folder=training.folder.absolute(),
                pretrained=pretrained,
            )
        submitted[cluster.runner.submit(train_one, parameters={"training": sent})] = training
    for future in as_completed(list(submitted)):
        yield submitted[future], _read_outcome(future)


def _read_outcome(future: Any) -> dict[str, Any] | str:
    try:
        row = future.result(raise_on_failure=False)
    except FutureCancelledError as error:
        raise RunError("lost the Dask scheduler; the same command goes on where it stopped") from error
    if isinstance(row, dict):
        return row
    if isinstance(row, KilledWorker):
        return "its process was killed again and again, possibly out of memory"
    return str(row)


# `_LineLog` logs what is printed, and also writes it to a file.
@workspace_task(task_run_name="{training.name}", log_prints=False)
def train_one(training: Training) -> Any:
    """Train, evaluate, delete the weights, and return the training's row."""
    return run_training(training)


def run_training(training: Training) -> dict[str, Any]:
    """Train, evaluate, and keep the row in `row.json`; a training that has one is not trained again.

    The row has `val_accuracy`, `best_epoch` and seconds; with `test`, the accuracies as in `evaluate`. Lines
    of the training are printed, and appended to `log.txt`.
    """
    if training.sent:
        if describe_code() != training.code:
            raise RunError("the worker has other code or another PyTorch than the command")
        training = _with_sent_files(training)
    splits, folder = training.splits, training.folder
    torch.set_num_threads(training.config.num_threads)
    folder.mkdir(parents=True, exist_ok=True)
    weights, row_file = folder / "model.safetensors", folder / ROW
    row: dict[str, Any] = read_json(row_file) if row_file.is_file() else {}
    if "test_accuracy" in row or (row and not training.test):
        return row
    with (folder / "log.txt").open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(_LineLog(log)):
        if not (row and weights.is_file()):
            row = train(
                splits,
                weights,
                folder / "history.csv",
                training.config,
                _make_tracker(training, weights),
                progress=lambda *_: stop_if_unwanted(),
                pretrained=training.pretrained,
                until=training.until,
            )
        if training.until is not None and training.until < training.config.epochs:
            return row
        if training.test:
            row |= _evaluate(splits, weights, folder, training.evaluate_config)
            weights.unlink()
    write_json(row_file, row, indent=None)
    return row


def _with_sent_files(training: Training) -> Training:
    """Return the training with the files and the folder in this worker's cache."""
    files = {file: find_file(sha256, file.name) for file, sha256 in training.sent.items()}
    weights = training.config.weights
    initial = training.pretrained / weights if training.pretrained and weights else None
    return replace(
        training,
        splits=files[training.splits],
        folder=cache_folder() / training.folder,
        pretrained=None if initial is None else files[initial].parent,
    )


def _make_tracker(training: Training, weights: Path) -> Tracker | None:
    if training.tracking is None:
        return None
    params = training.tracking.params.model_copy(update={"train": training.config})
    return Tracker(params, weights, group=training.tracking.group, name=training.name)


def _evaluate(splits: Path, weights: Path, folder: Path, config: EvaluateConfig) -> dict[str, float]:
    """Compute the accuracies on validation and test, also without test-time augmentation."""
    metrics_file, predictions = folder / "metrics.json", folder / "predictions.csv"
    evaluate(splits, weights, metrics_file, predictions, config)
    metrics = read_json(metrics_file)
    metrics_file.unlink()
    predictions.unlink()
    return {
        f"{split}_{name}": metrics[split][name]
        for split in ("val", "test")
        for name in ("accuracy", "accuracy_no_tta")
        if name in metrics[split]
    }


class _LineLog(io.TextIOBase):
    """A stream whose lines go to a file and to the log of the task run."""

    def __init__(self, file: io.TextIOBase) -> None:
        self._file, self._unfinished = file, ""
        self._logger = get_run_logger() if TaskRunContext.get() else logging.getLogger(__name__)

    def write(self, text: str) -> int:
        self._file.write(text)
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            self._logger.info("%s", line)
        return len(text)
