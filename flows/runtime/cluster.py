"""A Dask cluster that stands: whether its workers have this project, and the splits for them."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from distributed import Client, worker_client
from filelock import FileLock

from tasks.workspace.code import code_sha256
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import atomic_write, hash_file

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    """Put the file onto the cluster, once: it stays there for the next call."""
    with _connect(address) as client:
        name = _dataset_name(sha256)
        if name not in client.list_datasets():
            content = client.scatter(splits.read_bytes(), hash=False)
            client.publish_dataset(content, name=name)
        yield


def fetch_splits(sha256: str, folder: Path) -> tuple[Path, Path]:
    """On a worker: the splits in its cache, fetched if it has none; and `folder` there.

    The cache is `~/.cache/cifarflow`, or what `CIFARFLOW_CACHE` names. `RunError` if the content is another.
    """
    cache = Path(os.environ.get("CIFARFLOW_CACHE", "~/.cache/cifarflow")).expanduser()
    file = cache / f"splits-{sha256}.safetensors"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.is_file() or hash_file(file, "sha256") != sha256:
            with worker_client() as client:
                content = client.get_dataset(_dataset_name(sha256)).result()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise RunError("the splits that arrived are not those that were sent")
            with atomic_write(file) as temp_path:
                temp_path.write_bytes(content)
    return file, cache / folder


def _dataset_name(sha256: str) -> str:
    return f"cifarflow-splits-{sha256}"


def _connect(address: str) -> Client:
    try:
        return Client(address, timeout=CONNECT_TIMEOUT)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"no Dask scheduler at {address}: {reason}") from None
