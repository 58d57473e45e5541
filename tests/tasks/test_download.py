import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks import download
from tasks.dataset import archive, cifar
from tasks.dataset.base import ChecksumError
from tasks.download import DataUnavailableError
from tasks.params import DownloadConfig
from tasks.workspace.errors import RunError
from tests.tasks.dataset.archives import (
    ALTERED,
    ARCHIVE,
    FILES,
    build_member,
    build_tar,
    replace_published_md5,
)
from tests.tasks.dataset.content_server import Answer, ContentServer, break_off_at, respond, send

CONFIG = DownloadConfig(
    sources=[], cifar100_sources=[], timeout_s=20.0, min_speed_kb_per_s=0.0, max_attempts=3
)


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: ContentServer) -> None:
    """Small files in place of CIFAR-10's, and no waiting."""
    replace_published_md5(monkeypatch)
    monkeypatch.setattr(archive, "BACKOFF_S", 0.001)
    monkeypatch.delenv("CIFAR10_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    server.content = ARCHIVE


def fetch(*sources: str) -> dict[str, Any]:
    config = CONFIG.model_copy(update={"sources": list(sources)})
    return download.download(Path("data"), "CIFAR-10", config)


def assert_complete() -> None:
    folder = Path("data", cifar.CIFAR10.folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == FILES
    assert sorted(path.name for path in Path().iterdir() if path.name != "archive") == ["data"]


def test_download_verifies_and_cleans_up(server: ContentServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch(server.url) == {"source": "http://127.0.0.1/cifar.tar"}
    assert_complete()
    assert "secret" not in capsys.readouterr().out


@pytest.mark.parametrize("as_url", [False, True])
def test_download_local_archive_is_used_and_kept(tmp_path: Path, *, as_url: bool) -> None:
    Path("archive").write_bytes(ARCHIVE)
    fetch((tmp_path / "archive").as_uri() if as_url else "archive")
    assert_complete()
    assert Path("archive").exists()


def test_download_existing_data_is_verified_not_fetched(server: ContentServer) -> None:
    fetch(server.url)
    assert fetch(server.url) == {"source": None}
    assert len(server.ranges) == 1


def test_download_environment_comes_before_the_sources(
    server: ContentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("archive").write_bytes(ARCHIVE)
    monkeypatch.setenv("CIFAR10_URL", "archive")
    assert fetch(server.url) == {"source": "archive"}
    assert server.ranges == []


def test_download_altered_data_raises_and_is_not_touched(server: ContentServer) -> None:
    fetch(server.url)
    file = Path("data", cifar.CIFAR10.folder, "data_batch_3")
    altered = b"X" + FILES["data_batch_3"][1:]
    file.write_bytes(altered)
    with pytest.raises(ChecksumError, match=r"data_batch_3 is not the published file"):
        fetch(server.url)
    assert file.read_bytes() == altered


def test_download_interrupted_extraction_does_not_fetch_again(server: ContentServer) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar, "extract", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch(server.url)
    assert len(list(Path(".cifar10-download").glob("*.partial"))) == 1
    fetch(server.url)
    assert_complete()
    assert server.ranges == [None, f"bytes={len(ARCHIVE)}-"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (respond(404), "responded 404 Not Found"),
        (break_off_at(*[1000] * 9), "connection lost"),
        (send(b"<html>moved</html>"), "truncated or invalid tar archive"),
        (send(build_tar(FILES)[:-500]), "truncated or invalid tar archive"),
        (send(build_tar(ALTERED)), "data_batch_2 is not the published file"),
        (send(build_tar({"batches.meta": FILES["batches.meta"]})), "has no cifar-10-batches-py/data_batch_1"),
        (send(build_tar(FILES, "w", build_member("../outside"))), "unsafe archive"),
    ],
)
def test_download_unusable_source_is_skipped_for_the_next(
    server: ContentServer, answer: Answer, reason: str
) -> None:
    server.answer = answer
    with pytest.raises(DataUnavailableError) as caught:
        fetch(server.url)
    first, line = str(caught.value).splitlines()
    assert first.startswith("could not download CIFAR-10 from any source; set CIFAR10_URL")
    assert reason in line
    assert not Path("data").exists()

    Path("archive").write_bytes(ARCHIVE)
    assert fetch(server.url, "archive")["source"] == "archive"
    assert_complete()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nowhere.tar", "not a file"),
        ("http://127.0.0.1:1/x.tar", "no connection"),
        ("ftp://example.org/x.tar", "ftp URLs are not supported"),
        ("http://", "http"),
        ("http://[::1/x.tar.gz", "invalid URL"),
        ("http://user:secret@[::1/x?signature=secret", "invalid URL"),
        ("http://.example.org/x.tar", "invalid"),
        ("~nobody-of-this-name/x.tar", "invalid path"),
        ("x" * 5000, "cannot be read"),
        ("archive\0", "not a file"),
    ],
)
def test_download_invalid_source_raises(source: str, reason: str) -> None:
    with pytest.raises(DataUnavailableError, match=reason):
        fetch(source)
    assert not Path("data").exists()


def test_download_insufficient_disk_space_raises(
    server: ContentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = replace(cifar.CIFAR10.archive, num_bytes=10**18)
    monkeypatch.setattr(cifar, "CIFAR10", replace(cifar.CIFAR10, archive=huge))
    with pytest.raises(RunError, match="not enough disk space"):
        fetch(server.url)
    assert not Path("data").exists()


def test_download_full_disk_is_one_line_and_leaves_no_data(server: ContentServer) -> None:
    """A limit on the size of files stands in for a full disk."""
    program = (
        "import resource, signal; from pathlib import Path; from tasks.download import download;"
        "from tasks.params import DownloadConfig; from tasks.workspace.errors import RunError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))\n"
        f"config = DownloadConfig(sources=[{server.url!r}], cifar100_sources=[], timeout_s=30.0,"
        " min_speed_kb_per_s=0.0, max_attempts=1)\n"
        "try:\n    download(Path('data'), 'CIFAR-10', config)\nexcept RunError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith("cannot write to ")
    assert not Path("data").exists()


def test_download_unwritable_folder_raises(server: ContentServer) -> None:
    Path(".cifar10-download").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot write to .*: File exists"):
        fetch(server.url)


def test_download_sample_is_never_fetched(server: ContentServer) -> None:
    config = CONFIG.model_copy(update={"sources": [server.url]})
    with pytest.raises(ChecksumError, match="no generated sample"):
        download.download(Path("data"), "sample", config)
    assert server.ranges == []


@pytest.mark.data
def test_download_gives_the_published_files(cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's fixture downloaded them; here DVC says what they are."""
    from dvc.repo import Repo

    monkeypatch.chdir(cifar10.parent)
    with Repo.init(no_scm=True) as repo:
        (stage,) = repo.add("data")
        assert stage.outs[0].hash_info.value == "a8843b88ea063643ba3c092d743c2404.dir"
        assert (stage.outs[0].meta.size, stage.outs[0].meta.nfiles) == (186_214_114, 8)
