"""Lock the workspace, which is the current directory: one run at a time may work in it."""

import datetime as dt
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.workspace.errors import RunError

LOCK_FILE = Path(".cifarflow.lock")
MAX_WAIT_S = 24 * 3600.0
GLANCE_S = 0.1
"""time for which a command that only asks who holds the lock may keep a run from taking it"""


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
        lock.acquire(timeout=GLANCE_S)
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


@dataclass(frozen=True)
class LockState:
    """Who works in the workspace, or has worked there last."""

    holder: str
    """the process that holds the lock, or held it last; empty if there was none"""
    is_held: bool
    since: dt.datetime | None
    """when the holder took the lock; None if nobody did"""
    killed: bool
    """whether the last holder was killed in a flow run, which no other has ended since"""


def read_lock() -> LockState:
    """Look at the lock without taking it from a run."""
    try:
        descriptor = os.open(LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return LockState("", is_held=False, since=None, killed=False)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        is_held = False
    except BlockingIOError:
        is_held = True
    finally:
        since = dt.datetime.fromtimestamp(os.fstat(descriptor).st_mtime, dt.UTC)
        os.close(descriptor)
    holder, flow_run_id = _read_lines()
    return LockState(holder, is_held, since, killed=bool(flow_run_id) and not is_held)


def read_holder() -> str:
    """Return the process that holds the lock, or held it last; empty if there was none."""
    return _read_lines()[0]


def _read_lines() -> list[str]:
    """Return the lock's holder, and the id of its flow run if it was killed or still runs."""
    text = LOCK_FILE.read_text(encoding="utf-8", errors="replace") if LOCK_FILE.is_file() else ""
    return [*text.splitlines(), "", ""][:2]
