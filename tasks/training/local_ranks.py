"""The other ranks of a training on this machine: processes that rank 0 starts, watches and ends.

`torchrun` would start rank 0 as well, away from the flow that it reports to; `multiprocessing` starts no
process in a Dask worker, which is a daemon, and imports the calling program again.
"""

from __future__ import annotations

import hmac
import os
import pickle
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
import torch.distributed as dist
from torch.distributed import FileStore  # type: ignore[attr-defined]

from tasks.processes import describe_exit, exit_with_parent, python_path, set_environment
from tasks.workspace.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO, Self

    from torch._C._distributed_c10d import Store

LOOPBACK = "127.0.0.1"
POLL_INTERVAL_S = 0.05
FAILURE_TIMEOUT_S = 5.0  # for a rank to end once its connection is gone
EXIT_TIMEOUT_S = 10.0  # for a rank to end once its work is done
LOST_RANK = 75  # exit code of a rank that ends because another one did
COMMAND = "from tasks.training.local_ranks import run_local_rank; run_local_rank()"


class LocalRanks:
    """Ranks 1 to `world_size - 1`: a process each, in which `function(rank, store, *arguments)` is called.

    They end with the `with` block, and with this process, also if it is killed.
    """

    def __init__(self, world_size: int, function: Callable[..., None], arguments: tuple[object, ...]) -> None:
        self._world_size, self._function, self._arguments = world_size, function, arguments
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._errors: dict[int, IO[bytes]] = {}

    def __enter__(self) -> Self:
        # What a rank finds in the store it trusts, and a store that listens would take it from every user.
        self._folder = tempfile.TemporaryDirectory(prefix="cifarflow-ranks-")  # closed to other users
        file = str(Path(self._folder.name) / "store")
        self._store = FileStore(file, self._world_size)
        try:
            for rank in range(1, self._world_size):
                self._start(rank, file)
        except BaseException:
            self._end(0)
            raise
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """Wait for the ranks to end; after an error, kill them."""
        self._end(EXIT_TIMEOUT_S if error_type is None else 0)

    def _start(self, rank: int, file: str) -> None:
        call = (file, self._world_size, os.getpid(), rank, self._function, self._arguments)
        self._errors[rank] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in _end
        with tempfile.TemporaryFile() as content:
            content.write(pickle.dumps(call))
            content.seek(0)
            self._processes[rank] = subprocess.Popen(  # noqa: S603 - no argument from outside
                [sys.executable, "-P", "-c", COMMAND],
                env=os.environ | {"PYTHONPATH": python_path()},
                stdin=content,
                stdout=subprocess.DEVNULL,
                stderr=self._errors[rank],
                start_new_session=True,  # Ctrl-C is for rank 0, which ends the others
            )

    def _end(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        for process in self._processes.values():
            try:
                process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for errors in self._errors.values():
            errors.close()
        self._folder.cleanup()

    def wait_until_ready(self) -> Store:
        """The store in which the ranks meet, once all are there. `RunError` if one ends before."""
        ready = [_ready_key(rank) for rank in self._processes]
        while not self._store.check(ready):
            if self.has_failed():
                raise RunError(self.describe_failure())
            time.sleep(POLL_INTERVAL_S)
        return self._store

    def has_failed(self) -> bool:
        return any(process.poll() for process in self._processes.values())

    def describe_failure(self) -> str:
        """Which rank ended and why, in one line."""
        deadline = time.monotonic() + FAILURE_TIMEOUT_S
        while time.monotonic() < deadline:
            for rank, process in self._processes.items():
                code = process.poll()
                if code and code != LOST_RANK:
                    return f"rank {rank} {describe_exit(code, self._errors[rank])}"
            time.sleep(POLL_INTERVAL_S)
        return "the connection to another rank was lost"


def run_local_rank() -> None:
    """What the process of a rank does: join rank 0, whose process has written the call to standard input."""
    file, world_size, parent, rank, function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 - from rank 0
    exit_with_parent(parent)
    with loopback_only():
        store = FileStore(file, world_size)
        store.set(_ready_key(rank), "")
        function(rank, store, *arguments)


def check_connections(rank: int, world_size: int, store: Store) -> None:
    """`RunError` unless at the other end of every connection is the rank that belongs there.

    Gloo takes whoever connects first for a rank, from any user of the machine. So each two ranks exchange a
    digest of a secret, which only they can read in the store. NCCL has a secret of its own there.
    """
    if rank == 0:
        store.set("secret", secrets.token_hex())
    secret = store.get("secret")

    def digest(sender: int, receiver: int) -> list[int]:
        return list(hmac.digest(secret, f"{sender} {receiver}".encode(), "sha256"))

    others = range(world_size)
    sent = torch.tensor([digest(rank, other) for other in others], dtype=torch.uint8)
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    if received.tolist() != [digest(other, rank) for other in others]:
        raise RunError("another process connected in the place of a rank; is somebody else on this machine?")


@contextmanager
def loopback_only() -> Iterator[None]:
    """Let gloo and NCCL listen on the loopback interface alone; it has another name on another system."""
    interface = next(
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(address.address == LOOPBACK for address in addresses)
    )
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    with set_environment(dict.fromkeys(names, interface)):
        yield


def _ready_key(rank: int) -> str:
    return f"ready-{rank}"
