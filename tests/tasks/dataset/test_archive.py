import lzma
import tarfile
from pathlib import Path

import pytest

from tasks.dataset import cifar
from tasks.dataset.archive import ArchiveError, extract
from tests.tasks.dataset.archives import FILES, build_member, build_tar, replace_published_md5

PUBLISHED = cifar.CIFAR10


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    replace_published_md5(monkeypatch)
    monkeypatch.chdir(tmp_path)


def extract_content(content: bytes) -> None:
    Path("archive").write_bytes(content)
    extract(Path("archive"), Path("out"), cifar.CIFAR10.folder, cifar.CIFAR10.max_bytes)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_extract_any_compression_writes_the_files(mode: str) -> None:
    extract_content(build_tar(FILES, mode))
    assert {file.name: file.read_bytes() for file in Path("out", cifar.CIFAR10.folder).iterdir()} == FILES


def test_extract_other_members_are_ignored() -> None:
    other = build_member(f"{cifar.CIFAR10.folder}/notes.txt")
    extract_content(build_tar(FILES, "w", other, build_member("elsewhere/data_batch_1")))
    assert {file.name for file in Path("out").rglob("*") if file.is_file()} == FILES.keys()


@pytest.mark.parametrize(
    "content",
    [
        b"<html>moved</html>",
        build_tar(FILES)[:-500],
        build_tar(FILES, "w:bz2")[:-500],
        lzma.compress(build_tar(FILES, "w"))[:-500],
        build_tar(FILES, "w")[:100_000],
    ],
    ids=["html", "gz", "bz2", "xz", "tar"],
)
def test_extract_truncated_archive_raises(content: bytes) -> None:
    with pytest.raises(ArchiveError, match="truncated or invalid tar archive"):
        extract_content(content)


def test_extract_incomplete_archive_names_the_missing_file() -> None:
    with pytest.raises(ArchiveError, match="the archive has no cifar-10-batches-py/data_batch_1"):
        extract_content(build_tar({"batches.meta": FILES["batches.meta"]}))


@pytest.mark.parametrize(
    "member",
    [
        build_member("/etc/passwd"),
        build_member("../outside"),
        build_member(f"{cifar.CIFAR10.folder}/../../outside"),
        build_member(f"{cifar.CIFAR10.folder}/link", tarfile.SYMTYPE, "/etc/passwd"),
        build_member(f"{cifar.CIFAR10.folder}/inner", tarfile.SYMTYPE, "data_batch_1"),
        build_member(f"{cifar.CIFAR10.folder}/hard", tarfile.LNKTYPE, "/etc/passwd"),
        build_member("device", tarfile.CHRTYPE),
        build_member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda member: str(member.name),
)
def test_extract_unsafe_member_raises(member: tarfile.TarInfo) -> None:
    with pytest.raises(ArchiveError, match="unsafe archive"):
        extract_content(build_tar(FILES, "w", member))
    assert not Path("..", "outside").exists()


def test_extract_link_in_place_of_a_file_raises() -> None:
    files = {name: content for name, content in FILES.items() if name != "readme.html"}
    link = build_member(f"{cifar.CIFAR10.folder}/readme.html", tarfile.SYMTYPE, "/etc/passwd")
    with pytest.raises(ArchiveError, match="unsafe archive"):
        extract_content(build_tar(files, "w", link))


def test_extract_archive_bomb_raises() -> None:
    member = build_member(f"{cifar.CIFAR10.folder}/data_batch_1", size=50_000_000_000)
    with pytest.raises(ArchiveError, match=r"unsafe archive.*50,000,000,000 bytes"):
        extract_content(member.tobuf())


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
@pytest.mark.parametrize("name", FILES)
def test_extract_of_a_file_larger_than_the_published_one_writes_none_of_it(name: str, mode: str) -> None:
    with pytest.raises(
        ArchiveError, match=rf"unsafe archive: .*/{name} has [\d,]+ bytes, the published file"
    ):
        extract_content(build_tar(FILES | {name: FILES[name] + b"x"}, mode))
    assert not Path("out", cifar.CIFAR10.folder, name).exists()


def test_extract_of_a_huge_member_that_is_none_of_the_files_raises_before_it_is_decompressed() -> None:
    member = build_member("elsewhere/zeros", size=50_000_000_000)
    with pytest.raises(ArchiveError, match=r"unsafe archive: elsewhere/zeros has 50,000,000,000 bytes"):
        extract_content(member.tobuf())


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_extract_of_a_huge_header_raises_before_it_is_read(kind: bytes) -> None:
    header = build_member("header", kind, size=1_000_000_000)
    with pytest.raises(ArchiveError, match=r"unsafe archive: a header of 1,000,000,000 bytes"):
        extract_content(header.tobuf())


def test_published_sizes_are_those_of_the_files(cifar10: Path) -> None:
    folder = cifar10 / cifar.CIFAR10.folder
    assert {file.name: file.stat().st_size for file in folder.iterdir()} == dict(PUBLISHED.max_bytes)
    assert sum(PUBLISHED.max_bytes.values()) == PUBLISHED.archive.num_bytes
