"""Whatever a server says, it is the reason why this source is skipped: `DownloadError`, in one line."""

from pathlib import Path

import pytest

from tasks.dataset import archive
from tasks.dataset.archive import DownloadError, DownloadLimits, ResumableDownload
from tests.tasks.dataset.content_server import Answer, ContentHandler, ContentServer

# urllib3 leaves the socket to the garbage collector where it rejects a header.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

CONTENT = bytes(range(251)) * 40
LENGTH = f"Content-Length: {len(CONTENT)}"
LIMITS = DownloadLimits(timeout_s=5.0, min_speed_kb_per_s=0.0, max_attempts=2, reserve_bytes=0)


@pytest.fixture(autouse=True)
def no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "BACKOFF_S", 0.001)


def send_raw(*lines: str, body: bytes = CONTENT) -> Answer:
    """A response of exactly these header lines."""

    def answer(handler: ContentHandler, _: int) -> None:
        handler.wfile.write("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body)
        handler.close_connection = True

    return answer


def download(server: ContentServer, staging: Path, answer: Answer) -> bytes:
    server.answer = answer
    return ResumableDownload(server.url, staging, LIMITS).run().read_bytes()


def test_download_with_the_same_length_twice_succeeds(server: ContentServer, tmp_path: Path) -> None:
    assert download(server, tmp_path, send_raw("HTTP/1.1 200 OK", LENGTH, LENGTH)) == CONTENT


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (("HTTP/1.1 200 OK", LENGTH, "Content-Length: 7"), "unmatching values"),
        (("HTTP/1.1 200 OK", "Content-Length: many"), "sent an invalid Content-Length: many"),
        (("HTTP/1.1 200 OK", "Content-Length: -1"), "sent an invalid Content-Length: -1"),
        (("HTTP/1.1 200 OK", "Content-Length: ٣"), "invalid Content-Length"),
        (("HTTP/1.1 200 OK", f"Content-Length: {10**13}"), "offers 10,000,000 MB, which cannot be CIFAR"),
        (("HTTP/1.1 200 OK", f"Content-Length: {'9' * 5000}"), "which cannot be CIFAR"),
        (("HTTP/1.1 302 Found", "Location: http://[::1/x", "Content-Length: 0"), "invalid URL or response"),
        (("HTTP/1.1 302 Found", "Location: ftp://example.org/x", "Content-Length: 0"), "ftp"),
        (("HTTP/1.1 302 Found", "Location: /again", "Content-Length: 0"), "responded 302"),
        (("HTTP/1.1 999 Odd", "Content-Length: 0"), "responded 999"),
        (("nothing like HTTP",), "connection"),
        (("HTTP/1.1 200 OK", *["X: y"] * 200), "connection"),
    ],
)  # fmt: skip
def test_download_from_an_odd_server_raises_one_line(
    server: ContentServer, tmp_path: Path, lines: tuple[str, ...], reason: str
) -> None:
    lines = tuple(line.encode().decode("latin-1") for line in lines)
    with pytest.raises(DownloadError, match=reason) as caught:
        download(server, tmp_path, send_raw(*lines, body=b""))
    assert len(str(caught.value).splitlines()) == 1


def test_download_without_an_end_is_broken_off(
    server: ContentServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", 1000)
    with pytest.raises(DownloadError, match="sent more than"):
        download(server, tmp_path, send_raw("HTTP/1.1 200 OK"))
