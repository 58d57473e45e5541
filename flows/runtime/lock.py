"""One run at a time in a workspace, which is the current folder."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.workspace.errors import RunError

LOCK_FILE = Path(".cifarflow.lock")
MAX_WAIT_S = 24 * 3600.0


class WorkspaceLockedError(RunError):
    """Another run is at work in the workspace."""


@contextmanager
def workspace_lock(*, wait: bool = False) -> Iterator[None]:
    """Hold the workspace's lock, or raise `BusyError` where another run holds it (with `wait`, after a day).

    The kernel lets go of the lock when its holder ends, however that ends: a lock file that is left over from
    a killed run holds nobody up.
    """
    lock = FileLock(LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = LOCK_FILE.read_text(encoding="utf-8").strip() or "another run"
        if not wait:
            raise WorkspaceLockedError(
                f"{holder} is at work in this folder; try again when it has ended"
            ) from None
        print(f"waiting for {holder} to end")
        try:
            lock.acquire(timeout=MAX_WAIT_S, poll_interval=0.5)
        except Timeout:
            raise WorkspaceLockedError(f"{holder} has been at work in this folder for a day") from None
    except OSError as error:
        raise RunError(f"cannot write {LOCK_FILE}: {error.strerror or error}") from error
    try:
        LOCK_FILE.write_text(f"process {os.getpid()} ({Path(sys.argv[0]).name})\n", encoding="utf-8")
        yield
    finally:
        lock.release()
