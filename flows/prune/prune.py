"""Prune: say what nothing needs any more, and remove it if asked to."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dvc.repo import Repo

from flows.prune.needed import fetch_refs, find_needed, forget_fetched_refs
from flows.prune.store import Store
from flows.run.lock import workspace_lock
from flows.versions.dvc_remote import require_remote
from flows.versions.dvc_repro import open_repo
from flows.versions.git import hide_credentials, run_git
from tasks.params import PARAMS, read_params
from tasks.workspace.errors import RunError
from tasks.workspace.files import cache_folder

DAY_S = 24 * 3600.0


@dataclass(frozen=True)
class Pruned:
    """What goes, or has gone, from a place."""

    place: str
    num_files: int
    size_bytes: int
    total_files: int
    total_bytes: int


def prune(*, now: float, days: int, num_models: int, remote: bool, apply: bool) -> tuple[list[Pruned], int]:
    """Return what goes from each place, and how many models stay; with `apply`, it has gone.

    Nothing younger than `days` goes. `WorkspaceLockedError` beside a run; `InputError` where a store that is
    to be pruned may be another project's as well.
    """
    cutoff = now - days * DAY_S
    with workspace_lock(), _fetched(remote), open_repo() as repo:
        stores = _open_stores(repo, remote=remote)
        if apply:
            for store in stores:
                store.require_own()
        needed = find_needed(repo, num_models)
        # All that goes is known before the first file goes.
        removable = [store.find_removable(needed, cutoff, stores) for store in stores]
        leftovers = dict(find_leftovers(cutoff))
        pruned = [
            Pruned(store.name, len(files), sum(file.size_bytes for file in files.values()), *store.size())
            for store, files in zip(stores, removable, strict=True)
        ]
        for place, paths in leftovers.items():
            sizes = {path: _measure(path) for path in paths}
            total = sum(_measure(path) for path in place.iterdir())
            pruned.append(Pruned(str(place), len(sizes), sum(sizes.values()), len([*place.iterdir()]), total))
        if apply:
            for store, files in zip(stores, removable, strict=True):
                store.remove([*files])
            for path in (path for paths in leftovers.values() for path in paths):
                _delete(path)
    return pruned, needed.decisions


def claim(*, remote: bool) -> list[str]:
    """Mark the cache and, if asked for, the remote as this project's alone; return what was marked."""
    with workspace_lock(), open_repo() as repo:
        stores = _open_stores(repo, remote=remote)
        for store in stores:
            store.claim()
        return [store.name for store in stores]


@contextmanager
def _fetched(remote: bool) -> Iterator[None]:
    """Have the branches and tags of Git's remotes at hand, if the DVC remote is to be pruned."""
    try:
        if remote:
            fetch_refs()
        yield
    finally:
        if remote:
            forget_fetched_refs()


def _open_stores(repo: Repo, *, remote: bool) -> list[Store]:
    stores = [Store.open_cache(repo, str(Path.cwd().resolve()))]
    if remote:
        require_remote(repo)
        stores.append(Store.open_remote(repo, hide_credentials(run_git("remote", "get-url", "origin"))))
    return stores


def find_leftovers(cutoff: float) -> Iterator[tuple[Path, list[Path]]]:
    """Yield folders in which runs leave something, and what in them nobody has changed since `cutoff`."""
    artifacts = Path(read_params(PARAMS).paths.weights).parent
    places = [Path("wandb"), *(artifacts / name for name in ("checkpoints", "sweep", "search"))]
    for place in (*places, cache_folder() / "operators"):
        if place.is_dir():
            # wandb/latest-run is a link to one of the others.
            entries = [path for path in place.iterdir() if not path.is_symlink()]
            yield place, [path for path in entries if _last_change(path) < cutoff]


def _walk(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir():
        yield from path.rglob("*")


def _last_change(path: Path) -> float:
    return max(each.lstat().st_mtime for each in _walk(path))


def _measure(path: Path) -> int:
    return sum(each.lstat().st_size for each in _walk(path) if not each.is_dir())


def _delete(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise RunError(f"cannot remove {path}: {error.strerror or error}") from error
