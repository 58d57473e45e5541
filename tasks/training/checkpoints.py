"""Checkpoints are files with the whole state of a training after an epoch, for resuming.

`RemoteCheckpoints` copies them to a URL, so that a training outlives the machine it runs on.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import threading
import time
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import fsspec
import torch

from tasks.workspace.code import code_sha256
from tasks.workspace.errors import InputError
from tasks.workspace.files import atomic_write, hash_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tasks.training.compile import Machine

TIMEOUT_S = 600.0  # for one download or deletion as a whole; some file systems would wait forever
KEEP_LAST = 2  # the number of checkpoints kept: if the newest is corrupt, the previous one is used
KEEP_RUNS = 3  # the number of trainings whose checkpoints are kept, including the current one
DIGEST_BYTES = 32  # a checkpoint file begins with the SHA-256 of the rest


def training_fingerprint(
    splits: Path, config: dict[str, Any], machine: Machine, weights: Path | None = None
) -> str:
    """Compute a hash that is equal for trainings that give the same bytes.

    Such trainings have equal data, parameters, code, PyTorch version and machine. `weights` is the file that
    the training starts from.
    """
    data = hash_file(splits, "sha256")
    inputs = [data, config, torch.__version__, *astuple(machine), code_sha256("train")]
    if weights is not None:
        inputs.append(hash_file(weights, "sha256"))
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


class CheckpointStore:
    """The store holds the checkpoints of one training, in `root/fingerprint/`.

    When a store is opened, checkpoints of other trainings in `root` are deleted, oldest first, until
    `KEEP_RUNS` trainings are left. `remote` holds copies of this training's checkpoints.
    """

    def __init__(self, root: Path, fingerprint: str, remote: RemoteCheckpoints | None = None) -> None:
        self._root, self._remote = root, remote
        self._folder = root / fingerprint
        others = (other for other in root.glob("*/") if other != self._folder)
        for old in sorted(others, key=lambda other: other.stat().st_mtime)[: -(KEEP_RUNS - 1)]:
            shutil.rmtree(old)

    def load_latest(self, check: Callable[[Any], None] = lambda _: None) -> Any:
        """Return the newest state that is intact and that `check` accepts; None if there is none.

        `check` raises any exception if a state does not belong to this training: anybody who can write to the
        URL may have put a file there. A checkpoint that is not accepted is renamed, and a line is printed.
        """
        if self._remote is not None:
            self._remote.download(self._folder)
        for file in self._newest_first():
            stored = file.read_bytes()
            digest, content = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
            if hashlib.sha256(content).digest() == digest:
                try:
                    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                    check(state)
                except (MemoryError, torch.OutOfMemoryError):
                    raise  # the checkpoint may be intact
                except Exception:  # noqa: BLE001, S110 - a file with a valid hash may still hold anything
                    pass
                else:
                    return state
            print(f"skipping corrupt checkpoint {file}")
            file.rename(file.with_suffix(".corrupt"))
        others = sum(folder != self._folder for folder in self._root.glob("*/"))
        if others:
            trainings = f"{others} other training{'s' if others > 1 else ''}"
            reason = "whose data, parameters, code or machine differ"
            print(f"skipping checkpoints in {self._root} of {trainings}, {reason}")
        return None

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        """Write the state after `epoch`, begin to upload it, and delete all but the last checkpoints."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        name, stored = f"epoch-{epoch:06}.pt", hashlib.sha256(content).digest() + content
        with atomic_write(self._folder / name) as temp_path:
            temp_path.write_bytes(stored)
        if self._remote is not None:
            self._remote.upload(name, stored)
        for old in self._newest_first()[KEEP_LAST:]:
            old.unlink()

    def clear(self) -> None:
        """Delete this training's checkpoints, once it has finished."""
        if self._remote is not None:
            self._remote.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._root.is_dir() and not any(self._root.iterdir()):
            self._root.rmdir()

    def _newest_first(self) -> list[Path]:
        return sorted(self._folder.glob("epoch-*.pt"), reverse=True)


class RemoteCheckpoints:
    """The copies of one training's checkpoints are in `url/fingerprint/`.

    The URL may be any that fsspec knows; `InputError` for others. A thread uploads the newest checkpoint,
    at most one per `interval_s`. The training neither waits for an upload nor fails with it: one line is
    printed for what cannot be uploaded, downloaded or deleted.
    """

    def __init__(self, url: str, fingerprint: str, interval_s: float) -> None:
        try:
            self._fs, root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise InputError(f"train.checkpoint_url: {' '.join(str(error).split())}") from error
        self._folder = f"{root.rstrip('/')}/{fingerprint}"
        self._interval_s = interval_s
        self._started = -math.inf
        self._thread: threading.Thread | None = None

    def upload(self, name: str, content: bytes) -> None:
        """Begin to upload the checkpoint file `name`, unless it is too early or an upload is in progress."""
        if time.monotonic() - self._started < self._interval_s or self._is_uploading():
            return
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._upload, args=(name, content), daemon=True)
        self._thread.start()

    def download(self, folder: Path) -> None:
        """Download the checkpoints that are newer than those in `folder`."""
        newest = max((file.name for file in folder.glob("epoch-*.pt")), default="")

        def fetch() -> None:
            for file in self._newest_first():
                name = file.rsplit("/", 1)[-1]
                if name > newest:
                    content = self._fs.cat_file(file)
                    with atomic_write(folder / name) as temp_path:
                        temp_path.write_bytes(content)

        _call(fetch, "no checkpoint could be read from train.checkpoint_url")

    def clear(self) -> None:
        """Delete the copies, once the training has finished."""

        def delete() -> None:
            if self._thread is not None:
                self._thread.join()
            if self._fs.exists(self._folder):
                self._fs.rm(self._folder, recursive=True)

        _call(delete, "the checkpoints at train.checkpoint_url could not be deleted")

    def _is_uploading(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _upload(self, name: str, content: bytes) -> None:
        try:
            if self._folder.startswith("/"):  # an object store needs no folders, and might create a bucket
                self._fs.makedirs(self._folder, exist_ok=True)
            self._fs.pipe_file(f"{self._folder}/{name}", content)
            for old in self._newest_first()[KEEP_LAST:]:
                self._fs.rm_file(old)
        except Exception as error:  # noqa: BLE001 - the training goes on, and the next checkpoint is tried
            print(f"{name} could not be written to train.checkpoint_url: {_describe(error)}")

    def _newest_first(self) -> list[str]:
        self._fs.invalidate_cache()
        return sorted(map(str, self._fs.glob(f"{self._folder}/epoch-*.pt")), reverse=True)


def _call(function: Callable[[], None], problem: str) -> None:
    """Call the function; print a line if it fails or does not return within `TIMEOUT_S`."""
    errors: list[str] = []

    def run() -> None:
        try:
            function()
        except Exception as error:  # noqa: BLE001 - each file system raises its own; the training goes on
            errors.append(_describe(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    if thread.is_alive():
        print(f"{problem}: no answer within {TIMEOUT_S:.0f} s")
    elif errors:
        print(f"{problem}: {errors[0]}")


def _describe(error: Exception) -> str:
    """Return the type of the error only: its text may hold the URL, and the URL may hold a secret."""
    return type(error).__name__
