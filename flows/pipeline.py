"""The pipeline as a Prefect flow: DVC's graph, each stage a task in the flow's own process."""

from pathlib import Path
from typing import Annotated, Any

from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed
from pydantic import Field

from flows.runtime import markdown
from flows.runtime.dvc_repro import (
    check_data_recorded,
    commit_data,
    open_repo,
    pull_data,
    repro_stage,
    topological_stages,
)
from flows.runtime.flow_run import (
    PARAMS,
    ProgressReporter,
    TaskChain,
    exclusive_workspace,
    fail_in_one_line,
    load_params,
)
from tasks.download import DataUnavailableError
from tasks.overrides import Overrides
from tasks.params import read_params
from tasks.stages import run_stage

DOWNLOAD_RETRIES = 2
DownloadRetries = Annotated[int, Field(ge=0, le=100)]
RETRY_DELAYS_S = [10.0, 60.0]


@flow(name="pipeline", log_prints=True)
@fail_in_one_line
def pipeline(
    overrides: Overrides | None = None,
    force: bool = False,
    wait: bool = True,
    download_retries: DownloadRetries = DOWNLOAD_RETRIES,
    workspace: Path = Path(),
) -> State[Any]:
    """A data set from download to a benchmarked ONNX model. Stages that are up to date are skipped.

    Args:
        overrides: parameters to change first; they are written into params.yaml
        force: re-run every stage, even if it is up to date
        wait: wait for another run in the workspace to finish instead of failing; a scheduled run never waits
        download_retries: how often to retry the sources of the data, after a delay
        workspace: the folder that holds dvc.yaml and params.yaml
    """
    chain = TaskChain()
    with exclusive_workspace(workspace, wait=wait):
        params = load_params(overrides)
        failed = run_download(chain, download_retries) or run_stages(chain, force=force)
        get_run_logger().info("Stages:\n%s", markdown.format_table(chain.runs))
        if failed is not None:
            return failed
        create_markdown_artifact(markdown.pipeline_markdown(chain.runs, params), key="pipeline")
    return Completed(message=chain.message)


def run_download(chain: TaskChain, retries: int) -> State[Any] | None:
    """Bring the data into the workspace. If that fails, return the state with which the flow should fail."""
    return chain.run_task("download", download.with_options(retries=retries))


def run_stages(chain: TaskChain, *, force: bool = False) -> State[Any] | None:
    """Run the stages in DVC's order. If one fails, return the state with which the flow should fail."""
    with open_repo() as repo:
        names = [str(stage.name) for stage in topological_stages(repo)]
    for name in names:
        stage = reproduce_stage.with_options(name=name, task_run_name=name)
        failed = chain.run_task(name, stage, name, force)
        if failed is not None:
            return failed
    return None


def _is_retryable(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, DataUnavailableError)


# DVC's hashes are the only cache, and stages write files: Prefect persists no results.
@task(
    task_run_name="download",
    log_prints=True,
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=_is_retryable,
)
@fail_in_one_line
def download() -> State[Any]:
    """The data in the workspace, verified: from the folder itself, DVC's cache or remote, or a download."""
    params = read_params(PARAMS)
    with open_repo() as repo:
        pulled = pull_data(repo)
        if params.dataset == "folder":
            check_data_recorded(repo)
    metrics = run_stage("download", params)
    if params.dataset != "folder":  # which only its owner records
        with open_repo() as repo:
            commit_data(repo)
    if pulled:
        return Completed(name="Restored", message="from the DVC cache or remote, verified")
    if metrics["source"] is None:
        return Completed(name="Cached", message="already present, verified")
    return Completed(message=f"from {metrics['source']}, verified")


@task(log_prints=True, cache_policy=NO_CACHE, persist_result=False)
@fail_in_one_line
def reproduce_stage(name: str, force: bool) -> State[Any]:
    """Bring one stage of dvc.yaml up to date."""
    params = read_params(PARAMS)
    with open_repo() as repo:
        result = repro_stage(repo, name, lambda: run_stage(name, params, ProgressReporter(name)), force=force)
    match result.state:
        case "cached":
            return Completed(name="Cached", message=result.reason)
        case "restored":
            return Completed(name="Restored", message=f"from the DVC cache ({result.reason})")
        case "ran":
            return Completed(message=result.reason)
