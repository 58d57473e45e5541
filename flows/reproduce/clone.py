"""Clone the project at a commit into a folder of its own, and bring recorded files into its own DVC cache."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dvc.config import NoRemoteError
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile import check, load
from dvc_data.hashfile.db import HashFileDB
from dvc_data.hashfile.hash_info import HashInfo
from dvc_objects.errors import ObjectFormatError

from flows.versions.dvc_repro import prepare_dvc
from flows.versions.git import find_problem, hide_credentials, run_git
from tasks.processes import set_environment
from tasks.workspace.errors import InputError, RunError, describe_os_error

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
DVC_CONFIG = "[cache]\n    dir = reproduced\n"
"""The cache of the project, even if Git has it, must not give results that are to be made again."""


@contextlib.contextmanager
def open_clone(commit: str, keep: Path | None) -> Iterator[tuple[Path, Repo]]:
    """Yield the project's folder in a clean clone at the commit, and DVC's repository of the project itself.

    The project is only read, without its locks: a run in it goes on. The clone is deleted afterwards, unless
    it was made in `keep`. DVC's databases of both are temporary. `InputError` where there is no such commit.
    """
    if problem := find_problem():
        raise InputError(f"a model is reproduced from a commit: {problem.text}")
    root = run_git("rev-parse", "--show-toplevel")
    prefix = run_git("rev-parse", "--show-prefix")
    with tempfile.TemporaryDirectory(prefix="cifarflow-reproduce-") as name:
        temporary = Path(name).resolve()
        clone = temporary / "clone" if keep is None else _make_folder(keep)
        prepare_dvc()
        # Without Git, DVC leaves the project's .gitignore files as they are.
        with (
            set_environment({"DVC_SITE_CACHE_DIR": str(temporary / "dvc")}),
            Repo(config={"core": {"no_scm": True}}) as project,
        ):
            run_git("clone", "--quiet", "--no-checkout", "--", root, str(clone))
            _fetch_commit(commit, clone)
            run_git("checkout", "--quiet", "--detach", commit, folder=clone)
            folder = clone / prefix
            (folder / ".dvc").mkdir(parents=True, exist_ok=True)
            (folder / ".dvc/config.local").write_text(DVC_CONFIG, encoding="utf-8")
            yield folder, project


def _make_folder(path: Path) -> Path:
    """Make the folder; `InputError` if it is there and not empty."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise InputError(f"{path} is not empty; name another folder for the clone")
    except OSError as error:
        raise InputError(describe_os_error(error)) from error
    return path.resolve()


def _fetch_commit(commit: str, clone: Path) -> None:
    """Have the commit in the clone, if need be from the project's remotes; `InputError` where none has it."""
    for remote in ["", *run_git("remote").splitlines()]:
        if remote:
            url = run_git("remote", "get-url", remote)
            run_git("fetch", "--quiet", "--no-tags", "--", url, commit, folder=clone, check=False)
        if run_git("rev-parse", "--quiet", "--verify", f"{commit}^{{commit}}", folder=clone, check=False):
            return
    raise InputError(f"neither this repository nor a remote has the commit {commit[:12]} of its code")


def fetch_object(clone: Repo, project: Repo, info: HashInfo) -> bool:
    """Copy a file or folder into the clone's cache from the project's cache or, failing that, its DVC remote.

    Return whether all of it is there. `RunError` where the remote cannot be used.
    """
    try:
        _copy_object(clone, project.cache.local, info)
        if _is_complete(clone, info):
            return True
        with contextlib.suppress(NoRemoteError):
            _copy_object(clone, project.cloud.get_remote_odb(None), info)
        return _is_complete(clone, info)
    except (DvcException, OSError) as error:
        reason = hide_credentials(str(error).splitlines()[0])
        raise RunError(f"the DVC remote cannot be used: {reason}") from error


def _copy_object(clone: Repo, source: HashFileDB, info: HashInfo) -> None:
    """Copy what the source has of a file, or of a folder with its files, if the content has the hash."""
    with contextlib.suppress(FileNotFoundError):  # DVC raises it for the list of a folder's files.
        clone.cloud.transfer(source, clone.cache.local, [info], shallow=False, verify=True, cache_odb=source)


def _is_complete(clone: Repo, info: HashInfo) -> bool:
    """Return whether the clone's cache has the file, or the folder with all of its files."""
    cache = clone.cache.local
    try:
        check(cache, load(cache, info))
    except (FileNotFoundError, ObjectFormatError):
        return False
    return True
