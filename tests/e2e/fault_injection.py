"""Faults for the tests: writes and requests that fail."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.run.lock import LOCK_FILE

WRITE_ERRNOS = (errno.ENOSPC, errno.EIO, errno.EACCES)


class WriteFaults:
    """An audit hook, which sees every file that Python opens to write and may let it fail."""

    def __init__(self) -> None:
        self._root = ""
        self._target: str | None = None
        self._errno = 0
        self._opened: list[str] = []
        sys.addaudithook(self._hook)  # for the life of the process

    @contextmanager
    def record(self, root: Path) -> Iterator[list[str]]:
        """Yields the files below `root` that are opened to write, normalized, in order."""
        self._root, self._opened = str(root), []
        try:
            yield self._opened
        finally:
            self._root = ""

    @contextmanager
    def inject(self, root: Path, target: str, number: int) -> Iterator[None]:
        """Let every attempt to write `target` fail with `number`, an errno."""
        self._root, self._target, self._errno = str(root), target, number
        try:
            yield
        finally:
            self._root, self._target = "", None

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._root or event != "open":
            return
        path, mode, flags = arguments
        writes = any(letter in (mode or "") for letter in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
        if not writes or not isinstance(path, (str, bytes, os.PathLike)):
            return
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - resolve() would ask the file system
        if not name.startswith(self._root) or name.endswith(str(LOCK_FILE)):
            return
        kind = _normalize(name.removeprefix(self._root))
        self._opened.append(kind)
        if kind == self._target:
            raise OSError(self._errno, os.strerror(self._errno), name)


def _normalize(name: str) -> str:
    """The same for the same file of another run: without process ids, hashes and random names."""
    parts = [
        "HASH" if len(part) >= 20 or (len(part) == 2 and i > 2) else part
        for i, part in enumerate(name.split("/"))
    ]
    return "/".join(part.replace(f".{os.getpid()}.", ".PID.") for part in parts)


class RequestFaults:
    """Requests of Prefect's client, in its own transport, which may fail."""

    KINDS = (
        httpx.ConnectError("connection refused"),
        httpx.ReadError("connection reset by peer"),
        httpx.ReadTimeout("timed out"),
    )

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.requests: list[str] = []
        self._target: str | None = None
        self._error: Exception | None = None
        send, send_async = httpx.HTTPTransport.handle_request, httpx.AsyncHTTPTransport.handle_async_request

        def handle_request(transport: Any, request: httpx.Request) -> httpx.Response:
            self._check(request)
            return send(transport, request)

        async def handle_async_request(transport: Any, request: httpx.Request) -> httpx.Response:
            self._check(request)
            return await send_async(transport, request)

        patch.setattr(httpx.HTTPTransport, "handle_request", handle_request)
        patch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle_async_request)

    @contextmanager
    def inject(self, target: str, error: Exception) -> Iterator[None]:
        """Let all requests fail from the first one like `target` on: the server is lost for good."""
        self._target, self._error = target, error
        try:
            yield
        finally:
            self._target = self._error = None

    def _check(self, request: httpx.Request) -> None:
        parts = ["ID" if len(part) == 36 else part for part in request.url.path.split("/")]
        kind = f"{request.method} {'/'.join(parts)}"
        self.requests.append(kind)
        if kind == self._target:
            self._target = ""  # every one from now on
        if self._target == "":
            assert self._error is not None
            raise self._error
