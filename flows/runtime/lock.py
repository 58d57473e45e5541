"""The lock of the workspace (the current directory): one run at a time."""

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
    """Another run holds the workspace's lock."""


@contextmanager
def workspace_lock(*, wait: bool = False) -> Iterator[None]:
    """Hold the lock; `WorkspaceLockedError` if another run holds it, with `wait` after a day.

    The OS releases the lock when the process exits, however it exits: a lock file left by a killed run does
    not block the next one.
    """
    lock = FileLock(LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = LOCK_FILE.read_text(encoding="utf-8").strip() or "another run"
        if not wait:
            raise WorkspaceLockedError(
                f"{holder} is running in this directory; try again when it has finished"
            ) from None
        print(f"waiting for {holder} to finish")
        try:
            lock.acquire(timeout=MAX_WAIT_S, poll_interval=0.5)
        except Timeout:
            raise WorkspaceLockedError(f"{holder} has been running in this directory for a day") from None
    except OSError as error:
        raise RunError(f"cannot write {LOCK_FILE}: {error.strerror or error}") from error
    try:
        LOCK_FILE.write_text(f"process {os.getpid()} ({Path(sys.argv[0]).name})\n", encoding="utf-8")
        yield
    finally:
        lock.release()
