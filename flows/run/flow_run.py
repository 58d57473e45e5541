"""Give every flow run an exclusive workspace, parameters, a chain of tasks, progress and a final state."""

import contextlib
import functools
import inspect
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, cast
from uuid import UUID

from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Completed, Failed
from pydantic.fields import FieldInfo

from flows.parameters import FlowParameters, FormSection
from flows.run import markdown
from flows.run.attempts import bound_attempts
from flows.run.killed_runs import end_flow_run, end_task_runs
from flows.run.lock import WorkspaceLockedError, workspace_lock
from flows.run.logs import filter_prefect_logs
from flows.run.markdown import TaskRunSummary
from flows.run.memory import LACKS, describe_lack_of_memory
from flows.run.record import record_run
from tasks.overrides import Overrides, with_overrides, write_overrides
from tasks.params import PARAMS, Params, read_params
from tasks.processes import normalize_environment
from tasks.workspace.errors import RunError, describe_os_error, describe_syntax_error

RunFn = TypeVar("RunFn", bound=Callable[..., State[Any]])

PROGRESS_UPDATE_INTERVAL_S = 5.0

status_logger = logging.getLogger("cifarflow.status")
"""what the terminal's status line shows; logs go through Prefect"""


class WorkspaceParameters(Protocol):
    """The parameters of a flow that works in a workspace."""

    workspace: Path
    wait: bool


@contextlib.contextmanager
def exclusive_workspace(parameters: WorkspaceParameters, *, wait: bool = False) -> Iterator[None]:
    """Change to the workspace and hold its lock, with `wait` even if the parameters say not to wait for it.

    A run that a schedule started never waits for another run. `WorkspaceLockedError` where another run holds
    the lock.
    """
    filter_prefect_logs()
    normalize_environment()
    flow_run_id = current_flow_run_id()
    wait = (wait or parameters.wait) and not _is_scheduled()
    with (
        contextlib.chdir(parameters.workspace),
        workspace_lock(wait=wait, flow_run_id=str(flow_run_id or "")) as killed,
    ):
        if killed == str(flow_run_id):  # Prefect runs the same flow run again.
            end_task_runs(killed)
        elif killed:
            end_flow_run(killed)
        yield


def load_params(overrides: Overrides | None) -> Params:
    """Write the overrides into `params.yaml`, and read it."""
    if overrides is not None:
        write_overrides(PARAMS, overrides)
    return read_params(PARAMS)


def read_params_with(overrides: Overrides | None) -> Params:
    """Read `params.yaml` and apply the overrides, for one run; the file stays as it is."""
    params = read_params(PARAMS)
    return params if overrides is None else with_overrides(params, overrides)


class Skip(Exception):  # noqa: N818 - as unittest's SkipTest, it is no error
    """There is nothing to do for this flow or task run, which ends `Skipped`; the message says why."""


class TaskFailedError(RunError):
    """A task of the flow has failed, which fails the flow with the task's name and reason."""

    def __init__(self, name: str, state: State[Any]) -> None:
        super().__init__(f"{name}: {state.message}")
        self.cause = state.data
        """the error with which the task has failed; the command's exit code depends on it"""


def fail_in_one_line(function: RunFn) -> RunFn:
    """Return known failures of a flow or task as its state: no traceback in the log.

    Failures of the disk and a lack of memory are among them. The state is `Failed`, or `Cancelled` if a
    scheduled run found the workspace locked. `Skip` becomes the state `Skipped`.
    """

    @functools.wraps(function)
    def run(*arguments: Any, **keywords: Any) -> State[Any]:
        try:
            return function(*arguments, **keywords)
        except Skip as skip:
            return Completed(name="Skipped", message=str(skip))
        except TaskFailedError as error:
            return Failed(message=str(error), data=error.cause)
        except RunError as error:
            run_error = error
        except OSError as error:
            run_error = RunError(describe_lack_of_memory(error) or describe_os_error(error))
        except SyntaxError as error:  # A module that is imported only now may have one.
            run_error = RunError(describe_syntax_error(error))
        except LACKS as error:
            lack = describe_lack_of_memory(error)
            if lack is None:
                raise
            run_error = RunError(lack)
        if isinstance(run_error, WorkspaceLockedError) and _is_scheduled():
            return Cancelled(message=str(run_error))
        return Failed(message=str(run_error), data=run_error)

    return cast("RunFn", run)


def workspace_flow(name: str) -> Callable[[Callable[[Any], State[Any]]], Any]:
    """Make a function of one `FlowParameters` a Prefect flow with its fields as parameters.

    So a flow's parameters, their defaults and their texts stand once, in flows/parameters.py, for Prefect's
    form as for the command line. A failure is one line. How the run ends is recorded in its workspace.
    """

    def decorate(function: Callable[[Any], State[Any]]) -> Any:
        (argument,) = inspect.signature(function).parameters.values()
        model = argument.annotation
        assert issubclass(model, FlowParameters)

        fields = {key: (field, field.rebuild_annotation()) for key, field in model.model_fields.items()}
        signature = inspect.Signature(
            [
                inspect.Parameter(
                    key,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD,
                    default=_form_default(field),
                    annotation=annotation,
                )
                for key, (field, annotation) in fields.items()
            ],
            return_annotation=State[Any],
        )

        @fail_in_one_line
        def attempt(parameters: FlowParameters) -> State[Any]:
            bound_attempts()
            return function(parameters)

        @functools.wraps(function)
        def run(*arguments: Any, **keywords: Any) -> State[Any]:
            parameters = model(**signature.bind(*arguments, **keywords).arguments)
            return record_run(name, parameters.workspace, lambda: attempt(parameters))

        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {key: annotation for key, (_, annotation) in fields.items()}
        texts = "\n".join(f"    {key}: {field.description}" for key, (field, _) in fields.items())
        run.__doc__ = f"{inspect.getdoc(function)}\n\nArgs:\n{texts}"
        return flow(name=name, log_prints=True)(run)

    return decorate


def _form_default(field: FieldInfo) -> Any:
    """Return the value that the form starts with; a section starts empty, but opened."""
    if field.is_required():
        return inspect.Parameter.empty
    return {} if any(isinstance(item, FormSection) for item in field.metadata) else field.default


def workspace_task(name: str | None = None, **options: Any) -> Callable[[RunFn], Task[..., State[Any]]]:
    """Make a function a Prefect task that fails in one line; `name` is also that of its runs.

    Tasks write files, and DVC's hashes are the only cache: Prefect caches and persists no results.
    """
    if name is not None:
        options |= {"name": name, "task_run_name": name}

    def decorate(function: RunFn) -> Task[..., State[Any]]:
        settings: dict[str, Any] = {"log_prints": True, "cache_policy": NO_CACHE, "persist_result": False}
        decorator: Any = task
        return cast("Task[..., State[Any]]", decorator(**settings | options)(fail_in_one_line(function)))

    return decorate


def current_flow_run_id() -> UUID | None:
    context = FlowRunContext.get()
    return None if context is None or context.flow_run is None else context.flow_run.id


def read_pause_keys() -> set[str]:
    """Return the keys of the pauses in which this flow run was suspended, which ended its process."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return set()
    return context.flow_run.empirical_policy.pause_keys or set()


def _is_scheduled() -> bool:
    """Return whether a schedule started this process. A run that was suspended is started by a person."""
    context = FlowRunContext.get()
    scheduled = context is not None and context.flow_run is not None and context.flow_run.auto_scheduled
    return scheduled and not read_pause_keys()


class TaskChain:
    """The tasks of a flow run, each of which waits for the one before. On exit, the log gets their table."""

    def __init__(self) -> None:
        self.runs: list[TaskRunSummary] = []
        self._upstream: list[State[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        interrupted = error_type is not None and not issubclass(error_type, Exception)
        if self.runs and not interrupted:
            get_run_logger().info("Stages:\n%s", markdown.tabulate_runs(self.runs).as_text())

    def run(self, name: str, task: Task[..., State[Any]], *arguments: Any) -> None:
        """Run a task. `TaskFailedError` if it fails, which ends the flow."""
        started = time.perf_counter()
        status_logger.info(name)
        state = task(*arguments, wait_for=self._upstream, return_state=True)
        seconds = time.perf_counter() - started
        # Why a task failed is said by its own line and by the flow's: the table need not repeat it.
        message = state.message or "" if state.is_completed() else ""
        self.runs.append(TaskRunSummary(name, str(state.name), seconds, message))
        if not state.is_completed():
            raise TaskFailedError(name, state)
        self._upstream = [state]

    @property
    def message(self) -> str:
        """Say which tasks did something."""
        ran = [run.name for run in self.runs if run.state != "Cached"]
        return f"ran: {', '.join(ran)}" if ran else "everything was up to date"


class ProgressReporter:
    """A reporter that shows how far a stage is: in the terminal's status line and as a Prefect artifact.

    The stage continues while the server cannot be reached.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._artifact: UUID | None = None
        self._last_update = -math.inf
        self._disabled = False

    def __call__(self, fraction: float, text: str) -> None:
        """Report the fraction done, 0 to 1, and a description."""
        status_logger.info("%s, %s", self._stage, text)
        now = time.monotonic()
        if self._disabled or (now - self._last_update < PROGRESS_UPDATE_INTERVAL_S and fraction < 1):
            return
        self._last_update = now
        try:
            if self._artifact is None:
                artifact = create_progress_artifact(100 * fraction, key=f"{self._stage}-progress")
                self._artifact = cast("UUID", artifact)
            else:
                update_progress_artifact(self._artifact, progress=100 * fraction)
        except Exception as error:  # noqa: BLE001 - whatever the client raises, the stage continues
            self._disabled = True
            get_run_logger().warning("progress artifact disabled: %s", type(error).__name__)
