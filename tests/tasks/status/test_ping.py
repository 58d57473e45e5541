"""The URL that is called at a run's end, with services that answer, fail, hang and trickle."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tasks.status.ping import FAILURE_URL, SUCCESS_URL, ping
from tasks.status.run_log import RunRecord

TIME = "2026-11-30T02:00:00+00:00"
WELL = RunRecord("retrain", "fox", TIME, TIME, "Skipped", "COMPLETED", "nothing new")
BADLY = replace(WELL, state="Failed", state_type="FAILED", message="no space \udc80")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """Path and body of each call of both URLs, which a service answers; with the status 500 at /500."""
    received: list[tuple[str, str]] = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            received.append((self.path, body))
            self.send_response(500 if self.path == "/500" else 200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv(SUCCESS_URL, f"{url}/well")
        monkeypatch.setenv(FAILURE_URL, f"{url}/badly")
        yield received
        server.shutdown()


def test_each_end_has_its_url(calls: list[tuple[str, str]]) -> None:
    assert [ping(WELL), ping(BADLY)] == ["", ""]
    assert calls == [
        ("/well", "retrain fox: Skipped\nnothing new\n"),
        ("/badly", "retrain fox: Failed\nno space ?\n"),
    ]


def test_run_that_has_not_ended_calls_nothing(calls: list[tuple[str, str]]) -> None:
    for state_type in ("PAUSED", "CANCELLED"):
        assert ping(replace(WELL, state_type=state_type)) == ""
    assert calls == []


def test_url_is_for_retrainings_unless_it_has_a_place_for_the_flow(
    calls: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = replace(WELL, flow="pipeline")
    assert ping(pipeline) == ""
    assert calls == []
    monkeypatch.setenv(SUCCESS_URL, f"{_own_url()}/{{flow}}/x")
    assert [ping(pipeline), ping(WELL)] == ["", ""]
    assert [path for path, _ in calls] == ["/pipeline/x", "/retrain/x"]


def test_nothing_is_called_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUCCESS_URL, raising=False)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("called"))
    assert ping(WELL) == ""


def _own_url() -> str:
    return os.environ[SUCCESS_URL].rpartition("/")[0]


def _hang(connection: socket.socket) -> None:
    """Answer nothing."""


def _trickle(connection: socket.socket) -> None:
    """Answer a byte at a time, within any time-out of the socket."""
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100:
        time.sleep(0.05)
        connection.sendall(bytes([byte]))


def _garble(connection: socket.socket) -> None:
    connection.sendall(b"\x00\xff\n")
    connection.close()


@pytest.mark.parametrize("behave", [_hang, _trickle, _garble])
def test_service_that_does_not_answer_is_one_line_in_time(
    behave: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.status.ping.TIMEOUT_S", 0.3)
    monkeypatch.setattr("tasks.status.ping.TOTAL_TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            kept.append(connection)
            connection.recv(1000)
            with contextlib.suppress(OSError):  # The client has given up.
                behave(connection)

        kept: list[socket.socket] = []
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        monkeypatch.setenv(SUCCESS_URL, f"http://127.0.0.1:{server.getsockname()[1]}/secret")
        started = time.monotonic()
        problem = ping(WELL)
        assert time.monotonic() - started < 5
        for connection in kept:
            connection.close()
    assert problem.startswith(f"{SUCCESS_URL} could not be called: ")
    assert "secret" not in problem
    assert len(problem.splitlines()) == 1


def test_error_of_the_service_is_one_line(
    calls: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SUCCESS_URL, f"{_own_url()}/500")
    assert ping(WELL) == f"{SUCCESS_URL} could not be called: Internal Server Error"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "is not called: it is no http or https URL"),
        ("hc-ping.com/secret", "is not called: it is no http or https URL"),
        ("http://[secret", "is not called: it is no URL"),
        ("http://127.0.0.1:9/secret", "could not be called: [Errno 111] Connection refused"),
        ("http://127.0.0.1:secret/", "could not be called: InvalidURL"),
    ],
)
def test_wrong_url_is_one_line(url: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUCCESS_URL, url)
    assert ping(WELL) == f"{SUCCESS_URL} {reason}"
