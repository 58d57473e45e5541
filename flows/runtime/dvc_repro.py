"""DVC's side of the pipeline: its graph, its word on what is up to date, its record of what was made.

Around a stage's command all is DVC's own: removing outputs, the run cache, hashing, linking, `dvc.lock`.
Only the command is exchanged: where `dvc repro` starts `python -m tasks STAGE`, a flow calls the same
function in its own process. As with DVC's commands, the workspace is the current folder.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dvc.stage.run
from dvc.dependency.param import ParamsDependency, read_param_file
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.repo.reproduce import get_active_graph, plan_repro
from dvc.stage import PipelineStage, Stage
from dvc.stage.exceptions import StageCmdFailedError

from tasks.workspace.errors import InputError, RunError

DATA = "data.dvc"


@dataclass(frozen=True)
class StageResult:
    """What became of a stage, and why."""

    state: Literal["cached", "restored", "ran"]
    """up to date already; fetched from DVC's cache; run"""
    reason: str
    metrics: dict[str, Any]
    """what the stage's function gave back, if it ran"""


@contextmanager
def open_repo() -> Iterator[Repo]:
    """The workspace's DVC repository, locked as by a DVC command. DVC's errors become `RunError`."""
    if not Path("dvc.yaml").is_file():
        raise InputError(f"{Path.cwd()} has no dvc.yaml; run this in the project's folder")
    logging.getLogger("dvc").setLevel(logging.WARNING)
    try:
        with Repo() as repo, lock_repo(repo), repo.scm_context(quiet=True):
            yield repo
    except LockError as error:
        raise RunError("a DVC command is at work in this folder; try again when it has ended") from error
    except DvcException as error:
        causes: list[BaseException] = [error]
        while isinstance(causes[-1].__cause__, Exception):
            causes.append(causes[-1].__cause__)
        raise RunError("DVC: " + ": ".join(dict.fromkeys(str(cause) for cause in causes))) from error


def topological_stages(repo: Repo) -> list[PipelineStage]:
    """The stages of dvc.yaml in the order in which DVC would reproduce them."""
    planned: list[Stage] = plan_repro(get_active_graph(repo.index.graph))
    return [stage for stage in planned if isinstance(stage, PipelineStage)]


def repro_stage(
    repo: Repo, name: str, stage_fn: Callable[[], dict[str, Any]], *, force: bool = False
) -> StageResult:
    """Bring the stage up to date as `dvc repro --single-item` does, with `call` in place of its command.

    `call` raises what it likes; it comes through unchanged, with the outputs removed and nothing recorded.
    """
    (stage,) = (stage for stage in topological_stages(repo) if stage.name == name)
    why = "asked for by --force" if force else change_reason(stage)
    if why is None:
        return StageResult("cached", "up to date", {})
    if not force and stage.already_cached():  # all of it is in DVC's cache, only not in the workspace
        stage.checkout(force=True)
        return StageResult("restored", why, {})
    with _patched_cmd_run(stage, stage_fn) as reports:
        stage.reproduce(force=force)
    stage.dump(update_pipeline=False)
    if not reports:
        return StageResult("restored", why, {})
    return StageResult("ran", why, reports[0])


def change_reason(stage: PipelineStage) -> str | None:
    """Why DVC would run the stage, in words such as `params train.lr changed`; None where it would not."""
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
    return ", ".join(reasons) or "DVC says so"


_STATUS_TEXT = {
    "modified": "changed",
    "deleted": "is missing",
    "new": "is new",
    "not in cache": "is not in DVC's cache",
}


def _diff_params(repo: Repo, dep: ParamsDependency) -> list[str]:
    """The keys, down to the leaves, whose values are others than in dvc.lock."""
    recorded = _flatten(dep.hash_info.value or {})
    now = _flatten(read_param_file(repo.fs, dep.fs_path, list(dep.params), flatten=False))
    return sorted(key for key in recorded.keys() | now.keys() if recorded.get(key) != now.get(key))


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


@contextmanager
def _patched_cmd_run(
    stage: PipelineStage, call: Callable[[], dict[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """Have DVC call a function where it would start the stage's command; gives what that call gave.

    `cmd_run` is the only place in which DVC starts a command. A stage of dvc.yaml with a command of another
    kind keeps it.
    """
    reports: list[dict[str, Any]] = []
    start: Any = dvc.stage.run.cmd_run

    def cmd_run(running: Stage, *args: Any, **kwargs: Any) -> None:
        if running.cmd == f"python -m tasks {stage.name}":
            reports.append(call())
            return
        try:
            start(running, *args, **kwargs)
        except StageCmdFailedError as error:
            raise RunError(str(error)) from error
        reports.append({})

    dvc.stage.run.cmd_run = cmd_run  # type: ignore[assignment]
    try:
        yield reports
    finally:
        dvc.stage.run.cmd_run = start


def pull_data(repo: Repo) -> bool:
    """Bring the tracked data from DVC's cache or, where one is set, its remote; False if neither has it."""
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
            print(f"the DVC remote {remote} has not got the data: {str(error).splitlines()[0]}")
            return False
    repo.checkout([stage.path])
    return True


def commit_data(repo: Repo) -> None:
    """Have DVC hold the data, which was verified, in its cache and in data.dvc.

    `RunError` where data.dvc records more files than there are: pictures that were added are not given up
    without a word.
    """
    stage = _data_stage(repo)
    if stage is None or not stage.status():
        return
    recorded = stage.outs[0].meta.nfiles or 0
    there = sum(1 for file in Path(stage.outs[0].fspath).rglob("*") if file.is_file())
    if there < recorded:
        raise RunError(
            f"{DATA} records {recorded} files, and {there} are here; bring the others: dvc pull {DATA} && "
            f"dvc checkout --force {DATA}; or give them up: dvc commit --force {DATA}"
        )
    repo.commit(stage.path, force=True)


def changed_stages(repo: Repo) -> list[str]:
    """The stages that DVC would run, or whose input comes from one that it would."""
    return [str(stage.name) for stage in topological_stages(repo) if stage.changed()]


def _data_stage(repo: Repo) -> Stage | None:
    return next((stage for stage in repo.index.stages if stage.path_in_repo == DATA), None)
