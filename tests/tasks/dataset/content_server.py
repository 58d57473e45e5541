"""A local HTTP server that sends one content as a test asks for: whole, in part, slowly, not at all."""

import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ContentServer(ThreadingHTTPServer):
    """Serves `content` under every path, as `answer` says; records the ranges that were requested."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ContentHandler)
        self.content = b""
        self.ranges: list[str | None] = []
        self.answer: Answer = lambda handler, _: handler.send_content()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/cifar.tar?signature=secret"

    def handle_error(self, *_: object) -> None:
        """A client that leaves is no error."""


class ContentHandler(BaseHTTPRequestHandler):
    server: ContentServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range"))
        self.server.answer(self, len(self.server.ranges))

    def log_message(self, *_: Any) -> None:
        pass

    def send_head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send_content(
        self, etag: str = '"one"', content: bytes | None = None, until: int | None = None
    ) -> None:
        """The content, or the range that was requested; with `until`, the connection breaks off there."""
        content = self.server.content if content is None else content
        size = len(content)
        requested, start = self.headers.get("Range"), 0
        if requested and self.headers.get("If-Range") == etag:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            if start >= size:
                self.send_head(416, Content_Range=f"bytes */{size}", Content_Length="0")
                return
            headers = {"Content_Range": f"bytes {start}-{size - 1}/{size}"}
            self.send_head(206, ETag=etag, Content_Length=str(size - start), **headers)
        else:
            self.send_head(200, ETag=etag, Content_Length=str(size))
        self.wfile.write(content[start:until])
        if until is not None:
            self.connection.shutdown(socket.SHUT_RDWR)


Answer = Callable[[ContentHandler, int], None]
"""What to do with a request, given its number from 1 on."""


def respond(status: int, **headers: str) -> Answer:
    return lambda handler, _: handler.send_head(status, Content_Length="0", **headers)


def send(content: bytes) -> Answer:
    return lambda handler, _: handler.send_content(content=content)


def break_off_at(*ends: int) -> Answer:
    """The first requests break off at these bytes; those after them do not."""
    return lambda handler, request: handler.send_content(
        until=ends[request - 1] if request <= len(ends) else None
    )


def trickle(handler: ContentHandler, _: int) -> None:
    handler.send_head(200, Content_Length="1000000")
    for _ in range(100):
        handler.wfile.write(b"x")
        time.sleep(0.02)


def stay_silent(handler: ContentHandler, _: int) -> None:
    handler.send_head(200, Content_Length="1000000")
    time.sleep(1)
