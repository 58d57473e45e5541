"""Ask DVC for the order of the stages and what changed in them, run a stage, and update `dvc.lock`.

Around a stage's command everything is DVC's own: removing outputs, run cache, hashing, linking, `dvc.lock`.
Only the command is replaced: where `dvc repro` starts `python -m tasks STAGE`, a flow calls the same
function in its own process. As with DVC's commands, the workspace is the current directory.
"""

import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dvc.stage.run
from dvc.dependency.param import ParamsDependency, read_param_file
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.output import Output
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.scm import SCMError
from dvc.stage import PipelineStage, Stage
from dvc.stage.exceptions import StageCmdFailedError

from flows.versions.dvc_remote import describe_remote_error, fetch_run_cache, find_lost_outputs, pull_outputs
from flows.versions.git import hide_credentials
from tasks.workspace.errors import InputError, RunError, describe_os_error
from tasks.workspace.files import open_cache_or_temporary


@dataclass(frozen=True)
class StageResult:
    state: Literal["cached", "restored", "ran"]
    """whether it was up to date already, was checked out from DVC's cache, or has run"""
    reason: str
    metrics: dict[str, Any]
    """what the stage's function returned; empty if it did not run"""


def prepare_dvc() -> None:
    """Quiet DVC, and keep its cache private. This has to be called before a repository is opened.

    DVC keeps what it knows of files in `/var/tmp/dvc`, unless `DVC_SITE_CACHE_DIR` names another folder.
    Every user may replace the databases of others there. DVC believes the hashes in them, and unpickles links
    from them at a checkout: another user's code would run. So a folder in the user's own cache is named.
    """
    logging.getLogger("dvc").setLevel(logging.WARNING)
    # After a kill, DVC warns for each file that the killed process had locked, and goes on all the same.
    logging.getLogger("dvc.rwlock").setLevel(logging.ERROR)
    if not os.environ.get("DVC_SITE_CACHE_DIR"):
        os.environ["DVC_SITE_CACHE_DIR"] = str(open_cache_or_temporary("dvc"))


def load_repo() -> Repo:
    """Open the workspace's DVC repository, without Git where there is none, as in a ZIP download."""
    prepare_dvc()
    try:
        return Repo()
    except SCMError:
        return Repo(config={"core": {"no_scm": True}})


@contextmanager
def open_repo() -> Iterator[Repo]:
    """Open the workspace's DVC repository, locked as by a DVC command. DVC's errors become `RunError`.

    Within the block, another `open_repo()` gives the same repository: to open one and to compute its graph
    takes longer than to find that a stage is up to date. Whoever changes a .dvc file calls `forget_graph`.
    """
    opened = _opened.get()
    with _describe_errors():
        if opened is not None and opened[0] == Path.cwd():
            yield opened[1]
            return
        if not Path("dvc.yaml").is_file():
            raise InputError(f"{Path.cwd()} has no dvc.yaml; run this in the project's folder")
        with load_repo() as repo, lock_repo(repo), repo.scm_context(quiet=True):
            token = _opened.set((Path.cwd(), repo))
            try:
                yield repo
            finally:
                _opened.reset(token)


_opened: ContextVar[tuple[Path, Repo] | None] = ContextVar("opened", default=None)


def forget_graph(repo: Repo) -> None:
    """Have DVC read its files again, of which one has changed."""
    repo._reset()  # noqa: SLF001 - DVC does this itself whenever it takes or gives up its lock


@contextmanager
def _describe_errors() -> Iterator[None]:
    """Turn what DVC raises into `RunError`."""
    try:
        yield
    except LockError as error:
        raise RunError(
            "another DVC command is running in this directory; try again when it has finished"
        ) from error
    except DvcException as error:
        causes: list[BaseException] = [error]
        while isinstance(causes[-1].__cause__, Exception):
            causes.append(causes[-1].__cause__)
        reasons = ": ".join(dict.fromkeys(str(cause) for cause in causes))
        raise RunError(f"DVC: {hide_credentials(reasons)}") from error
    except OSError as error:  # The disk may be full, for example.
        raise RunError(describe_remote_error(error) or describe_os_error(error)) from error
    except sqlite3.Error as error:  # DVC has a database of its own.
        raise RunError(f"cannot read or write DVC's database in .dvc: {error}") from error
    except Exception as error:
        reason = describe_remote_error(error)
        if reason is None:
            raise
        raise RunError(reason) from error


def topological_stages(repo: Repo) -> list[PipelineStage]:
    """Return the stages of dvc.yaml in the order in which DVC would reproduce them."""
    planned: list[Stage] = plan_repro(get_active_graph(repo.index.graph))
    return [stage for stage in planned if isinstance(stage, PipelineStage)]


def repro_stage(
    repo: Repo,
    name: str,
    stage_fn: Callable[[], dict[str, Any]],
    *,
    force: bool = False,
    pull: bool = False,
) -> StageResult:
    """Bring the stage up to date as `dvc repro --single-item` does, with `stage_fn` in place of its command.

    With `pull` as with its `--pull --allow-missing`: outputs that only the remote has are up to date, what
    the stage needs is pulled, and its results are restored where a run on any machine has pushed them.
    Exceptions from `stage_fn` propagate; the outputs are then removed and nothing is recorded.
    """
    (stage,) = (stage for stage in topological_stages(repo) if stage.name == name)
    reason = "forced" if force else change_reason(stage, pull=pull)
    if reason is None:
        return StageResult("cached", "up to date", {})
    if not force and stage.already_cached():  # The outputs are missing in the workspace only.
        stage.checkout(force=True)
        return StageResult("restored", reason, {})
    _remove_empty_run_cache(Path(repo.cache.legacy.path))
    if pull:
        pull_outputs(repo, [dep.def_path for dep in stage.deps if not isinstance(dep, ParamsDependency)])
        fetch_run_cache(stage)
    with _patched_cmd_run(stage, stage_fn) as results, raise_failed_transfers():
        stage.reproduce(force=force, pull=pull, upstream=repo.index.stages)
    stage.dump(update_pipeline=False)
    if not results:  # DVC restored the outputs from its run cache.
        return StageResult("restored", reason, {})
    return StageResult("ran", reason, results[0])


def change_reason(stage: PipelineStage, *, pull: bool = False) -> str | None:
    """Say why DVC would run the stage, such as `params train.lr changed`; None if it would not.

    With `pull`, what is missing in the workspace is no reason where the remote has it.
    """
    if not stage.changed(pull, stage.repo.index.stages if pull else None):
        lost = find_lost_outputs(stage) if pull else []
        return f"{', '.join(lost)} is neither in the DVC cache nor in the remote" if lost else None
    if not any(out.hash_info for out in stage.outs):
        return "never run before"
    reasons = ["its command changed"] if stage.changed_stage() else []
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            reasons += [f"params {key} changed" for key in _diff_params(stage.repo, dep)]
        elif not pull or dep.exists:
            reasons += _describe_status(dep)
        elif _differs_from_upstream(dep):
            reasons.append(f"{dep.def_path} changed")
    for out in stage.outs:
        if not pull or out.exists:
            reasons += _describe_status(out)
    return ", ".join(reasons) or "changed, according to DVC"


def _describe_status(file: Output) -> list[str]:
    return [f"{file.def_path} {_STATUS_TEXT.get(state, state)}" for state in file.status().values()]


def _differs_from_upstream(dep: Output) -> bool:
    assert dep.repo is not None
    outs = (out for stage in dep.repo.index.stages for out in stage.outs if out.fs_path == dep.fs_path)
    return any(out.hash_info != dep.hash_info for out in outs)


_STATUS_TEXT = {
    "modified": "changed",
    "deleted": "is missing",
    "new": "is new",
    "not in cache": "is not in the DVC cache",
}


def _diff_params(repo: Repo, dep: ParamsDependency) -> list[str]:
    """Return the full keys of the parameters whose values differ from those in dvc.lock."""
    recorded = _flatten(dep.hash_info.value or {})
    current = _flatten(read_param_file(repo.fs, dep.fs_path, list(dep.params), flatten=False))
    return sorted(key for key in recorded.keys() | current.keys() if recorded.get(key) != current.get(key))


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


@contextmanager
def _patched_cmd_run(
    stage: PipelineStage, stage_fn: Callable[[], dict[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """Monkeypatch DVC to call `stage_fn` instead of the stage's command, and yield the list of its results.

    `cmd_run` is the only place where DVC starts a command. A command other than `python -m tasks STAGE` runs
    as it is.
    """
    results: list[dict[str, Any]] = []
    original: Any = dvc.stage.run.cmd_run

    def cmd_run(running: Stage, *args: Any, **kwargs: Any) -> None:
        if running.cmd == f"python -m tasks {stage.name}":
            results.append(stage_fn())
            return
        try:
            original(running, *args, **kwargs)
        except StageCmdFailedError as error:
            raise RunError(str(error)) from error
        results.append({})

    dvc.stage.run.cmd_run = cmd_run  # type: ignore[assignment]
    try:
        yield results
    finally:
        dvc.stage.run.cmd_run = original


def _remove_empty_run_cache(cache: Path) -> None:
    """Remove folders that a killed run left without an entry, on which DVC (3.67) fails with a TypeError."""
    for folder in (cache / "runs").glob("*/*"):
        with suppress(OSError):  # The folder has an entry.
            folder.rmdir()


@contextmanager
def raise_failed_transfers() -> Iterator[None]:
    """Raise the error if DVC cannot write a file to its cache, which it would only log."""

    def raise_error(record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], OSError):
            raise record.exc_info[1]
        return True

    logger = logging.getLogger("dvc_data.hashfile.transfer")
    logger.addFilter(raise_error)
    try:
        yield
    finally:
        logger.removeFilter(raise_error)


def changed_stages(repo: Repo, *, pull: bool = False) -> list[str]:
    """Return the stages that are not up to date. Stages downstream of these may have to run as well."""
    return [str(stage.name) for stage in topological_stages(repo) if change_reason(stage, pull=pull)]


def find_output(repo: Repo, path: str) -> Output:
    """Return the output of dvc.yaml at the path, with the hash that dvc.lock records."""
    (output,) = repo.find_outs_by_path(path)
    return output
