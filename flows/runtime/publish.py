"""What a retraining leaves for others: a DVC experiment, a push, a commit on a branch of its own."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dvc.config import NoRemoteError
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import NoSCMError, SCMError

from flows.runtime.champion import CHAMPION_DVC_FILE
from flows.runtime.dvc_repro import DATA
from tasks.params import Params
from tasks.registry.ledger import LEDGER, LedgerEntry
from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write


def save_experiment(entry: LedgerEntry, params: Params, *, push: bool, commit: bool) -> None:
    """Save the run as a DVC experiment named after the flow run; commit and push where that is asked for.

    The decision stands by then. What fails here is told as `RunError` after all the rest was tried.
    """
    errors = []
    saved = False
    if not _has_commits():
        print("no Git repository with a commit here: no DVC experiment is saved")
        if commit:
            errors.append("nothing can be committed without a Git repository")
    else:
        try:
            with _preserve_git_index(), Repo() as repo:  # DVC locks it itself, here and in a push
                repo.experiments.save(
                    name=entry.flow_run_name,
                    force=True,
                    include_untracked=[str(file) for file in (LEDGER, CHAMPION_DVC_FILE) if file.is_file()],
                )
            saved = True
        except (DvcException, SCMError) as error:
            errors.append(f"the DVC experiment could not be saved: {error}")
        if commit:
            try:
                print(f"committed to the branch {commit_to_branch(entry, params)}")
            except RunError as error:
                errors.append(str(error))
    if push:
        errors += _push(entry, experiment=saved)
    if errors:
        raise RunError(f"{entry.decision} ({entry.reason}), but " + "; ".join(errors))


def _push(entry: LedgerEntry, *, experiment: bool) -> list[str]:
    mishaps = []
    try:
        with Repo() as repo:
            print(f"pushed {repo.push()} files to the DVC remote")
            remote = _git_remote(repo) if experiment else None
            if remote:
                repo.experiments.push(remote, [entry.flow_run_name])
                print(f"pushed the experiment {entry.flow_run_name} to {remote}")
    except NoRemoteError:
        mishaps.append("no DVC remote is set to push to: dvc remote add -d NAME URL")
    except (DvcException, SCMError, OSError) as error:
        mishaps.append(f"the push failed: {str(error).splitlines()[0]}")
    return mishaps


def _git_remote(repo: Repo) -> str | None:
    try:
        names = list(repo.scm.gitpython.repo.remotes)
    except NoSCMError:
        return None
    return str(names[0].name) if names else None


def commit_to_branch(entry: LedgerEntry, params: Params) -> str:
    """Commit ledger, lock and reports to `retrain/DATE`, from what is checked out; gives the branch.

    With an index of its own: what the user has staged, and the branch that is checked out, stay as they are.
    """
    branch = f"retrain/{entry.time[:10]}"
    if run_git("symbolic-ref", "--quiet", "--short", "HEAD", check=False) == branch:
        raise RunError(f"the branch {branch} is checked out, and nothing is committed to that one")
    ref = f"refs/heads/{branch}"
    files = [LEDGER, CHAMPION_DVC_FILE, Path("params.yaml"), Path("dvc.lock"), Path(DATA)]
    files += [Path(path) for name, path in params.paths if REPORT_PATHS(name)]
    parent = run_git("rev-parse", "--quiet", "--verify", ref, check=False) or run_git("rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        run_git("read-tree", parent, env=index)
        run_git("add", "--force", "--", *(str(file) for file in files if file.exists()), env=index)
        tree = run_git("write-tree", env=index)
    message = f"Retrain: {entry.decision}\n\n{entry.reason}\nFlow run {entry.flow_run_name}"
    commit = run_git("commit-tree", tree, "-p", parent, "-m", message)
    run_git("update-ref", ref, commit)
    return branch


@contextlib.contextmanager
def _preserve_git_index() -> Iterator[None]:
    """DVC unstages what the user has staged when it saves an experiment; the workspace stays as it is."""
    index = Path(run_git("rev-parse", "--git-path", "index"))
    before = index.read_bytes() if index.is_file() else None
    try:
        yield
    finally:
        if before is not None:
            with atomic_write(index) as partial:
                partial.write_bytes(before)


def REPORT_PATHS(name: str) -> bool:
    return name in {"history", "metrics", "confusion", "benchmarks", "page", "figures"}


def _has_commits() -> bool:
    return shutil.which("git") is not None and bool(
        run_git("rev-parse", "--quiet", "--verify", "HEAD", check=False)
    )


def run_git(*arguments: str, env: dict[str, str] | None = None, check: bool = True) -> str:
    done = subprocess.run(  # noqa: S603
        ["git", *arguments],  # noqa: S607 - the user's own Git
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        raise RunError(f"git {arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()
