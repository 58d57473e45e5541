"""How processes end: by signals, and with their parent."""

import os
import signal
import threading
import time
from types import FrameType

POLL_INTERVAL_S = 0.5
TERMINATION_SIGNALS = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU")  # SIGHUP: the terminal was closed


def interrupt_on_termination() -> None:
    """Let termination signals end this process as Ctrl-C does: it says so, and releases its locks.

    A signal that is ignored, as SIGHUP by `nohup`, stays ignored.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for name in TERMINATION_SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


def exit_with_parent(parent: int | None = None) -> None:
    """Send this process SIGTERM once its parent has ended, so that nothing runs on unseen after a kill.

    `parent` is its process id, where it may have ended before this is called.
    """
    parent = parent or os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_INTERVAL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
