"""A Dask cluster that stands: whether its workers have this project, and the splits for them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from distributed import Client, Worker, WorkerPlugin
from filelock import FileLock

from tasks.workspace.code import code_sha256
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import atomic_write, hash_file

CONNECT_TIMEOUT = "10s"
CODE_STAGES = ("train", "evaluate")


def describe_code() -> dict[str, str]:
    """What must be equal on a worker for a training to be the same there."""
    return {"code": code_sha256(*CODE_STAGES), "torch": torch.__version__}


def check_workers(address: str) -> None:
    """`RunError` unless the scheduler and every worker have this project's code and PyTorch."""
    with _connect(address) as client:
        try:
            found: dict[str, Any] = client.run(describe_code, on_error="return")
        except Exception as error:  # noqa: BLE001 - a scheduler that cannot answer
            raise RunError(f"the cluster at {address} does not answer: {error}") from None
        if not found:
            raise RunError(f"the cluster at {address} has no workers; start some: dask worker {address}")
        expected = describe_code()
        for worker, described in sorted(found.items()):
            if isinstance(described, BaseException):
                raise RunError(f"the worker {worker} cannot import cifarflow ({described}); install it there")
            for what, value in expected.items():
                if described[what] != value:
                    other = f": {described[what]}, here {value}" if what == "torch" else ""
                    raise RunError(f"the worker {worker} has other {what} than this project{other}")
        try:
            client.run_on_scheduler(describe_code)
        except Exception as error:  # noqa: BLE001 - whatever its import raises
            raise RunError(
                f"the scheduler at {address} cannot import cifarflow ({error}); install it there"
            ) from None


@contextmanager
def send_splits(address: str, splits: Path, sha256: str) -> Iterator[None]:
    """Put the file into the cache of every worker that lacks it, also of those that come meanwhile."""
    plugin = SplitsPlugin(sha256, splits.read_bytes())
    with _connect(address) as client:
        client.register_plugin(plugin)
        try:
            yield
        finally:
            client.unregister_worker_plugin(plugin.name)  # the file stays in the caches


class SplitsPlugin(WorkerPlugin):
    """Writes the splits into a worker's cache when it is registered, or when the worker starts."""

    def __init__(self, sha256: str, content: bytes) -> None:
        self.name = f"cifarflow-splits-{sha256}"
        self._sha256, self._content = sha256, content

    def setup(self, worker: Worker) -> None:  # noqa: ARG002 - Dask's interface
        file = _cached_splits(self._sha256)
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            if not file.is_file() or hash_file(file, "sha256") != self._sha256:
                with atomic_write(file) as temp_path:
                    temp_path.write_bytes(self._content)


def find_splits(sha256: str, folder: Path) -> tuple[Path, Path]:
    """On a worker: the splits in its cache, and `folder` there. `RunError` if they are not what was sent.

    The cache is `~/.cache/cifarflow`, or what `CIFARFLOW_CACHE` names.
    """
    file = _cached_splits(sha256)
    if not file.is_file() or hash_file(file, "sha256") != sha256:
        raise RunError(f"{file} is not the file of the splits that was sent")
    return file, file.parent / folder


def _cached_splits(sha256: str) -> Path:
    cache = Path(os.environ.get("CIFARFLOW_CACHE", "~/.cache/cifarflow")).expanduser()
    return cache / f"splits-{sha256}.safetensors"


def _connect(address: str) -> Client:
    try:
        return Client(address, timeout=CONNECT_TIMEOUT)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"no Dask scheduler at {address}: {reason}") from None
