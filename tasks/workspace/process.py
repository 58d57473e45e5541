"""Processes that must not outlive their parent."""

import os
import signal
import threading
import time

POLL_INTERVAL_S = 0.5


def exit_with_parent() -> None:
    """Send this process SIGTERM once its parent has ended, so that nothing runs on unseen after a kill."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_INTERVAL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
