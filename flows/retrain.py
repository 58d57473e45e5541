"""Retraining: ingest new images, run the pipeline, decide which model is the champion; roll back."""

import time
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.drift import report_drift
from flows.pipeline import DOWNLOAD_RETRIES, DownloadRetries, run_download, run_stages
from flows.runtime import markdown, publish
from flows.runtime.assets import record_data
from flows.runtime.champion import promote, provenance_hashes, sync_champion
from flows.runtime.drift import check_drift, read_intakes, record_intake
from flows.runtime.dvc_data import commit_data
from flows.runtime.dvc_repro import changed_stages, find_output, open_repo
from flows.runtime.flow_run import (
    PARAMS,
    TaskChain,
    exclusive_workspace,
    fail_in_one_line,
    load_params,
)
from flows.runtime.incoming_labels import check_incoming_labels
from flows.runtime.portable import (
    REMOTE_RETRIES,
    PublishBranch,
    open_branch,
    publish_decision,
    pull_models,
    push_results,
    result_files,
)
from tasks.dataset.ingest import ingest, list_pending
from tasks.inference.onnx_classifier import load_model
from tasks.overrides import Overrides
from tasks.params import Params, read_params
from tasks.registry import ledger
from tasks.registry.compare import NUM_THREADS, Decision, compare
from tasks.registry.ledger import CHAMPION, LedgerEntry
from tasks.workspace.errors import RunError
from tasks.workspace.files import hash_file, read_json


@flow(name="retrain", log_prints=True)
@fail_in_one_line
def retrain(
    overrides: Overrides | None = None,
    push: bool = False,
    commit: bool = False,
    wait: bool = True,
    download_retries: DownloadRetries = DOWNLOAD_RETRIES,
    branch: str | None = None,
    workspace: Path = Path(),
) -> State[Any]:
    """Ingest new images, run the pipeline and promote the new model if it is better than the champion.

    Args:
        overrides: parameters to change first; they are written into params.yaml
        push: push data, models and the experiment to the remotes
        commit: commit the ledger, DVC's files, params.yaml and the reports to the branch retrain/DATE,
            never to the one checked out
        wait: wait for another run in the workspace to finish instead of failing; a scheduled run never waits
        download_retries: how often to retry the sources of the data, after a delay
        branch: pull what the run needs from the DVC remote, push there what it makes, and the decision to
            this branch of the Git remote, whose ledger counts; for a run in a clone of its own
        workspace: the folder that holds dvc.yaml and params.yaml
    """
    chain = TaskChain()
    with exclusive_workspace(workspace, wait=wait):
        target = open_branch(branch, overrides) if branch else None
        params = load_params(overrides)
        pull = target is not None
        if not pull:
            with open_repo() as repo:
                sync_champion(repo)
        failed = run_download(chain, download_retries, pull=pull) or chain.run_task("ingest", ingest_images)
        if failed is None:
            skip_reason = _skip_reason(params, pull=pull)
            if skip_reason is not None:
                return Completed(name="Skipped", message=skip_reason)
            failed = run_stages(chain, pull=pull) or chain.run_task(
                "compare", compare_models, push, commit, target
            )
        get_run_logger().info("Stages:\n%s", markdown.format_table(chain.runs))
        if failed is not None:
            return failed
    return Completed(name=chain.runs[-1].state, message=chain.runs[-1].message)


def _skip_reason(params: Params, *, pull: bool) -> str | None:
    """Why there is nothing to do; None unless all stages are up to date and their model has been compared."""
    with open_repo() as repo:
        if changed_stages(repo, pull=pull):
            return None
        md5 = find_output(repo, params.paths.onnx_model).hash_info.value
    entries = ledger.read_ledger()
    champion = ledger.current_champion(entries)
    if champion is None:
        return None
    if champion.model_md5 == md5:
        return f"nothing changed since {champion.label} was trained"
    latest = next((entry for entry in reversed(entries) if entry.model_md5 == md5), None)
    if latest is not None and latest.version > champion.version:
        return f"nothing changed since {latest.time[:10]}, when this model was rejected: {latest.reason}"
    return None


@task(name="ingest", task_run_name="ingest", log_prints=True, cache_policy=NO_CACHE, persist_result=False)
@fail_in_one_line
def ingest_images() -> State[Any]:
    """Check new images from `incoming/`, add them to training or validation and commit that to DVC."""
    params = read_params(PARAMS)
    folder = Path(params.ingest.folder)
    if not list_pending(folder):
        return Completed(name="Cached", message="no new images")
    doubted = _check_labels(params)
    _check_drift(params)
    result = ingest(folder, Path(params.paths.data), params.dataset, params.ingest, params.split)
    with open_repo() as repo:
        commit_data(repo)
        record_data(repo)
    create_markdown_artifact(markdown.ingest_markdown(result, doubted), key="ingest")
    return Completed(message=str(result))


def _check_labels(params: Params) -> list[dict[str, Any]]:
    """The new labels that the model doubts; none, with a note, where it cannot say."""
    try:
        check = check_incoming_labels(params)
    except RunError as error:
        print(f"labels of new images are not checked: {error}")
        return []
    print(check)
    return check.doubted


def _check_drift(params: Params) -> None:
    """Test new images for drift: it stops nothing, but is in the decision's evidence."""
    try:
        check = check_drift(params)
    except RunError as error:
        print(f"drift of new images is not tested: {error}")
        return
    record_intake(check, params)
    report_drift(check, "retrain")


@task(
    name="compare",
    task_run_name="compare",
    log_prints=True,
    cache_policy=NO_CACHE,
    persist_result=False,
    **REMOTE_RETRIES,
)
@fail_in_one_line
def compare_models(push: bool, commit: bool, target: PublishBranch | None) -> State[Any]:
    """Challenger against champion: record the decision in the ledger, then publish it as asked for."""
    params = read_params(PARAMS)
    entry = _decide(params) if target is None else _decide_on_branch(params, target)
    if entry.flow_run_id != str(flow_run.id):
        message = f"{entry.flow_run_name} has decided on the same model meanwhile: {entry.decision}"
        return Completed(name="Skipped", message=message)
    print(f"{entry.decision}: {entry.reason}")
    publish.show_decision(entry, params)
    if target is None:
        publish.save_experiment(entry, params, push=push, commit=commit)
    return Completed(message=f"{entry.decision}: {entry.reason}")


def _decide_on_branch(params: Params, branch: PublishBranch) -> LedgerEntry:
    def decide() -> LedgerEntry:
        with open_repo() as repo:
            sync_champion(repo)
        return _decide(params)

    pull_models(params)
    push_results()
    md5 = hash_file(Path(params.paths.onnx_model), "md5")
    return publish_decision(branch, result_files(params), decide, md5)


def _decide(params: Params) -> LedgerEntry:
    started = time.perf_counter()
    challenger = Path(params.paths.onnx_model)
    entries = ledger.read_ledger()
    champion = ledger.current_champion(entries)
    decision = compare(
        load_model(challenger, NUM_THREADS),
        load_model(CHAMPION, NUM_THREADS) if champion else None,
        Path(params.paths.splits),
        read_json(Path(params.paths.benchmarks))["parity"],
        params.compare,
        champion_val_sha256=champion.evidence.get("val_sha256") if champion else None,
        earlier_looks=ledger.look_times(entries),
    )
    intakes = read_intakes(params, since=entries[-1].time if entries else "")
    evidence = decision.evidence.as_dict() | ({"drift": intakes} if intakes else {})
    with open_repo() as repo:
        entry = _record_decision(repo, decision, evidence, challenger, params)
    print(f"compared in {time.perf_counter() - started:.1f} s")
    return entry


def _record_decision(
    repo: Repo, decision: Decision, evidence: dict[str, Any], challenger: Path, params: Params
) -> LedgerEntry:
    entry = LedgerEntry(
        decision="promoted" if decision.promote else "rejected",
        reason=decision.reason,
        model_md5=hash_file(challenger, "md5"),
        model_bytes=challenger.stat().st_size,
        flow_run_name=str(flow_run.name),
        flow_run_id=str(flow_run.id),
        provenance=provenance_hashes(repo, params.model_dump_json(), load_model(challenger).metadata),
        evidence=evidence,
    )
    return promote(repo, entry) if decision.promote else ledger.append(entry)
