"""The stage `train` trains the network and saves the weights of the best validation epoch."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tasks.training.checkpoints import CheckpointStore, training_fingerprint
from tasks.training.device import resolve_device
from tasks.training.distributed import join_ranks
from tasks.training.fused_operators import resolve_fused
from tasks.training.history import write_history
from tasks.training.pretrained import find_pretrained
from tasks.training.remote_checkpoints import RemoteCheckpoints
from tasks.training.trainer import Trainer
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import hash_file
from tasks.workspace.splits import load_splits, save_tensors
from tasks.workspace.torch_settings import deterministic_algorithms, num_threads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.params.train import TrainConfig
    from tasks.tracking import Tracker
    from tasks.training.distributed import Ranks
    from tasks.training.progress import ProgressCallback
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
    run = TrainingRun(splits, weights, history, config, pretrained, until)
    with join_ranks(config.processes, resolve_device(config.device), _train, (run,)) as ranks:
        return _train(ranks, run, tracker, progress)


@dataclass(frozen=True)
class TrainingRun:
    """What a training reads and writes: the same for each of its processes."""

    splits: Path
    weights: Path
    history: Path
    config: TrainConfig
    pretrained: Path | None
    until: int | None


def _train(
    ranks: Ranks, run: TrainingRun, tracker: Tracker | None = None, progress: ProgressCallback | None = None
) -> dict[str, Any]:
    """Train as one of several processes. Rank 0 alone writes files, logs to W&B and shows progress."""
    if ranks.rank:
        tracker, progress = None, lambda *_: None
    config = run.config
    data = load_splits(run.splits)
    device = ranks.place(resolve_device(config.device))
    fused = resolve_fused(config, device)
    if len(data.val.labels) < ranks.world_size:
        raise InputError(
            f"{len(data.val.labels)} validation images are too few for {ranks.world_size} processes"
        )
    initial = find_pretrained(run.pretrained, config.weights)
    fingerprint = training_fingerprint(run.splits, config.model_dump(), device, initial, fused=fused)
    ranks.check_equal(fingerprint)
    checkpoints = None if ranks.rank else _open_checkpoints(run.weights, fingerprint, config)
    with (
        num_threads(max(1, config.num_threads // ranks.world_size)),
        deterministic_algorithms(device, enabled=config.deterministic),
        _explain_out_of_memory(config.batch_size),
    ):
        trainer = Trainer(data, config, device, initial, ranks, progress=progress, fused=fused)
        trainer.resume(checkpoints)
        run_config = {"data_md5": data.metadata["data_md5"], "device": device.type, "fused": fused}
        resumes = bool(trainer.history)
        with tracker.start_run("train", run_config, resume=resumes) if tracker else nullcontext() as logged:
            if device.type == "cuda":
                trainer.warm_up()
            best = trainer.fit(checkpoints, logged, run.until)
    if checkpoints is not None and len(trainer.history) == config.epochs:
        save_tensors(run.weights, best.tensors, _describe_weights(run, data, trainer, initial))
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


def _describe_weights(
    run: TrainingRun, data: Splits, trainer: Trainer, initial: Path | None
) -> dict[str, Any]:
    """Return the metadata of the weights' file: what they were trained on, and how."""
    assert trainer.best is not None
    metadata = {
        **{key: data.metadata[key] for key in ("classes", "mean", "std", "dataset", "data_md5")},
        "network": run.config.network,
        "image_size": data.image_size,
        "seed": run.config.seed,
        "epochs": run.config.epochs,
        "epoch": trainer.best.epoch,
        "device": trainer.device.type,
        "fused": trainer.fused,
        "train": run.config.model_dump(),
    }
    if run.config.candidates > 1:
        metadata["selection"] = {
            "candidates": run.config.candidates,
            "val_sha256": run.config.candidates_val_sha256,
        }
    if initial is not None:
        metadata["pretrained_sha256"] = hash_file(initial, "sha256")
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


def _open_checkpoints(weights: Path, fingerprint: str, config: TrainConfig) -> CheckpointStore:
    remote = None
    if config.checkpoint_url:
        remote = RemoteCheckpoints(config.checkpoint_url, fingerprint, config.checkpoint_interval_s)
    return CheckpointStore(weights.with_name("checkpoints"), fingerprint, remote)
