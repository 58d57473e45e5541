"""The pipeline as a Prefect flow, which runs each stage of DVC's graph as a task in its own process."""

from pathlib import Path
from typing import Any

from prefect import Task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed

from flows.champion.results_branch import open_branch, publish_results, push_stage
from flows.parameters import PipelineParameters
from flows.run import markdown
from flows.run.flow_run import (
    ProgressReporter,
    TaskChain,
    exclusive_workspace,
    load_params,
    workspace_flow,
    workspace_task,
)
from flows.run.lineage import record_data, record_stage
from flows.versions.dvc_data import check_data_recorded, commit_data, pull_data, require_data
from flows.versions.dvc_repro import open_repo, repro_stage, topological_stages
from tasks.dataset.catalog import open_dataset
from tasks.download import DataUnavailableError
from tasks.incoming.pending import list_pending
from tasks.params import PARAMS, read_params
from tasks.stages import STAGES, run_stage
from tasks.workspace.code import require_same_code

RETRY_DELAYS_S = [10.0, 60.0]


@workspace_flow("pipeline")
def pipeline(parameters: PipelineParameters) -> State[Any]:
    """Run all stages, from the download to a benchmarked model. Stages that are up to date are skipped."""
    force = parameters.force
    with exclusive_workspace(parameters), TaskChain() as chain:
        target = open_branch(parameters.branch, parameters.overrides) if parameters.branch else None
        params = load_params(parameters.overrides)
        with open_repo():
            run_download(chain, parameters.download_retries, pull=target is not None, force=force)
            run_stages(chain, pull=target is not None, force=force)
        if target is not None:
            chain.run("publish", publish_results, target)
        create_markdown_artifact(markdown.pipeline_markdown(chain.runs, params), key="pipeline")
    return Completed(message=chain.message)


def run_download(chain: TaskChain, retries: int, *, pull: bool = False, force: bool = False) -> None:
    """Bring the data into the workspace, with `pull` only if a stage needs them."""
    chain.run("download", download.with_options(retries=retries), pull and not force)


def run_stages(chain: TaskChain, *, pull: bool = False, force: bool = False) -> None:
    """Run the stages of dvc.yaml in DVC's order."""
    with open_repo() as repo:
        names = [str(stage.name) for stage in topological_stages(repo)]
    require_same_code(name for name in names if name in STAGES)
    for name in names:
        stage = reproduce_stage.with_options(name=name, task_run_name=name)
        chain.run(name, stage, name, pull, force)


def _is_retryable(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, DataUnavailableError)


@workspace_task("download", retry_delay_seconds=RETRY_DELAYS_S, retry_condition_fn=_is_retryable)
def download(if_needed: bool) -> State[Any]:
    """Bring the data into the workspace, verified: from the folder, DVC's cache or remote, or a download."""
    params = read_params(PARAMS)
    with open_repo() as repo:
        if if_needed and not require_data(repo) and not list_pending(Path(params.ingest.folder)):
            return Completed(name="Cached", message="not needed: what is made from them is up to date")
        pulled = pull_data(repo)
        if open_dataset(params.dataset).is_own:
            check_data_recorded(repo)
    metrics = run_stage("download", params)
    with open_repo() as repo:
        if not open_dataset(params.dataset).is_own:  # Only the owner of images records them.
            commit_data(repo)
        if pulled or metrics["source"] is not None:
            record_data(repo)
    if pulled:
        return Completed(name="Restored", message="from the DVC cache or remote, verified")
    if metrics["source"] is None:
        return Completed(name="Cached", message="already present, verified")
    return Completed(message=f"from {metrics['source']}, verified")


@workspace_task()
def reproduce_stage(name: str, pull: bool, force: bool) -> State[Any]:
    """Bring one stage of dvc.yaml up to date.

    With `pull`, it takes what it needs from the DVC remote, and pushes there what it makes.
    """

    def run() -> dict[str, Any]:
        return run_stage(name, read_params(PARAMS), ProgressReporter(name))

    with open_repo() as repo:
        result = repro_stage(repo, name, run, force=force, pull=pull)
        if result.state != "cached":
            record_stage(repo, name)
    if pull and result.state == "ran":
        push_stage(name)
    match result.state:
        case "cached":
            return Completed(name="Cached", message=result.reason)
        case "restored":
            return Completed(name="Restored", message=f"from the DVC cache ({result.reason})")
        case "ran":
            return Completed(message=result.reason)
