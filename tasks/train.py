"""The stage `train` trains the network, calibrates it, and saves the weights of the best validation epoch."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from tasks.training import ranks
from tasks.training.checkpoints import CheckpointStore, RemoteCheckpoints, training_fingerprint
from tasks.training.compile import Machine, resolve_machine
from tasks.training.metrics import write_history
from tasks.training.network import find_pretrained
from tasks.training.torch_settings import deterministic_algorithms, num_threads
from tasks.training.trainer import Trainer
from tasks.workspace.errors import RunError
from tasks.workspace.files import hash_file
from tasks.workspace.splits import load_splits, save_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.params.train import TrainConfig
    from tasks.tracking import Tracker
    from tasks.training.trainer import ProgressCallback
    from tasks.workspace.splits import Splits


def train(
    splits: Path,
    weights: Path,
    history: Path,
    config: TrainConfig,
    tracker: Tracker | None = None,
    progress: ProgressCallback | None = None,
    pretrained: Path | None = None,
    until: int | None = None,
) -> dict[str, Any]:
    """Write `weights` (safetensors) of the best validation epoch, and `history` (CSV, one row per epoch).

    `progress` receives the fraction done, 0 to 1, and a description; without it, a terminal shows a bar.

    `pretrained` is the folder of the file that `config.weights` names, the weights to start from.

    With `until`, the training stops after that epoch and writes checkpoints only; a later call continues it.

    An interrupted training resumes after its last complete epoch and gives bit-identical files. `RunError` if
    the loss is not finite, if the device runs out of memory, or if one of several processes dies.
    """
    load_splits(splits)  # an error of this file comes before any work
    machine = resolve_machine(config)
    initial = find_pretrained(pretrained, config.weights)
    fingerprint = training_fingerprint(splits, config.model_dump(), machine, initial)
    run = TrainingRun(splits, weights, history, config, machine, initial, fingerprint, until)
    with ranks.join_ranks(config.processes, machine.device, fingerprint, _train, run):
        return _train(run, tracker, progress)


@dataclass(frozen=True)
class TrainingRun:
    """What a training reads and writes, and on what it runs: the same for each of its processes."""

    splits: Path
    weights: Path
    history: Path
    config: TrainConfig
    machine: Machine
    initial: Path | None
    fingerprint: str
    until: int | None


def _train(
    run: TrainingRun, tracker: Tracker | None = None, progress: ProgressCallback | None = None
) -> dict[str, Any]:
    """Train; of several processes, rank 0 alone writes files and logs to W&B."""
    config, device = run.config, torch.device(run.machine.device)
    checkpoints = None
    if ranks.get_rank() == 0:
        checkpoints = _open_checkpoints(run)
    else:
        tracker, progress = None, lambda *_: None
    data = load_splits(run.splits)
    with (
        num_threads(max(1, config.num_threads // config.processes)),
        deterministic_algorithms(device, enabled=config.deterministic),
        _explain_out_of_memory(config.batch_size),
    ):
        trainer = Trainer(data, config, run.machine, run.initial, progress=progress)
        trainer.resume(checkpoints)
        run_config = {"data_md5": data.metadata["data_md5"], **asdict(run.machine)}
        resumes = bool(trainer.history)
        tracked = nullcontext() if tracker is None else tracker.start_run("train", run_config, resume=resumes)
        with tracked as logged:
            if device.type == "cuda":
                trainer.warm_up()
            best = trainer.fit(checkpoints, logged, run.until)
        is_complete = len(trainer.history) == config.epochs
        temperature = trainer.fit_temperature(data) if is_complete else 1.0
    if checkpoints is not None and is_complete:
        save_tensors(run.weights, best.tensors, _describe_weights(run, data, best.epoch, temperature))
        write_history(run.history, trainer.history)
        checkpoints.clear()
        if tracker is not None:
            tracker.link_weights(run.weights)
    return {
        "val_accuracy": best.accuracy,
        "best_epoch": best.epoch,
        "epochs": len(trainer.history),
        "training_s": trainer.training_seconds,
        "set_up_s": trainer.set_up_seconds,
        "warm_up_s": trainer.warm_up_seconds,
    }


def _describe_weights(run: TrainingRun, data: Splits, epoch: int, temperature: float) -> dict[str, Any]:
    """Return the metadata of the weights' file: what they were trained on, and how."""
    metadata = {
        **{key: value for key, value in data.metadata.items() if key != "val_added"},
        "network": run.config.network,
        "image_size": data.image_size,
        "seed": run.config.seed,
        "epochs": run.config.epochs,
        "epoch": epoch,
        "temperature": temperature,
        **asdict(run.machine),
        "train": run.config.model_dump(),
    }
    if run.config.candidates > 1:
        metadata["selection"] = {
            "candidates": run.config.candidates,
            "val_sha256": run.config.candidates_val_sha256,
        }
    if run.initial is not None:
        metadata["pretrained_sha256"] = hash_file(run.initial, "sha256")
    return metadata


@contextmanager
def _explain_out_of_memory(batch_size: int) -> Iterator[None]:
    """Raise a `RunError` that says what to do if the GPU's memory is too small in the block."""
    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError) as error:  # the second: too small for CUDA itself
        if "out of memory" not in str(error) and isinstance(error, torch.AcceleratorError):
            raise
        raise RunError(
            f"out of memory with batch size {batch_size}; lower train.batch_size, "
            "or end what else uses the GPU"
        ) from error


def _open_checkpoints(run: TrainingRun) -> CheckpointStore:
    remote, config = None, run.config
    if config.checkpoint_url:
        remote = RemoteCheckpoints(config.checkpoint_url, run.fingerprint, config.checkpoint_interval_s)
    return CheckpointStore(run.weights.with_name("checkpoints"), run.fingerprint, remote)
