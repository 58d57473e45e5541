"""`check_recorded` compares a folder with its `.dvc` file, in which `dvc add` recorded the folder's hash."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from tasks.validation import load_yaml
from tasks.workspace.errors import InputError
from tasks.workspace.files import hash_file


def check_recorded(folder: Path, known_md5: Mapping[Path, str]) -> None:
    """Raise `InputError` if a file was added, removed or changed since `dvc add`.

    `known_md5` has the checksums of files that were read already, so that they are not read again.
    """
    record = folder.with_name(f"{folder.name}.dvc")
    if not record.is_file():
        raise not_recorded(folder)
    try:
        recorded = load_yaml(record)["outs"][0]["md5"]
    except (KeyError, IndexError, TypeError):
        raise InputError(f"{record} records no folder; record the images again: dvc add {folder}") from None
    files = [file for file in folder.rglob("*") if file.is_file()]
    md5s = {
        file.relative_to(folder).as_posix(): known_md5.get(file) or hash_file(file, "md5") for file in files
    }
    if hash_listing(md5s) != recorded:
        raise changed_since_recorded(folder)


def not_recorded(folder: Path) -> InputError:
    return InputError(f"{folder}.dvc not found; record the images first: dvc add {folder}")


def changed_since_recorded(folder: Path) -> InputError:
    return InputError(
        f"{folder} is not what {folder}.dvc records; "
        f"if you changed it on purpose, record it: dvc add {folder}"
    )


def hash_listing(md5s: Mapping[str, str]) -> str:
    """Compute the hash that DVC gives to a folder, from the checksums of its files by relative path."""
    listing = [{"md5": md5, "relpath": path} for path, md5 in sorted(md5s.items())]
    content = json.dumps(listing, sort_keys=True).encode()
    return hashlib.md5(content, usedforsecurity=False).hexdigest() + ".dir"
