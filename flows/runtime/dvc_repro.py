"""DVC: the order of the stages, what changed and why, running a stage, `dvc.lock`, the data.

Around a stage's command everything is DVC's own: removing outputs, run cache, hashing, linking, `dvc.lock`.
Only the command is replaced: where `dvc repro` starts `python -m tasks STAGE`, a flow calls the same
function in its own process. As with DVC's commands, the workspace is the current directory.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dvc.stage.run
from dvc.dependency.param import ParamsDependency, read_param_file
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.scm import SCMError
from dvc.stage import PipelineStage, Stage
from dvc.stage.exceptions import StageCmdFailedError

from tasks.dataset.dvc_file import changed_since_recorded, not_recorded
from tasks.workspace.errors import InputError, RunError, describe_os_error

DATA = "data.dvc"


@dataclass(frozen=True)
class StageResult:
    state: Literal["cached", "restored", "ran"]
    """up to date already; checked out from DVC's cache; run"""
    reason: str
    metrics: dict[str, Any]
    """what the stage's function returned, if it ran"""


def load_repo() -> Repo:
    """The workspace's DVC repository, without Git where there is none, as in a ZIP download."""
    try:
        return Repo()
    except SCMError:
        return Repo(config={"core": {"no_scm": True}})


@contextmanager
def open_repo() -> Iterator[Repo]:
    """The workspace's DVC repository, locked as by a DVC command. DVC's errors become `RunError`."""
    if not Path("dvc.yaml").is_file():
        raise InputError(f"{Path.cwd()} has no dvc.yaml; run this in the project's folder")
    logging.getLogger("dvc").setLevel(logging.WARNING)
    try:
        with load_repo() as repo, lock_repo(repo), repo.scm_context(quiet=True):
            yield repo
    except LockError as error:
        raise RunError(
            "another DVC command is running in this directory; try again when it has finished"
        ) from error
    except DvcException as error:
        causes: list[BaseException] = [error]
        while isinstance(causes[-1].__cause__, Exception):
            causes.append(causes[-1].__cause__)
        raise RunError("DVC: " + ": ".join(dict.fromkeys(str(cause) for cause in causes))) from error
    except OSError as error:  # a full disk, for example
        raise RunError(describe_os_error(error)) from error
    except sqlite3.Error as error:  # DVC's own database
        raise RunError(f"cannot read or write DVC's database in .dvc: {error}") from error


def topological_stages(repo: Repo) -> list[PipelineStage]:
    """The stages of dvc.yaml in the order in which DVC would reproduce them."""
    planned: list[Stage] = plan_repro(get_active_graph(repo.index.graph))
    return [stage for stage in planned if isinstance(stage, PipelineStage)]


def repro_stage(
    repo: Repo, name: str, stage_fn: Callable[[], dict[str, Any]], *, force: bool = False
) -> StageResult:
    """Bring the stage up to date as `dvc repro --single-item` does, with `stage_fn` in place of its command.

    Exceptions from `stage_fn` propagate; the outputs are then removed and nothing is recorded.
    """
    (stage,) = (stage for stage in topological_stages(repo) if stage.name == name)
    reason = "forced" if force else change_reason(stage)
    if reason is None:
        return StageResult("cached", "up to date", {})
    if not force and stage.already_cached():  # the outputs are missing in the workspace only
        stage.checkout(force=True)
        return StageResult("restored", reason, {})
    _remove_empty_run_cache(Path(repo.cache.legacy.path))
    with _patched_cmd_run(stage, stage_fn) as results, _raise_failed_transfers():
        stage.reproduce(force=force)
    stage.dump(update_pipeline=False)
    if not results:  # DVC restored the outputs from its run cache
        return StageResult("restored", reason, {})
    return StageResult("ran", reason, results[0])


def change_reason(stage: PipelineStage) -> str | None:
    """Why DVC would run the stage, such as `params train.lr changed`; None if it would not."""
    if not stage.changed():
        return None
    if not any(out.hash_info for out in stage.outs):
        return "never run before"
    reasons = ["its command changed"] if stage.changed_stage() else []
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            reasons += [f"params {key} changed" for key in _diff_params(stage.repo, dep)]
        else:
            reasons += [f"{dep.def_path} {_STATUS_TEXT.get(state, state)}" for state in dep.status().values()]
    for out in stage.outs:
        reasons += [f"{out.def_path} {_STATUS_TEXT.get(state, state)}" for state in out.status().values()]
    return ", ".join(reasons) or "changed, according to DVC"


_STATUS_TEXT = {
    "modified": "changed",
    "deleted": "is missing",
    "new": "is new",
    "not in cache": "is not in the DVC cache",
}


def _diff_params(repo: Repo, dep: ParamsDependency) -> list[str]:
    """The parameters whose values differ from dvc.lock's, by their full keys."""
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
    """Monkeypatch DVC to call `stage_fn` instead of the stage's command; yields the list of its results.

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
    """Folders that a killed run left without an entry; DVC (3.67) fails with a TypeError on these."""
    for folder in (cache / "runs").glob("*/*"):
        with suppress(OSError):  # it has an entry
            folder.rmdir()


@contextmanager
def _raise_failed_transfers() -> Iterator[None]:
    """Where a file cannot be written to its cache, DVC logs that and records the output all the same."""

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


def pull_data(repo: Repo) -> bool:
    """Check the tracked data out of DVC's cache or remote.

    False where the data are in the workspace already, are not tracked, or neither cache nor remote has them.
    """
    stage = _data_stage(repo)
    if stage is None or stage.outs[0].exists:
        return False
    remote = repo.config["core"].get("remote")
    if stage.outs[0].changed_cache():
        if not remote:
            return False
        try:
            repo.fetch([stage.path])
        except DvcException as error:
            print(f"the DVC remote {remote} does not have the data: {str(error).splitlines()[0]}")
            return False
    repo.checkout([stage.path])
    return True


def check_data_recorded(repo: Repo) -> None:
    """`InputError` unless the data are what data.dvc records."""
    stage = _data_stage(repo)
    data = Path(DATA).with_suffix("")
    if stage is None:
        raise not_recorded(data)
    if stage.status():
        raise changed_since_recorded(data)


def commit_data(repo: Repo) -> None:
    """Commit the data, verified before, to DVC's cache and data.dvc.

    `RunError` where data.dvc records more files than there are: added images must not vanish silently.
    """
    stage = _data_stage(repo)
    if stage is None or not stage.status():
        return
    recorded = stage.outs[0].meta.nfiles or 0
    present = sum(1 for file in Path(stage.outs[0].fspath).rglob("*") if file.is_file())
    if present < recorded:
        raise RunError(
            f"{DATA} records {recorded} files, but only {present} exist; restore the missing ones: "
            f"dvc pull {DATA} && dvc checkout --force {DATA}; or accept the loss: dvc commit --force {DATA}"
        )
    with _raise_failed_transfers():
        repo.commit(stage.path, force=True)


def changed_stages(repo: Repo) -> list[str]:
    """The stages that are not up to date. Stages downstream of these may have to run as well."""
    return [str(stage.name) for stage in topological_stages(repo) if stage.changed()]


def _data_stage(repo: Repo) -> Stage | None:
    return next((stage for stage in repo.index.stages if stage.path_in_repo == DATA), None)
