"""The pipeline as a Prefect flow: DVC's graph, each stage a task in the flow's own process."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Completed, Failed

from flows.cli.logs import drop_duplicate_failure
from flows.runtime import markdown
from flows.runtime.dvc_repro import commit_data, open_repo, pull_data, repro_stage, topological_stages
from flows.runtime.lock import WorkspaceLockedError, workspace_lock
from tasks.download import DataUnavailableError
from tasks.overrides import Overrides, write_overrides
from tasks.params import Params, read_params
from tasks.stages import run_stage
from tasks.workspace.errors import RunError

if TYPE_CHECKING:
    from uuid import UUID

PARAMS = Path("params.yaml")
DOWNLOAD_RETRIES = 2
RETRY_DELAYS_S = [10.0, 60.0]
PROGRESS_UPDATE_INTERVAL_S = 5.0

logger = logging.getLogger(__name__)  # for whoever shows what is at work; the run's own log is Prefect's


@flow(name="pipeline", log_prints=True)
def pipeline(
    overrides: Overrides | None = None,
    force: bool = False,
    wait: bool = True,
    download_retries: int = DOWNLOAD_RETRIES,
    workspace: Path = Path(),
) -> State[Any]:
    """CIFAR-10 from download to a benchmarked ONNX model. What is up to date is not run again.

    Args:
        overrides: parameters to change first; they are written into params.yaml
        force: run every stage, whether it is up to date or not
        wait: where another run is at work in the workspace, wait for its end instead of failing
        download_retries: how often to go through the sources of the data again, after a while
        workspace: the folder that holds dvc.yaml and params.yaml
    """
    course = TaskChain()
    try:
        with exclusive_workspace(workspace, wait=wait):
            params = load_params(overrides)
            failed = course.run_download(download_retries) or course.run_stages(force=force)
            get_run_logger().info("The stages:\n%s", markdown.format_table(course.runs))
            if failed is not None:
                return failed
            create_markdown_artifact(markdown.pipeline_markdown(course.runs, params), key="pipeline")
    except RunError as error:
        return failed_state(error)
    return Completed(message=course.message)


@contextlib.contextmanager
def exclusive_workspace(workspace: Path, *, wait: bool) -> Iterator[None]:
    """The workspace as the current folder, held alone. A scheduled run does not wait: another is at work."""
    logging.getLogger("prefect.task_runs").addFilter(drop_duplicate_failure)
    with contextlib.chdir(workspace), workspace_lock(wait=wait and not _is_scheduled()):
        yield


def load_params(overrides: Overrides | None) -> Params:
    """`params.yaml`, with the overrides written into it."""
    if overrides is not None:
        write_overrides(PARAMS, overrides)
    return read_params(PARAMS)


def failed_state(error: RunError) -> State[Any]:
    """The flow's last state: a scheduled run that found another at work was cancelled, it did not fail."""
    if isinstance(error, WorkspaceLockedError) and _is_scheduled():
        return Cancelled(message=str(error))
    return Failed(message=str(error), data=error)


def _is_scheduled() -> bool:
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.auto_scheduled


class TaskChain:
    """The tasks of a flow run, one after the other, each waiting for the one before it."""

    def __init__(self) -> None:
        self.runs: list[markdown.TaskRunSummary] = []
        self._upstream: list[State[Any]] = []

    def run_download(self, retries: int) -> State[Any] | None:
        """Have the data in the workspace; gives the flow's state if that failed."""
        return self.run_task("download", download.with_options(retries=retries))

    def run_stages(self, *, force: bool) -> State[Any] | None:
        """Run the stages in DVC's order until one fails; gives the flow's state if one did."""
        with open_repo() as repo:
            names = [str(stage.name) for stage in topological_stages(repo)]
        for name in names:
            stage = reproduce_stage.with_options(name=name, task_run_name=name)
            failed = self.run_task(name, stage, name, force)
            if failed is not None:
                return failed
        return None

    def run_task(self, name: str, task: Task[..., State[Any]], *arguments: Any) -> State[Any] | None:
        """Run a task; gives the flow's state if it failed."""
        started = time.perf_counter()
        logger.info(name)
        state = task(*arguments, wait_for=self._upstream, return_state=True)
        seconds = time.perf_counter() - started
        self.runs.append(markdown.TaskRunSummary(name, str(state.name), seconds, state.message or ""))
        if not state.is_completed():
            return Failed(message=f"{name}: {state.message}", data=state.data)
        self._upstream = [state]
        return None

    @property
    def message(self) -> str:
        ran = [run.stage for run in self.runs if run.state != "Cached"]
        return f"made anew: {', '.join(ran)}" if ran else "everything was up to date"


def _is_retryable(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, DataUnavailableError)


# DVC's hashes are the only cache, and what stages make lies in files: Prefect keeps no result.
@task(
    task_run_name="download",
    log_prints=True,
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=_is_retryable,
)
def download() -> State[Any]:
    """CIFAR-10 in the workspace, verified: from the folder itself, DVC's cache or remote, or a download."""
    try:
        params = read_params(PARAMS)
        with open_repo() as repo:
            fetched = pull_data(repo)
        report = run_stage("download", params)
        with open_repo() as repo:
            commit_data(repo)
    except RunError as error:
        return Failed(message=str(error), data=error)
    if fetched:
        return Completed(name="Restored", message="from DVC's cache or remote, verified")
    if report["source"] is None:
        return Completed(name="Cached", message="was there, verified")
    return Completed(message=f"from {report['source']}, verified")


@task(log_prints=True, cache_policy=NO_CACHE, persist_result=False)
def reproduce_stage(name: str, force: bool) -> State[Any]:
    """One stage of dvc.yaml, brought up to date."""
    try:
        params = read_params(PARAMS)
        with open_repo() as repo:
            outcome = repro_stage(
                repo, name, lambda: run_stage(name, params, _ProgressReporter(name)), force=force
            )
    except RunError as error:
        return Failed(message=str(error), data=error)
    match outcome.state:
        case "cached":
            return Completed(name="Cached", message=outcome.reason)
        case "restored":
            return Completed(name="Restored", message=f"from DVC's cache, as {outcome.reason}")
        case "ran":
            return Completed(message=outcome.reason)


class _ProgressReporter:
    """How far a stage is: the line of whoever shows what is at work, and Prefect's progress artifact.

    Both are views: a server that is away for a while does not stop the stage.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._artifact: UUID | None = None
        self._last_update = -math.inf
        self._disabled = False

    def __call__(self, fraction: float, text: str) -> None:
        logger.info("%s, %s", self._stage, text)
        now = time.monotonic()
        if self._disabled or (now - self._last_update < PROGRESS_UPDATE_INTERVAL_S and fraction < 1):
            return
        self._last_update = now
        try:
            if self._artifact is None:
                made = create_progress_artifact(100 * fraction, key=f"{self._stage}-progress")
                self._artifact = cast("UUID", made)
            else:
                update_progress_artifact(self._artifact, progress=100 * fraction)
        except Exception as error:  # noqa: BLE001 - whatever the client raises, the training goes on
            self._disabled = True
            get_run_logger().warning("progress is not shown any more: %s", type(error).__name__)
