import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write

FILL = """
import resource, sys
from pathlib import Path
from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_write(Path(sys.argv[1])) as partial:
        partial.write_bytes(bytes(5000))
except RunError as error:
    print(error)
"""


def test_atomic_write_replaces_the_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "x"
    for text in ("first", "second"):
        with atomic_write(file) as partial:
            partial.write_text(text)
            assert not file.exists() or file.read_text() == "first"
        assert file.read_text() == text
    assert [path.name for path in file.parent.iterdir()] == ["x"]


def test_atomic_write_syncs_the_file_and_then_the_folders_that_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, bool]] = []
    file = tmp_path / "a/b/x"
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, file.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with atomic_write(file) as partial:
        partial.write_text("text")
    expected = [(path.stat().st_ino, True) for path in (file.parent, tmp_path / "a", tmp_path)]
    assert synced == [(file.stat().st_ino, False), *expected]


def test_atomic_write_on_a_file_system_that_syncs_no_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    with atomic_write(tmp_path / "x") as partial:
        partial.write_text("text")
    assert (tmp_path / "x").read_text() == "text"


def test_atomic_write_failure_leaves_the_earlier_file_only(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("first")

    def write_half() -> None:
        with atomic_write(tmp_path / "x") as partial:
            partial.write_text("half")
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        write_half()
    assert (tmp_path / "x").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_atomic_write_without_disk_space_raises_one_line(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a disk that is full."""
    done = subprocess.run(
        [sys.executable, "-c", FILL, tmp_path / "x"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"cannot write {tmp_path / 'x'}: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_atomic_write_on_a_full_disk_raises_one_line(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "x") as partial:
            partial.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match=r"cannot write .*x: No space left on device"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_atomic_write_into_an_unwritable_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match=r"cannot write .*: (Not a directory|File exists)"),
        atomic_write(tmp_path / "file" / "x"),
    ):
        pass
