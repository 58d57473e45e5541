"""Stages write files atomically, hash them, and keep what is compiled in a private folder of the cache.

In a private folder nobody but the user and root can write: otherwise another user's code could run.
"""

import atexit
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tasks.workspace.errors import RunError, describe_os_error


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a temporary path beside `file`; rename it to `file` on success, delete it on error.

    Afterwards the file and its name are on the disk, even if the machine then loses power. `RunError` if the
    file cannot be written.
    """
    try:
        new_folders = [folder for folder in file.parents if not folder.exists()]
        file.parent.mkdir(parents=True, exist_ok=True)
        temp_path = file.with_name(f".{file.name}.{os.getpid()}.partial")
        try:
            yield temp_path
            with temp_path.open("rb") as written:
                os.fsync(written.fileno())
            temp_path.replace(file)
            for folder in (file.parent, *(new.parent for new in new_folders)):
                _sync_folder(folder)
        finally:
            temp_path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {file}: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Write the names in the folder to the disk; some network file systems refuse, and do it themselves."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Return the folder for what is kept outside the project: `CIFARFLOW_CACHE`, or `~/.cache/cifarflow`.

    `RunError` if neither is known.
    """
    try:
        return Path(os.environ.get("CIFARFLOW_CACHE") or "~/.cache/cifarflow").expanduser()
    except RuntimeError:
        raise RunError("the home folder is unknown; set HOME or CIFARFLOW_CACHE") from None


def write_text(file: Path, text: str) -> None:
    """Write the file as a whole or not at all, in UTF-8. `RunError` if it cannot be written."""
    write_bytes(file, text.encode())


def write_bytes(file: Path, content: bytes) -> None:
    """Write the file as a whole or not at all. `RunError` if it cannot be written."""
    with atomic_write(file) as temp_path:
        temp_path.write_bytes(content)


def write_json(file: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write the value as JSON, as a whole or not at all. `RunError` if the file cannot be written."""
    write_text(file, json.dumps(value, indent=indent) + "\n")


def read_json(file: Path) -> Any:
    """Read JSON. `OSError` if the file cannot be read, `ValueError` if it is not JSON."""
    return json.loads(file.read_text(encoding="utf-8"))


def hash_file(file: Path, algorithm: Literal["md5", "sha256"]) -> str:
    """Return the hex digest of the file's content; DVC and CIFAR-10's publisher use MD5."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def open_private_cache(name: str) -> Path:
    """Return the folder `name` of the cache, created if need be. `RunError` if it is not private."""
    folder = Path(os.path.realpath(cache_folder() / name))
    try:
        for place in reversed([folder, *folder.parents]):
            if not place.exists():
                place.mkdir(mode=0o700, exist_ok=True)  # private under any umask
        check_private(folder)
        status = folder.stat()
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != 0o700:
            folder.chmod(0o700)  # files that DVC creates in it can be read by everybody who can enter
    except OSError as error:
        raise RunError(describe_os_error(error)) from error
    return folder


def open_cache_or_temporary(name: str) -> Path:
    """Return the private folder `name` of the cache or, if there can be none, a temporary private folder.

    A line on stderr says so; the temporary folder is deleted when this process ends.
    """
    try:
        return open_private_cache(name)
    except RunError as error:
        print(f"{error}; so this run uses a temporary folder instead", file=sys.stderr)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    check_private(folder)
    return folder


def check_private(path: Path) -> None:
    """Raise `RunError` if anybody but the user and root could change what is at `path`.

    Whoever owns or may write to the path, or to a folder that it is in, can change it. In a folder with the
    sticky bit, such as /tmp, everybody may write, but nobody can replace what belongs to others.
    """
    path = Path(os.path.realpath(path))
    trusted = {os.geteuid(), 0, Path("/").stat().st_uid}  # root has another number in some containers
    try:
        for place in (path, *path.parents):
            status = place.lstat()
            if status.st_uid not in trusted:
                raise RunError(f"{place} belongs to another user")
            is_sticky = place != path and status.st_mode & stat.S_ISVTX
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky:
                raise RunError(f"other users can write to {place} (chmod go-w {place})")
    except OSError as error:
        raise RunError(describe_os_error(error)) from error
