"""A place that holds DVC's files, the cache or a remote: what is in it, whose it is, and what may go."""

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dvc.repo import Repo
from dvc_data.hashfile.db import HashFileDB, get_index

from flows.prune.needed import Needed, find_hashes
from tasks.workspace.errors import InputError, RunError

MARK = ".cifarflow-project"
"""name of the file, at the top of a store, that says which project uses it, and no other"""


@dataclass(frozen=True)
class StoredFile:
    """A file of the store, by its path there."""

    size_bytes: int
    time: float | None
    """time of its last change, in seconds since 1970; None where the store does not say"""


@dataclass(frozen=True)
class Store:
    """The cache or a remote."""

    name: str
    files: HashFileDB
    """DVC's files by hash"""
    root: str
    owner: str
    """what the mark of this project says"""

    @classmethod
    def open_cache(cls, repo: Repo, owner: str) -> "Store":
        return cls("the DVC cache", repo.cache.local, repo.cache.legacy.path, owner)

    @classmethod
    def open_remote(cls, repo: Repo, owner: str) -> "Store":
        files = repo.cloud.get_remote_odb(None, hash_name="md5")
        root = repo.cloud.get_remote_odb(None, hash_name="md5-dos2unix").path
        return cls("the DVC remote", files, root, owner)

    @property
    def fs(self) -> Any:
        return self.files.fs

    @property
    def _mark(self) -> str:
        return str(self.fs.join(self.root, MARK))

    def claim(self) -> None:
        """Mark the store as this project's alone; `InputError` where another one has marked it."""
        owner = self._read_owner()
        if owner not in {"", self.owner}:
            raise InputError(
                f"{self.name} is marked as that of {owner}; if that uses it no more, delete {self._mark}"
            )
        self.fs.makedirs(self.root, exist_ok=True)
        self.fs.pipe_file(self._mark, f"{self.owner}\n".encode())

    def require_own(self) -> None:
        """Raise `InputError` unless the store is marked as this project's alone."""
        owner = self._read_owner()
        if owner != self.owner:
            whose = (
                f"as that of {owner}"
                if owner
                else "as this project's alone, so another one may need its files"
            )
            raise InputError(
                f"{self.name} is {'' if owner else 'not '}marked {whose}; if no other project, and no other "
                f"repository, uses it: cifarflow prune --claim{' --remote' if 'remote' in self.name else ''}"
            )

    def _read_owner(self) -> str:
        try:
            return str(self.fs.cat_file(self._mark).decode(errors="replace")).strip()
        except FileNotFoundError:
            return ""

    @cached_property
    def _listed(self) -> dict[str, StoredFile]:
        """All files of the store below files/md5 and runs, by path."""
        self.fs.fs.invalidate_cache()
        listed: dict[str, StoredFile] = {}
        for folder in (self.files.path, self.fs.join(self.root, "runs")):
            found = self.fs.fs.find(folder, detail=True)
            if not isinstance(found, dict):  # DVC's own class for local files gives the paths alone.
                found = {path: self.fs.fs.info(path) for path in found}
            for path, info in found.items():
                listed[path] = StoredFile(int(info["size"] or 0), _read_time(info))
        return listed

    def find_removable(
        self, needed: Needed, cutoff: float, stores: Sequence["Store"]
    ) -> dict[str, StoredFile]:
        """Return what is older than `cutoff`, not needed, and not named by a run cache entry that stays.

        Folders' lists, which any of the `stores` may have, come first: without its list, nothing refers to a
        folder's files.
        """
        objects, runs = self._split()
        old_runs = {path: file for path, file in runs.items() if file.time is not None and file.time < cutoff}
        texts = [self.fs.cat_file(path).decode(errors="replace") for path in runs.keys() - old_runs.keys()]
        kept = needed.hashes | find_hashes(texts)
        if needed.keep_folders:
            kept |= {oid for oid in objects if oid.endswith(".dir")}
        for oid in [oid for oid in kept if oid.endswith(".dir")]:
            kept = kept.union(*(store.list_folder(oid) for store in stores))
        removable = {
            path: file
            for oid, (path, file) in objects.items()
            if oid not in kept and file.time is not None and file.time < cutoff
        }
        folders = {path: file for path, file in removable.items() if path.endswith(".dir")}
        return old_runs | folders | removable

    def _split(self) -> tuple[dict[str, tuple[str, StoredFile]], dict[str, StoredFile]]:
        """Return path and file by hash, and the entries of the run cache by path. Others are left alone."""
        objects: dict[str, tuple[str, StoredFile]] = {}
        runs: dict[str, StoredFile] = {}
        for path, file in self._listed.items():
            try:
                oid = self.files.path_to_oid(path)
            except ValueError:
                if self.fs.name(self.fs.parent(self.fs.parent(self.fs.parent(path)))) == "runs":
                    runs[path] = file
                continue
            if len(oid.removesuffix(".dir")) == 32:
                objects[oid] = (path, file)
        return objects, runs

    def list_folder(self, oid: str) -> set[str]:
        """Return the hashes of the folder's files; none where the store does not have its list."""
        path = str(self.files.oid_to_path(oid))
        if path not in self._listed:
            return set()
        try:
            return {str(entry["md5"]) for entry in json.loads(self.fs.cat_file(path))}
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{path}, the list of a folder's files, is damaged: {error}; nothing is removed"
            ) from None

    def size(self) -> tuple[int, int]:
        """Return the number of files and their size in bytes."""
        return len(self._listed), sum(file.size_bytes for file in self._listed.values())

    def remove(self, paths: list[str]) -> None:
        if paths:
            self.fs.remove(paths)
        if "remote" in self.name:
            get_index(self.files).clear()  # DVC remembers what the remote has.


def _read_time(info: dict[str, Any]) -> float | None:
    for key in ("mtime", "LastModified", "last_modified", "updated"):
        value = info.get(key)
        if isinstance(value, dt.datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None
