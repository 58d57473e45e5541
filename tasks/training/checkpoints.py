"""What a killed training goes on from: its whole state after each epoch, in files."""

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from tasks.workspace.code import code_sha256
from tasks.workspace.files import atomic_write

KEEP_LAST = 2  # of a training: should the newest be damaged, the one before it serves
KEEP_RUNS = 3  # whose checkpoints are kept, the one at work among them
DIGEST_BYTES = 32


def training_fingerprint(splits: Path, config: dict[str, Any], device: torch.device) -> str:
    """Names a training: equal for equal data, parameters, code, PyTorch and kind of device, else another."""
    digest = hashlib.sha256()
    with splits.open("rb") as data:
        digest.update(hashlib.file_digest(data, "sha256").digest())
    made_with = [config, torch.__version__, device.type, code_sha256("train")]
    digest.update(json.dumps(made_with, sort_keys=True).encode())
    return digest.hexdigest()[:16]


class CheckpointStore:
    """The checkpoints of one training, in `folder/key/`; of other trainings there, the oldest are removed."""

    def __init__(self, folder: Path, key: str) -> None:
        self._root = folder
        self._folder = folder / key
        others = (other for other in folder.glob("*/") if other != self._folder)
        for old in sorted(others, key=lambda other: other.stat().st_mtime)[: -(KEEP_RUNS - 1)]:
            shutil.rmtree(old)

    def load_latest(self) -> Any:
        """The newest state that is whole, or None. A damaged one is left aside, and a line says so."""
        for file in self._newest_first():
            stored = file.read_bytes()
            digest, content = stored[:DIGEST_BYTES], stored[DIGEST_BYTES:]
            if hashlib.sha256(content).digest() == digest:
                return torch.load(io.BytesIO(content), weights_only=True)
            print(f"the checkpoint {file} is damaged and left aside")
            file.rename(file.with_suffix(".damaged"))
        return None

    def save(self, epoch: int, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        with atomic_write(self._folder / f"epoch-{epoch:06}.pt") as partial:
            partial.write_bytes(hashlib.sha256(content).digest() + content)
        for old in self._newest_first()[KEEP_LAST:]:
            old.unlink()

    def clear(self) -> None:
        """The training has ended: nobody will go on from here."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._root.is_dir() and not any(self._root.iterdir()):
            self._root.rmdir()

    def _newest_first(self) -> list[Path]:
        return sorted(self._folder.glob("epoch-*.pt"), reverse=True)
