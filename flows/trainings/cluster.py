"""Check that the workers of a running Dask cluster have this project, and send them the splits."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from distributed import Client, Status, Worker, WorkerPlugin, get_worker
from filelock import FileLock

from tasks.params.train import TrainConfig
from tasks.training.compile import Machine, resolve_machine
from tasks.workspace.code import code_sha256
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import atomic_write, cache_folder, hash_file

CONNECT_TIMEOUT = "10s"
CODE_STAGES = ("train", "evaluate")


def describe_code() -> dict[str, str]:
    """Describe what must be equal on a worker for a training to be the same there."""
    return {"code": code_sha256(*CODE_STAGES), "torch": torch.__version__}


def find_machine(config: TrainConfig, address: str | None) -> Machine:
    """Return where a training would run: on the cluster at `address`, whose workers are checked, or here."""
    if config.processes > 1:
        raise InputError("train.processes must be 1 in a sweep or search: a worker of Dask starts no process")
    return resolve_machine(config) if address is None else check_workers(address, config)


def check_workers(address: str, config: TrainConfig) -> Machine:
    """Raise `RunError` unless scheduler and workers have this project's code and PyTorch, and train alike."""
    with _connect(address) as client:
        if not client.scheduler.address.startswith("tls://"):
            print(
                f"warning: whoever reaches {address} can run code on it; docs/scale.md says how to protect it"
            )
        _check_code(client, address)
        machines: dict[str, Any] = client.run(resolve_machine, config, on_error="return")
    # The order is that of what the workers say, so that the message does not depend on their ports.
    (first, expected), *others = sorted(machines.items(), key=lambda item: str(item[1]))
    for worker, machine in ((first, expected), *others):
        if isinstance(machine, BaseException):
            error_type = type(machine) if isinstance(machine, RunError) else RunError
            raise error_type(f"the worker {worker}: {machine}")
        if machine != expected:
            raise RunError(
                f"the worker {first} would train on {expected}, but {worker} on {machine}, and their results "
                "would differ; set train.device and train.fused, or install a C++ compiler there"
            )
    assert isinstance(expected, Machine)
    return expected


def _check_code(client: Client, address: str) -> None:
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
        client.run_on_scheduler(describe_code)  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - whatever its import raises
        raise RunError(
            f"the scheduler at {address} cannot import cifarflow ({error}); install it there"
        ) from None


@contextmanager
def send_files(address: str, files: Iterable[Path]) -> Iterator[dict[Path, str]]:
    """Put files into the cache of every worker that lacks them, also of those that come meanwhile.

    Yields their SHA-256, by which `find_file` finds them there.
    """
    hashes = {file: hash_file(file, "sha256") for file in files}
    plugins = [FilePlugin(sha256, file.name, file.read_bytes()) for file, sha256 in hashes.items()]
    with _connect(address) as client:
        for plugin in plugins:
            client.register_plugin(plugin)
        try:
            yield hashes
        finally:
            with suppress(OSError):  # The scheduler is gone.
                for plugin in plugins:
                    client.unregister_worker_plugin(plugin.name)  # The files stay in the caches.


class FilePlugin(WorkerPlugin):
    """A plugin that writes a file into a worker's cache when it is registered, or when the worker starts."""

    def __init__(self, sha256: str, name: str, content: bytes) -> None:
        self.name = f"cifarflow-{sha256}-{uuid4()}"  # Another command may send the same file.
        self._sha256, self._file_name, self._content = sha256, name, content

    def setup(self, worker: Worker) -> None:  # noqa: ARG002 - Dask's interface
        file = cache_folder() / self._sha256 / self._file_name
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name("lock")):
            if not file.is_file() or hash_file(file, "sha256") != self._sha256:
                with atomic_write(file) as temp_path:
                    temp_path.write_bytes(self._content)


def find_file(sha256: str, name: str) -> Path:
    """Find a file that was sent to this worker. `RunError` if it is not there, or not what was sent."""
    file = cache_folder() / sha256 / name
    if not file.is_file() or hash_file(file, "sha256") != sha256:
        raise RunError(f"{file} is not the file that was sent")
    return file


def stop_if_unwanted() -> None:
    """Raise `RunError` on a worker once nobody waits for its current task, or the scheduler is gone.

    Dask cannot stop a task that runs, which would train on, unseen.
    """
    try:
        worker = get_worker()
    except ValueError:  # This process is no worker.
        return
    task = worker.state.tasks.get(worker.get_current_task())
    if task is None or task.state == "cancelled" or worker.status not in (Status.running, Status.paused):
        raise RunError("stopped: the command that wanted this training is gone, or the scheduler is")


def _connect(address: str) -> Client:
    try:
        return Client(address, timeout=CONNECT_TIMEOUT)  # type: ignore[no-untyped-call]
    # TLS has no certificate, or there is a certificate without TLS.
    except (TypeError, RuntimeError) as error:
        raise InputError(
            f"Dask's configuration does not suit {address}, see docs/scale.md: {error}"
        ) from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"no Dask scheduler at {address}: {reason}") from None
