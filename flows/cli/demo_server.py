"""The demo's web server, which serves its user only, and the private folder of its files.

What is uploaded, and what may be asked of the model, is the user's own: whoever asks must know the token in
the printed address and be no page of another origin.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from flows.server.process import HOST, LoopbackGuard
from tasks.workspace.errors import InputError

FOLDER_PREFIX = "cifarflow-demo-"
MAX_UPLOAD_BYTES = 50 << 20
MAX_OTHER_BYTES = 1 << 20  # A request may have so much beside the file.
SHUTDOWN_TIMEOUT_S = 3  # A page keeps a connection open.

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a temporary folder that only this user can enter, and delete it at the end.

    After a crash, the next demo deletes it. A demo holds a lock on its folder, which the kernel releases when
    the demo ends, however it ends.
    """
    _delete_leftovers()
    while True:
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # Another demo may have deleted it as a leftover before it was locked.
            break
        os.close(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        if folder.exists():
            print(f"could not delete {folder}, which holds uploaded images")


def _delete_leftovers() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):  # The folder is another user's, or it is gone.
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
            finally:
                os.close(lock)


class TokenGuard:
    """ASGI middleware that demands the token as the first part of the path, and bounds a request's size."""

    def __init__(self, app: App, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif not secrets.compare_digest(_first_part(scope["path"]), self._token):
            await _refuse(send, 401, "Open the address that `cifarflow demo` has printed; it holds a token.")
        elif _declared_bytes(scope) > MAX_UPLOAD_BYTES + MAX_OTHER_BYTES:
            await _refuse(send, 413, f"An image may have {MAX_UPLOAD_BYTES >> 20} MiB.")
        else:
            await _BoundedRequest(receive, send).run(self._app, scope)


class _BoundedRequest:
    """A request whose size nobody declared. What exceeds the limit is not read."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._num_bytes = 0
        self._started = False

    @property
    def _is_too_large(self) -> bool:
        return self._num_bytes > MAX_UPLOAD_BYTES + MAX_OTHER_BYTES

    async def run(self, app: App, scope: Message) -> None:
        try:
            await app(scope, self.receive, self.send)
        except Exception:
            if not self._is_too_large:
                raise
        if self._is_too_large and not self._started:
            await _refuse(self._send, 413, f"An image may have {MAX_UPLOAD_BYTES >> 20} MiB.")

    async def receive(self) -> Message:
        message = await self._receive()
        self._num_bytes += len(message.get("body", b""))
        return {"type": "http.disconnect"} if self._is_too_large else message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self._is_too_large:
                return
            self._started = True
            # Links to elsewhere must not tell the token.
            message["headers"] = [*message.get("headers", []), (b"referrer-policy", b"same-origin")]
        if self._started:
            await self._send(message)


def _first_part(path: str) -> bytes:
    return f"{path}/".split("/")[1].encode(errors="replace")


def _declared_bytes(scope: Message) -> int:
    """Return the size that the request declares; 0 if it declares none, or one that is no number."""
    value = next((value for name, value in scope["headers"] if name.lower() == b"content-length"), b"")
    return int(value) if value.isdigit() and len(value) < 20 else 0


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})


def serve(mount: Callable[[FastAPI, str], object], port: int | None) -> None:
    """Serve what `mount` puts at a path of the application, until Ctrl-C; the address holds a new token.

    The command line turns SIGTERM into Ctrl-C. `InputError` if the port is in use.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port or 0))
            listener.listen(128)
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise InputError(f"{HOST}:{port} {reason}; choose another --port") from error
        token = secrets.token_hex(16)
        app = FastAPI(openapi_url=None)
        mount(app, f"/{token}")
        config = uvicorn.Config(
            LoopbackGuard(TokenGuard(app, token)),
            log_level="error",
            ws="none",
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        )
        print(
            f"Open http://{HOST}:{listener.getsockname()[1]}/{token}/ in a browser. Stop with Ctrl-C.",
            flush=True,
        )
        uvicorn.Server(config).run(sockets=[listener])
