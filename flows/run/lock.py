"""Lock the workspace, which is the current directory: one run at a time may work in it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.workspace.errors import RunError

LOCK_FILE = Path(".cifarflow.lock")
MAX_WAIT_S = 24 * 3600.0


class WorkspaceLockedError(RunError):
    """Another run holds the workspace's lock."""


@contextmanager
def workspace_lock(*, wait: bool = False, flow_run_id: str = "") -> Iterator[str]:
    """Hold the lock; `WorkspaceLockedError` if another run holds it, with `wait` after a day.

    The OS releases the lock when the process exits, however it exits: a lock file left by a killed run does
    not block the next one, which gets the `flow_run_id` of the killed one.
    """
    lock = FileLock(LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = read_holder() or "another run"
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
    holder = f"process {os.getpid()} ({Path(sys.argv[0]).name})"
    try:
        killed = _read_lines()[1]
        LOCK_FILE.write_text(f"{holder}\n{flow_run_id or killed}\n", encoding="utf-8")
        yield killed
    finally:
        if flow_run_id:
            with suppress(OSError):  # The next run then asks about a flow run that has ended.
                LOCK_FILE.write_text(f"{holder}\n", encoding="utf-8")
        lock.release()


def read_holder() -> str:
    """Return the process that holds the lock, or held it last; empty if there was none."""
    return _read_lines()[0]


def _read_lines() -> list[str]:
    """Return the lock's holder, and the id of its flow run if it was killed or still runs."""
    text = LOCK_FILE.read_text(encoding="utf-8", errors="replace") if LOCK_FILE.is_file() else ""
    return [*text.splitlines(), "", ""][:2]
