"""The local Prefect server, a process of its own: `python -m flows.server.process`.

It ends by itself: when its parent has ended (with the timeout 0), or when no command has used it for a while.
"""

import fcntl
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tasks.processes.process import exit_with_parent

HOST = "127.0.0.1"
POLL_INTERVAL_S = 2.0
SHUTDOWN_TIMEOUT_S = 5


def main(port: int, lock_file: Path, idle_timeout_s: float) -> None:
    if idle_timeout_s:
        threading.Thread(target=_exit_when_idle, args=(lock_file, idle_timeout_s), daemon=True).start()
    else:
        exit_with_parent()
    os.environ["PREFECT__SERVER_FINAL"] = "1"  # as `prefect server start`: no further settings are loaded
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host=HOST,
        port=port,
        log_level="error",
        timeout_keep_alive=5,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,  # a browser keeps its connection open
    )


def _exit_when_idle(lock_file: Path, idle_timeout_s: float) -> None:
    """Commands hold the lock, shared; the kernel releases it when they end, however they end."""
    with lock_file.open("ab") as lock:
        last_use = time.monotonic()
        while time.monotonic() - last_use < idle_timeout_s:
            time.sleep(min(POLL_INTERVAL_S, idle_timeout_s))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                last_use = time.monotonic()
            else:
                fcntl.flock(lock, fcntl.LOCK_UN)
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the exit: the next command waits, and starts another server
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2 * SHUTDOWN_TIMEOUT_S)
        os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
