"""Retraining: new pictures in, the pipeline, then the decision which model serves."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.pipeline import DOWNLOAD_RETRIES, PARAMS, TaskChain, exclusive_workspace, failed_state, load_params
from flows.runtime import markdown, publish
from flows.runtime.champion import promote, provenance_hashes, sync_champion
from flows.runtime.dvc_repro import changed_stages, commit_data, open_repo
from tasks.dataset.ingest import IngestResult, ingest, list_pending, rejected_markdown
from tasks.inference.onnx_classifier import load_model
from tasks.overrides import Overrides
from tasks.params import Params, read_params
from tasks.registry import ledger
from tasks.registry.compare import NUM_THREADS, Decision, compare
from tasks.registry.ledger import CHAMPION, LedgerEntry
from tasks.workspace.errors import RunError
from tasks.workspace.files import hash_file

MODEL_RESOURCE_ID = "cifarflow.model.cifar10-classifier"


@flow(name="retrain", log_prints=True)
def retrain(
    overrides: Overrides | None = None,
    push: bool = False,
    commit: bool = False,
    wait: bool = True,
    download_retries: int = DOWNLOAD_RETRIES,
    workspace: Path = Path(),
) -> State[Any]:
    """Take in new pictures, run the pipeline, and promote its model where it is better than the champion.

    Args:
        overrides: parameters to change first; they are written into params.yaml
        push: push data, models and the experiment to the remotes
        commit: commit ledger, lock and reports to the branch retrain/DATE, never to the one checked out
        wait: where another run is at work in the workspace, wait for its end; a scheduled run never does
        download_retries: how often to go through the sources of the data again, after a while
        workspace: the folder that holds dvc.yaml and params.yaml
    """
    course = TaskChain()
    try:
        with exclusive_workspace(workspace, wait=wait):
            params = load_params(overrides)
            with open_repo() as repo:
                sync_champion(repo)
            failed = course.run_download(download_retries) or course.run_task("ingest", ingest_images)
            if failed is None:
                undecided = _skip_reason(params)
                if undecided is not None:
                    return Completed(name="Skipped", message=undecided)
                failed = course.run_stages(force=False)
            if failed is None:
                failed = course.run_task("compare", compare_models, push, commit)
            get_run_logger().info("The stages:\n%s", markdown.format_table(course.runs))
            if failed is not None:
                return failed
    except RunError as error:
        return failed_state(error)
    return Completed(message=course.runs[-1].message)


def _skip_reason(params: Params) -> str | None:
    """Why there is nothing to do, if so: no stage would run, and the model that they made was judged."""
    model = Path(params.paths.onnx_model)
    with open_repo() as repo:
        if changed_stages(repo) or not model.is_file():
            return None
    md5 = hash_file(model, "md5")
    entries = ledger.read_ledger()
    champion = ledger.current_champion(entries)
    if champion is None:
        return None
    if champion.model_md5 == md5:
        return f"nothing changed since {champion.label} was trained"
    judged = next((entry for entry in reversed(entries) if entry.model_md5 == md5), None)
    if judged is not None and judged.version > champion.version:
        return f"nothing changed since {judged.time[:10]}, when this model was refused: {judged.reason}"
    return None


@task(name="ingest", task_run_name="ingest", log_prints=True, cache_policy=NO_CACHE, persist_result=False)
def ingest_images() -> State[Any]:
    """New pictures from `incoming/`, checked, into the training set, which DVC then holds."""
    try:
        params = read_params(PARAMS)
        folder = Path(params.ingest.folder)
        if not list_pending(folder):
            return Completed(name="Cached", message="no new pictures")
        intake = ingest(folder, Path(params.paths.data), params.dataset, params.ingest)
        with open_repo() as repo:
            commit_data(repo)
        create_markdown_artifact(_ingest_markdown(intake), key="incoming")
    except RunError as error:
        return Failed(message=str(error), data=error)
    return Completed(message=str(intake))


def _ingest_markdown(intake: IngestResult) -> str:
    taken = [f"| {label} | {count:,} |" for label, count in sorted(intake.accepted.items())]
    head = ["| class | taken |", "| --- | ---: |"] if taken else []
    return (
        "\n".join([f"# {intake}", "", *head, *taken, "", *rejected_markdown(intake.rejected.items())]) + "\n"
    )


@task(name="compare", task_run_name="compare", log_prints=True, cache_policy=NO_CACHE, persist_result=False)
def compare_models(push: bool, commit: bool) -> State[Any]:
    """Challenger against champion; the decision goes to the ledger, and what was asked for to the remotes."""
    try:
        params = read_params(PARAMS)
        entry = _decide(params)
        print(f"{entry.decision}: {entry.reason}")
        create_markdown_artifact(markdown.decision_markdown(entry), key="decision")
        _emit_decision_event(entry)
        publish.save_experiment(entry, params, push=push, commit=commit)
    except RunError as error:
        return Failed(message=str(error), data=error)
    return Completed(message=f"{entry.decision}: {entry.reason}")


def _decide(params: Params) -> LedgerEntry:
    began = time.perf_counter()
    challenger = Path(params.paths.onnx_model)
    before = ledger.current_champion(ledger.read_ledger())
    decision = compare(
        load_model(challenger, NUM_THREADS),
        load_model(CHAMPION, NUM_THREADS) if before else None,
        Path(params.paths.splits),
        markdown.read_json(params.paths.benchmarks)["parity"],
        params.compare,
        champion_val_sha256=before.evidence.get("val_sha256") if before else None,
    )
    with open_repo() as repo:
        entry = _record_decision(repo, decision, challenger, params)
    print(f"decided in {time.perf_counter() - began:.1f} s")
    return entry


def _record_decision(repo: Repo, decision: Decision, challenger: Path, params: Params) -> LedgerEntry:
    entry = LedgerEntry(
        decision="promoted" if decision.promote else "rejected",
        reason=decision.reason,
        model_md5=hash_file(challenger, "md5"),
        model_bytes=challenger.stat().st_size,
        flow_run_name=str(flow_run.name),
        flow_run_id=str(flow_run.id),
        provenance=provenance_hashes(repo, params.model_dump_json(), load_model(challenger).metadata),
        evidence=decision.evidence.as_dict(),
    )
    return promote(repo, entry) if decision.promote else ledger.append(entry)


def _emit_decision_event(entry: LedgerEntry) -> None:
    """The event on which automations can act: `cifarflow.model.promoted`, `.rejected` or `.rolled_back`."""
    emit_event(
        event=f"cifarflow.model.{entry.decision}",
        resource={"prefect.resource.id": MODEL_RESOURCE_ID, "prefect.resource.name": "CIFAR-10 classifier"},
        related=[
            {
                "prefect.resource.id": f"prefect.flow-run.{entry.flow_run_id}",
                "prefect.resource.role": "flow-run",
            }
        ],
        payload={
            "version": entry.version,
            "reason": entry.reason,
            "model_md5": entry.model_md5,
            "evidence": dict(entry.evidence),
        },
    )


@flow(name="rollback", log_prints=True)
def rollback(number: int | None = None, wait: bool = True, workspace: Path = Path()) -> State[Any]:
    """Put back an earlier champion, from DVC's cache or remote.

    Args:
        number: its line in the ledger; by default the champion before this one; 0: this one, anew
        wait: where another run is at work in the workspace, wait for its end
        workspace: the folder that holds dvc.yaml and params.yaml
    """
    try:
        with exclusive_workspace(workspace, wait=wait), open_repo() as repo:
            entries = ledger.read_ledger()
            if number == 0:
                earlier = ledger.require_champion(entries)
                sync_champion(repo)
                return Completed(message=f"{CHAMPION} is {earlier.label}")
            earlier = ledger.resolve_rollback_target(entries, number)
            entry = promote(
                repo,
                replace(
                    earlier,
                    decision="rolled_back",
                    reason=f"put back by hand: {earlier.label}",
                    flow_run_name=str(flow_run.name),
                    flow_run_id=str(flow_run.id),
                ),
            )
            create_markdown_artifact(markdown.decision_markdown(entry), key="decision")
            _emit_decision_event(entry)
    except RunError as error:
        return failed_state(error)
    return Completed(message=f"{CHAMPION} is {earlier.label} again")
