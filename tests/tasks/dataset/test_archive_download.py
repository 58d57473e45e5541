import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.dataset import archive
from tasks.dataset.archive import DownloadError, DownloadLimits, ResumableDownload
from tasks.workspace.errors import RunError
from tests.tasks.dataset.content_server import (
    Answer,
    ContentHandler,
    ContentServer,
    break_off_at,
    respond,
    stay_silent,
    trickle,
)

CONTENT = bytes(range(251)) * 1_200
LIMITS = DownloadLimits(timeout_s=20.0, min_speed_kb_per_s=0.0, max_attempts=3, reserve_bytes=0)


@pytest.fixture(autouse=True)
def staging(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: ContentServer) -> Path:
    monkeypatch.setattr(archive, "BACKOFF_S", 0.001)
    server.content = CONTENT
    return tmp_path


def download(url: str, staging: Path, **changes: Any) -> bytes:
    return ResumableDownload(url, staging, replace(LIMITS, **changes)).run().read_bytes()


def test_download_interrupted_resumes_at_its_offset(
    server: ContentServer, staging: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer = break_off_at(100_000, 200_000)
    assert download(server.url, staging) == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1] == "connection lost; retrying"
    assert "resuming at byte 200,000" in printed.out
    assert "secret" not in printed.out + printed.err


def test_download_killed_is_resumed_by_the_next_run(server: ContentServer, staging: Path) -> None:
    def stall(handler: ContentHandler, _: int) -> None:
        handler.send_head(200, ETag='"one"', Content_Length=str(len(CONTENT)))
        handler.wfile.write(CONTENT[:150_000])
        time.sleep(10)

    server.answer = stall
    program = (
        "from pathlib import Path; from tasks.dataset.archive import DownloadLimits, ResumableDownload;"
        "limits = DownloadLimits(30.0, 0.0, 1, 0);"
        f"ResumableDownload({server.url!r}, Path({str(staging)!r}), limits).run()"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            deadline = time.monotonic() + 30
            while not any(file.stat().st_size >= 150_000 for file in staging.glob("*.partial")):
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
    server.answer = lambda handler, _: handler.send_content()
    assert download(server.url, staging) == CONTENT
    assert server.ranges == [None, "bytes=150000-"]


def test_download_complete_file_is_not_sent_again(server: ContentServer, staging: Path) -> None:
    for _ in range(2):
        assert download(server.url, staging) == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT)}-"]


def test_download_changed_content_restarts(server: ContentServer, staging: Path) -> None:
    other = CONTENT[::-1]

    def change(handler: ContentHandler, request: int) -> None:
        if request == 1:
            handler.send_content(until=100_000)
        else:
            handler.send_content(etag='"two"', content=other)

    server.answer = change
    assert download(server.url, staging) == other


def test_download_without_ranges_restarts(server: ContentServer, staging: Path) -> None:
    def ignore_range(handler: ContentHandler, request: int) -> None:
        del handler.headers["Range"]
        handler.send_content(until=100_000 if request == 1 else None)

    server.answer = ignore_range
    assert download(server.url, staging) == CONTENT


@pytest.mark.parametrize(
    "second",
    [
        lambda handler, _: handler.send_head(416, Content_Range="bytes */7", Content_Length="0"),
        lambda handler, _: handler.send_head(206, Content_Range="bytes 0-6/7", Content_Length="0"),
    ],
    ids=["length changed", "wrong range"],
)
def test_download_wrong_range_restarts(server: ContentServer, staging: Path, second: Answer) -> None:
    def answer(handler: ContentHandler, request: int) -> None:
        (second if request == 2 else break_off_at(100_000))(handler, request)

    server.answer = answer
    assert download(server.url, staging) == CONTENT
    assert server.ranges == [None, "bytes=100000-", None]


def test_download_corrupt_state_restarts(server: ContentServer, staging: Path) -> None:
    server.answer = break_off_at(1000)
    with pytest.raises(DownloadError, match="connection lost"):
        download(server.url, staging, max_attempts=1)
    (state,) = staging.glob("*.json")
    state.write_text("{")
    assert download(server.url, staging) == CONTENT
    assert server.ranges == [None, None]


@pytest.mark.parametrize(
    ("answer", "reason", "requests"),
    [
        (respond(404), "responded 404 Not Found", 1),
        (respond(503), "responded 503 Service Unavailable", 3),
        (trickle, "too slow: 0 kB/s", 1),
        (stay_silent, "timed out", 3),
        (break_off_at(0, 0, 0), "connection lost", 3),
    ],
)
def test_download_failing_server_raises_after_retries(
    server: ContentServer, staging: Path, answer: Answer, reason: str, requests: int
) -> None:
    server.answer = answer
    with pytest.raises(DownloadError, match=rf"^{reason}$"):
        download(server.url, staging, timeout_s=0.2, min_speed_kb_per_s=100.0)
    assert len(server.ranges) == requests


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x.tar", "http://no-such-host.invalid/x.tar"])
def test_download_unreachable_host_raises(url: str, staging: Path) -> None:
    with pytest.raises(DownloadError, match="no connection"):
        download(url, staging)


@pytest.mark.parametrize(
    ("retry_after", "expected_s"), [("7", 7.0), ("86400", 60.0), ("soon", 0.0), (None, 0.0)]
)
def test_download_waits_as_long_as_the_server_asks(
    server: ContentServer,
    staging: Path,
    monkeypatch: pytest.MonkeyPatch,
    retry_after: str | None,
    expected_s: float,
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(archive, "time", SimpleNamespace(sleep=waits.append, monotonic=time.monotonic))
    headers = {"Retry_After": retry_after} if retry_after else {}

    def answer(handler: ContentHandler, request: int) -> None:
        (respond(503, **headers) if request == 1 else break_off_at())(handler, request)

    server.answer = answer
    assert download(server.url, staging) == CONTENT
    assert waits == [expected_s]


def test_download_backs_off_exponentially(
    server: ContentServer, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(archive, "BACKOFF_S", 1.0)
    monkeypatch.setattr(archive, "time", SimpleNamespace(sleep=waits.append, monotonic=time.monotonic))
    server.answer = respond(500)
    with pytest.raises(DownloadError):
        download(server.url, staging, max_attempts=4)
    first, second, third = waits
    assert first == 0  # at once
    assert 2 <= second <= 3  # 2 s and 4 s, and up to 1 s of jitter
    assert 4 <= third <= 5


def test_download_insufficient_disk_space_fails_early(
    server: ContentServer, staging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")  # noqa: PYI024 - a stand-in for shutil's
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(free=10_000_000))
    download = ResumableDownload(server.url, staging, replace(LIMITS, reserve_bytes=186_000_000))
    with pytest.raises(RunError, match=r"10 MB free, 18[67] MB needed"):
        download.run()
    assert not list(staging.glob("*.partial"))
