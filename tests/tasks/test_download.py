import io
import json
import lzma
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks import download
from tasks.dataset import cifar10
from tasks.dataset.cifar10 import ChecksumError
from tasks.download import DataUnavailableError, SourceError, extract
from tasks.params import DownloadConfig
from tasks.workspace.errors import RunError

FILES = {name: f"the content of {name} ".encode() * 20_000 for name in cifar10.PUBLISHED_MD5}
OPTIONS = DownloadConfig(sources=[], timeout_s=0.5, min_speed_kb_per_s=100.0, max_attempts=3)


@pytest.fixture(autouse=True)
def small_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small files in place of CIFAR-10's, with the checksums to go with them, and no waiting."""
    import hashlib

    md5s = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in FILES.items()}
    monkeypatch.setattr(cifar10, "PUBLISHED_MD5", md5s)
    monkeypatch.setattr(download, "BACKOFF_S", 0.001)
    monkeypatch.delenv("CIFAR10_URL", raising=False)
    monkeypatch.chdir(tmp_path)


def tar_of(files: dict[str, bytes], mode: str = "w:gz", *extra: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(f"{cifar10.BASE_FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return buffer.getvalue()


ARCHIVE = tar_of(FILES, "w")


class Server(ThreadingHTTPServer):
    """Serves ARCHIVE under every path, in the way that `answer` says; keeps the ranges asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []
        self.answer: Callable[[Handler, int], None] = lambda handler, _: handler.whole_or_part()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/cifar.tar?signature=secret"

    def handle_error(self, *_: Any) -> None:
        """A client that leaves is no error."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers.get("Range"))
        self.server.answer(self, len(self.server.ranges))

    def log_message(self, *_: Any) -> None:
        pass

    def whole_or_part(self, etag: str = '"one"', content: bytes = ARCHIVE, until: int | None = None) -> None:
        wanted = self.headers.get("Range")
        start = 0
        if wanted and self.headers.get("If-Range") == etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:until])
        if until is not None:
            self.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def fetch(*sources: str, **changes: Any) -> dict[str, Any]:
    config = OPTIONS.model_copy(update={"sources": list(sources), **changes})
    return download.download(Path("data"), "CIFAR-10", config)


def assert_whole() -> None:
    folder = Path("data", cifar10.BASE_FOLDER)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES
    assert sorted(path.name for path in Path().iterdir() if path.name != "archive") == ["data"]


def assert_nothing_under_its_final_name() -> None:
    assert not Path("data").exists()


def test_fetches_verifies_and_cleans_up(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch(server.url) == {"source": "http://127.0.0.1/cifar.tar"}
    assert_whole()
    assert "secret" not in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_takes_a_path_in_every_compression(mode: str) -> None:
    Path("archive").write_bytes(tar_of(FILES, mode))
    fetch("archive")
    assert_whole()
    assert Path("archive").exists()


def test_takes_a_file_url(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(ARCHIVE)
    fetch((tmp_path / "archive").as_uri())
    assert_whole()


def test_what_is_there_is_verified_and_not_fetched(server: Server) -> None:
    fetch(server.url)
    assert fetch(server.url) == {"source": None}
    assert len(server.ranges) == 1


def test_environment_comes_before_the_sources(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("archive").write_bytes(ARCHIVE)
    monkeypatch.setenv("CIFAR10_URL", "archive")
    assert fetch(server.url) == {"source": "archive"}
    assert server.ranges == []


def test_changed_byte_is_named_and_left_alone(server: Server) -> None:
    fetch(server.url)
    file = Path("data", cifar10.BASE_FOLDER, "data_batch_3")
    altered = b"X" + FILES["data_batch_3"][1:]
    file.write_bytes(altered)
    with pytest.raises(ChecksumError, match="data_batch_3 is not the published file"):
        fetch(server.url)
    assert file.read_bytes() == altered


def test_connection_that_breaks_goes_on_where_it_broke(server: Server) -> None:
    def answer(handler: Handler, request: int) -> None:
        handler.whole_or_part(until=100_000 * request if request < 3 else None)

    server.answer = answer
    fetch(server.url)
    assert_whole()
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]


def test_archive_that_changed_meanwhile_is_fetched_from_its_start(server: Server) -> None:
    other = tar_of(FILES, "w:gz")

    def answer(handler: Handler, request: int) -> None:
        if request == 1:
            handler.whole_or_part(until=100_000)
        else:
            handler.whole_or_part(etag='"two"', content=other)

    server.answer = answer
    fetch(server.url)
    assert_whole()


def test_server_without_ranges(server: Server) -> None:
    def answer(handler: Handler, request: int) -> None:
        del handler.headers["Range"]
        handler.whole_or_part(until=100_000 if request == 1 else None)

    server.answer = answer
    fetch(server.url)
    assert_whole()


def test_next_run_goes_on_where_a_killed_one_was(server: Server) -> None:
    def stall(handler: Handler, _: int) -> None:
        handler.send_response(200)
        handler.send_header("ETag", '"one"')
        handler.send_header("Content-Length", str(len(ARCHIVE)))
        handler.end_headers()
        handler.wfile.write(ARCHIVE[:150_000])
        time.sleep(30)

    server.answer = stall
    program = (
        "from pathlib import Path; from tasks.download import download; from tasks.params import DownloadConfig;"
        f"download(Path('data'), 'CIFAR-10', DownloadConfig(sources=[{server.url!r}], timeout_s=30.0,"
        " min_speed_kb_per_s=0.0, max_attempts=1))"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        deadline = time.monotonic() + 30
        while not any(f.stat().st_size >= 150_000 for f in Path().glob(".cifar10-download/*.partial")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert_nothing_under_its_final_name()
    server.answer = lambda handler, _: handler.whole_or_part()
    fetch(server.url)
    assert_whole()
    assert server.ranges == [None, "bytes=150000-"]


def test_archive_that_was_whole_but_not_unpacked_is_not_fetched_again(server: Server) -> None:
    kept = Path(".cifar10-download")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "extract", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch(server.url)
    assert len(list(kept.glob("*.partial"))) == 1
    fetch(server.url)
    assert_whole()
    assert server.ranges == [None, f"bytes={len(ARCHIVE)}-"]


def status(code: int) -> Callable[[Handler, int], None]:
    def answer(handler: Handler, _: int) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def trickle(handler: Handler, _: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(ARCHIVE)))
    handler.end_headers()
    for i in range(100):
        handler.wfile.write(ARCHIVE[i : i + 1])
        time.sleep(0.05)


def silence(handler: Handler, _: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(ARCHIVE)))
    handler.end_headers()
    time.sleep(2)


def content(body: bytes) -> Callable[[Handler, int], None]:
    return lambda handler, _: handler.whole_or_part(content=body)


CORRUPTED = tar_of(FILES | {"data_batch_2": b"X" + FILES["data_batch_2"][1:]})


@pytest.mark.parametrize(
    ("answer", "reason", "requests"),
    [
        (status(404), "answers 404 Not Found", 1),
        (status(503), "answers 503 Service Unavailable", 3),
        (trickle, "too slow: 0 kB/s", 1),
        (silence, "sends nothing", 3),
        (content(b"<html>moved</html>"), "is not a whole tar archive", 1),
        (content(tar_of(FILES)[:-5000]), "is not a whole tar archive", 1),
        (content(lzma.compress(ARCHIVE)[:-5000]), "is not a whole tar archive", 1),
        (content(CORRUPTED), "data_batch_2 is not the published file", 1),
        (
            content(tar_of({"batches.meta": FILES["batches.meta"]})),
            "has no cifar-10-batches-py/data_batch_1",
            1,
        ),
        (lambda handler, _: handler.whole_or_part(until=0), "the connection broke off", 3),
    ],
)
def test_bad_source_gives_way_to_the_next(
    server: Server, answer: Callable[[Handler, int], None], reason: str, requests: int
) -> None:
    server.answer = answer
    with pytest.raises(DataUnavailableError) as caught:
        fetch(server.url)
    first, line = str(caught.value).splitlines()
    assert first.startswith("no source gives CIFAR-10; set CIFAR10_URL")
    assert reason in line
    assert len(server.ranges) == requests
    assert_nothing_under_its_final_name()

    Path("archive").write_bytes(ARCHIVE)
    assert fetch(server.url, "archive")["source"] == "archive"
    assert_whole()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nowhere.tar", "is no file"),
        ("http://127.0.0.1:1/x.tar", "no connection"),
        ("http://no-such-host.invalid/x.tar", "no connection"),
        ("ftp://example.org/x.tar", "ftp addresses are not supported"),
        ("http://", "http"),
    ],
)
def test_source_that_is_none(source: str, reason: str) -> None:
    with pytest.raises(DataUnavailableError, match=reason):
        fetch(source)


def hostile(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member


@pytest.mark.parametrize(
    "member",
    [
        hostile("/etc/passwd"),
        hostile("../outside"),
        hostile(f"{cifar10.BASE_FOLDER}/../../outside"),
        hostile(f"{cifar10.BASE_FOLDER}/link", tarfile.SYMTYPE, "/etc/passwd"),
        hostile(f"{cifar10.BASE_FOLDER}/hard", tarfile.LNKTYPE, "/etc/passwd"),
        hostile("device", tarfile.CHRTYPE),
        hostile("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda member: member.name,
)
def test_hostile_archive_is_refused(member: tarfile.TarInfo) -> None:
    Path("archive").write_bytes(tar_of(FILES, "w", member))
    with pytest.raises(DataUnavailableError, match="hostile archive"):
        fetch("archive")
    assert_nothing_under_its_final_name()
    assert not Path("..", "outside").exists()


def test_archive_bomb_is_refused(tmp_path: Path) -> None:
    member = hostile(f"{cifar10.BASE_FOLDER}/data_batch_1", size=50_000_000_000)
    Path("archive").write_bytes(member.tobuf())
    with pytest.raises(SourceError, match=r"hostile archive.*50,000,000,000 bytes"):
        extract(Path("archive"), tmp_path / "out")


def test_link_in_place_of_a_file_is_not_followed() -> None:
    files = {name: content for name, content in FILES.items() if name != "readme.html"}
    link = hostile(f"{cifar10.BASE_FOLDER}/readme.html", tarfile.SYMTYPE, "/etc/passwd")
    Path("archive").write_bytes(tar_of(files, "w", link))
    with pytest.raises(DataUnavailableError, match="hostile archive"):
        fetch("archive")


def test_too_little_space_is_said_before_it_starts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")  # noqa: PYI024 - a stand-in for shutil's
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(free=10_000_000))
    with pytest.raises(RunError, match=r"10 MB free and 1\d\d MB are needed"):
        fetch(server.url)
    assert_nothing_under_its_final_name()


def test_disk_that_fills_up_is_one_line_and_leaves_nothing_half_written(server: Server) -> None:
    """A limit on the size of files stands in for a full disk."""
    program = (
        "import resource, signal; from pathlib import Path; from tasks.download import download;"
        "from tasks.params import DownloadConfig; from tasks.workspace.errors import RunError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))\n"
        f"config = DownloadConfig(sources=[{server.url!r}], timeout_s=30.0, min_speed_kb_per_s=0.0, max_attempts=1)\n"
        "try:\n    download(Path('data'), 'CIFAR-10', config)\nexcept RunError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith("cannot write to ")
    assert_nothing_under_its_final_name()


def test_folder_that_cannot_be_written(server: Server) -> None:
    Path(".cifar10-download").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot write to .*: File exists"):
        fetch(server.url)


def test_sample_is_never_fetched(server: Server) -> None:
    with pytest.raises(ChecksumError, match="holds no generated sample"):
        download.download(Path("data"), "sample", OPTIONS.model_copy(update={"sources": [server.url]}))
    assert server.ranges == []


def test_state_that_makes_no_sense_is_forgotten(server: Server) -> None:
    server.answer = lambda handler, _: handler.whole_or_part(until=1000)
    with pytest.raises(DataUnavailableError):
        fetch(server.url, max_attempts=1)
    (state,) = Path(".cifar10-download").glob("*.json")
    state.write_text("{")
    server.answer = lambda handler, _: handler.whole_or_part()
    fetch(server.url)
    assert_whole()
    assert json.loads("null") is server.ranges[-1]


def test_real_archive_is_the_published_one(cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's fixture downloaded it; here DVC says what it is."""
    from dvc.repo import Repo

    monkeypatch.chdir(cifar10.parent)
    with Repo.init(no_scm=True) as repo:
        (stage,) = repo.add("data")
        assert stage.outs[0].hash_info.value == "a8843b88ea063643ba3c092d743c2404.dir"
        assert (stage.outs[0].meta.size, stage.outs[0].meta.nfiles) == (186_214_114, 8)
