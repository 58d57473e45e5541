"""Checkpoints are files with the whole state of a training after an epoch, for resuming."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tasks.training.remote_checkpoints import KEEP_LAST, RemoteCheckpoints
from tasks.workspace.code import code_sha256
from tasks.workspace.files import atomic_write, hash_file

KEEP_RUNS = 3  # the number of trainings whose checkpoints are kept, including the current one
DIGEST_BYTES = 32  # a checkpoint file begins with the SHA-256 of the rest


def training_fingerprint(
    splits: Path,
    config: dict[str, Any],
    device: torch.device,
    weights: Path | None = None,
    *,
    fused: bool = False,
) -> str:
    """Compute a hash that is equal for trainings that give the same bytes.

    Such trainings have equal data, parameters, code, PyTorch version and type of device. `weights` is the
    file that the training starts from; `fused` says whether `FusedNet` trains the network.
    """
    machine = [torch.__version__, device.type, fused]
    inputs = [hash_file(splits, "sha256"), config, *machine, code_sha256("train")]
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
