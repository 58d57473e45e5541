"""These functions decide how the project's processes start and end: by signals, and with their parent."""

import ctypes
import os
import pwd
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import IO

from tasks.workspace.code import ROOT

POLL_INTERVAL_S = 0.5
PR_SET_PDEATHSIG = 1  # as in <linux/prctl.h>
TERMINATION_SIGNALS = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU")  # SIGHUP comes when the terminal is closed

REPOSITORY_VARIABLES = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_NAMESPACE", "GIT_PREFIX"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH"),
    *("GIT_SHALLOW_FILE", "GIT_GRAFT_FILE", "GIT_REPLACE_REF_BASE"),
    *("GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS"),
)
"""variables by which a shell or a hook makes Git use another repository than the current folder's"""


def normalize_environment() -> None:
    """Set environment variables on which libraries rely, for this process and those that it starts.

    Git and DVC then use the repository of the current folder. In a container, a user id may have neither a
    name, which DVC and PyTorch need, nor a home directory, for which Docker sets `/`.
    """
    for name in REPOSITORY_VARIABLES:
        os.environ.pop(name, None)
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", f"uid-{os.getuid()}")
        os.environ.setdefault("HOME", "/")


def interrupt_on_termination() -> None:
    """Let termination signals end this process as Ctrl-C does, with a message and without leaving locks.

    A signal that is ignored, such as SIGHUP under `nohup`, stays ignored.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for name in TERMINATION_SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


def exit_with_parent(parent: int | None = None) -> None:
    """Send this process SIGTERM once its parent has ended, so that nothing goes on unseen after a kill.

    `parent` is the parent's process id, needed if the parent may have ended before this call.
    """
    parent = parent or os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_INTERVAL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def kill_with_parent(parent: int) -> None:
    """On Linux, kill this process when the thread of `parent` that started it ends, even if suspended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def set_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block, and for the processes that are started in it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def python_path() -> str:
    """Return a `PYTHONPATH` with which a process runs this project's code in any working directory."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def describe_exit(code: int, errors: IO[bytes]) -> str:
    """Say in one line why a process ended unexpectedly, from its exit code and its standard error."""
    if code < 0:
        reason = ", possibly out of memory" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{reason}"
    errors.seek(0)
    lines = errors.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return f"failed with exit code {code}: {last}"
