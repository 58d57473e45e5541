"""Run the local Prefect server as a process of its own: `python -m flows.server.process`.

It ends by itself: when its parent has ended (with the timeout 0), or when no command has used it for a while.
Its environment has the password that Prefect asks for; pages of other origins are turned away here.
"""

import fcntl
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from tasks.processes import exit_with_parent

HOST = "127.0.0.1"
POLL_INTERVAL_S = 2.0
SHUTDOWN_TIMEOUT_S = 5
LOOPBACK_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class LoopbackGuard:
    """ASGI middleware that turns away pages of other origins, from HTTP and WebSockets on every path.

    The request must name this machine as its host, so that a page whose name resolves to 127.0.0.1 gets
    nothing; and a page that asks must come from that very host and port. Any port will do, for those who
    forward one by SSH. No other page may show this one in a frame.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        status = find_refusal(scope["headers"])
        if status is None:
            await self._app(scope, receive, _forbid_frames(send))
        elif scope["type"] == "websocket":
            # The connection is not accepted yet, so this is HTTP's status 403.
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"This server is for its owner's use only.\n"})


def find_refusal(headers: list[tuple[bytes, bytes]]) -> int | None:
    """Return the HTTP status with which to refuse a request that has these headers; None if it may pass."""
    hosts = [value.decode("latin-1").lower() for name, value in headers if name.lower() == b"host"]
    origins = {value.decode("latin-1").lower() for name, value in headers if name.lower() == b"origin"}
    if len(hosts) != 1 or not LOOPBACK_HOST.fullmatch(hosts[0]):
        return 421  # Misdirected Request
    return None if origins <= {f"http://{hosts[0]}", f"https://{hosts[0]}"} else 403


def _forbid_frames(send: Send) -> Send:
    async def send_with_policy(message: Message) -> None:
        if message["type"] == "http.response.start":
            policy = (b"content-security-policy", b"frame-ancestors 'none'")
            message["headers"] = [*message.get("headers", []), policy]
        await send(message)

    return send_with_policy


def main(port: int, lock_file: Path, idle_timeout_s: float) -> None:
    if idle_timeout_s:
        threading.Thread(target=_exit_when_idle, args=(lock_file, idle_timeout_s), daemon=True).start()
    else:
        exit_with_parent()
    os.environ["PREFECT__SERVER_FINAL"] = "1"  # As in `prefect server start`, no further settings are loaded.
    os.umask(0o077)  # Nobody else may read the database, which holds secrets and what runs execute.
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(
        LoopbackGuard(create_app()),
        host=HOST,
        port=port,
        log_level="error",
        timeout_keep_alive=5,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,  # A browser keeps its connection open.
    )


def _exit_when_idle(lock_file: Path, idle_timeout_s: float) -> None:
    """Exit when no command has held the lock for a while.

    Commands share the lock, and the kernel releases it when they end, however they end.
    """
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
        fcntl.flock(lock, fcntl.LOCK_EX)  # The next command waits for this exit, and starts another server.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2 * SHUTDOWN_TIMEOUT_S)
        os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
