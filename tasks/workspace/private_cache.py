"""Compiled code, and other files that run when they are loaded, are kept in private folders of the cache.

In a private folder nobody but the user and root can write: otherwise another user's code could run.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from tasks.workspace.errors import RunError, describe_os_error
from tasks.workspace.files import cache_folder


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
