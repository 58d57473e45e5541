"""Retraining: ingest new images, run the pipeline, decide which model is the champion."""

import contextlib
import datetime as dt
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.champion import publish
from flows.champion.approval import (
    ask,
    find_abandoned_questions,
    record_answer,
    require_respondent,
    was_asked,
)
from flows.champion.model import sync_champion
from flows.champion.results_branch import (
    REMOTE_RETRIES,
    DecisionSettings,
    PublishBranch,
    open_branch,
    publish_decision,
    pull_models,
    push_results,
    result_files,
)
from flows.drift import check_new_images
from flows.parameters import RetrainParameters
from flows.pipeline import run_download, run_stages
from flows.run import markdown
from flows.run.flow_run import (
    Skip,
    TaskChain,
    exclusive_workspace,
    load_params,
    workspace_flow,
    workspace_task,
)
from flows.run.lineage import record_data
from flows.versions.dvc_data import commit_data
from flows.versions.dvc_repro import changed_stages, find_output, open_repo
from tasks.incoming.ingest import ingest
from tasks.incoming.pending import list_pending
from tasks.params import PARAMS, Params, read_params
from tasks.registry import ledger
from tasks.registry.earlier_models import find_rollback
from tasks.registry.ledger import LedgerEntry
from tasks.registry.questions import deadline, find_open_question
from tasks.registry.serving_model import require_known_champion
from tasks.workspace.errors import RunError
from tasks.workspace.files import hash_file


@workspace_flow("retrain")
def retrain(parameters: RetrainParameters) -> State[Any]:
    """Ingest new images, run the pipeline and promote the new model if it is better than the champion."""
    if parameters.approve:
        require_respondent()
    # A run is in one of three states, which the ledger and Prefect remember: its model has not been compared
    # yet, it waits for a person's answer, or it has decided. An answer may come to another process or on
    # another machine. Only the decision is left to do then: the workspace may hold another run's results.
    resumed = was_asked()
    with exclusive_workspace(parameters, wait=resumed), TaskChain() as chain:
        settings = _open_settings(parameters, resumed=resumed)
        question = _read_question()
        if question is None and resumed:
            raise Skip("its challenger has been decided on already")
        if question is None:
            _challenge(chain, parameters, settings)
            question = _read_question()
    # There is another question if the champion has changed before the answer came.
    while question is not None:
        with contextlib.chdir(parameters.workspace):  # without its lock, which others may take meanwhile
            answer = ask(question, settings)
        with exclusive_workspace(parameters, wait=True):
            chain.run("approve", record_answer, question, answer, settings)
            question = _read_question()
    return Completed(name=chain.runs[-1].state, message=chain.runs[-1].message)


def _open_settings(parameters: RetrainParameters, *, resumed: bool) -> DecisionSettings:
    """Say how this run decides and publishes. A run that was resumed changes no parameters on its branch."""
    if parameters.branch is None:
        publish.check_publish(push=parameters.push, commit=parameters.commit)
    overrides = None if resumed else parameters.overrides
    return DecisionSettings(
        push=parameters.push,
        commit=parameters.commit,
        branch=open_branch(parameters.branch, overrides) if parameters.branch else None,
        approve_timeout=dt.timedelta(hours=parameters.approve_timeout_hours) if parameters.approve else None,
    )


def _read_question() -> LedgerEntry | None:
    """Return the question that this flow run has asked, if nobody has decided on it yet."""
    return find_open_question(ledger.read_ledger(), str(flow_run.id))


def _challenge(chain: TaskChain, parameters: RetrainParameters, settings: DecisionSettings) -> None:
    """Make a model and compare it with the champion. `Skip` if there is nothing new to compare."""
    require_known_champion()
    for question in find_abandoned_questions(ledger.read_ledger()):
        chain.run("approve", record_answer, question, None, settings)
    params = load_params(parameters.overrides)
    pull = settings.branch is not None
    with open_repo() as repo:
        if not pull:
            sync_champion(repo)
        run_download(chain, parameters.download_retries, pull=pull)
        chain.run("ingest", ingest_images)
        skip_reason = _skip_reason(params, pull=pull)
        if skip_reason is not None:
            raise Skip(skip_reason)
        run_stages(chain, pull=pull)
    chain.run("compare", compare_models, settings)


def _skip_reason(params: Params, *, pull: bool) -> str | None:
    """Say why there is nothing to do; None if a stage is outdated, or its model has not been compared."""
    with open_repo() as repo:
        if changed_stages(repo, pull=pull):
            return None
        md5 = find_output(repo, params.paths.onnx_model).hash_info.value
    return _describe_decision(ledger.read_ledger(), md5)


def _describe_decision(entries: list[LedgerEntry], md5: str | None) -> str | None:
    """Say why the model with that hash is not compared again; None where it is to be compared."""
    champion = ledger.current_champion(entries)
    latest = next((entry for entry in reversed(entries) if entry.model_md5 == md5), None)
    if latest is not None and latest.decision == "pending_approval":
        return (
            f"nothing changed, and {latest.flow_run_name} awaits approval of this model until "
            f"{deadline(latest):%Y-%m-%d %H:%M} UTC (or: cifarflow promote {latest.version} --reason ...)"
        )
    if champion is None or latest is None:
        return None
    if champion.model_md5 == md5:
        return f"nothing changed since {champion.label} was trained"
    rollback = find_rollback(entries, latest)
    if rollback is not None:
        reason = f"nothing changed since {rollback.day}, when this model was rolled back: {rollback.reason}"
        return f"{reason}; only a person promotes it again: cifarflow promote {latest.version} --reason ..."
    if latest.version > champion.version:
        return f"nothing changed since {latest.day}, when this model was rejected: {latest.reason}"
    return None


@workspace_task("ingest")
def ingest_images() -> State[Any]:
    """Check new images from `incoming/`, add them to training or validation and commit that to DVC."""
    params = read_params(PARAMS)
    folder = Path(params.ingest.folder)
    if not list_pending(folder):
        return Completed(name="Cached", message="no new images")
    doubted = _check_labels(params)
    check_new_images(params)
    result = ingest(folder, Path(params.paths.data), params.dataset, params.ingest, params.split)
    with open_repo() as repo:
        commit_data(repo)
        record_data(repo)
    create_markdown_artifact(markdown.ingest_markdown(result, doubted), key="ingest")
    return Completed(message=str(result))


def _check_labels(params: Params) -> list[dict[str, Any]]:
    """Return the new labels that the model doubts; where it cannot say, print why and return none."""
    from tasks.incoming.label_check import check_incoming_labels  # This brings PyTorch and SciPy.

    try:
        check = check_incoming_labels(params)
    except RunError as error:
        print(f"labels of new images are not checked: {error}")
        return []
    print(check)
    return check.doubted


@workspace_task("compare", **REMOTE_RETRIES)
def compare_models(settings: DecisionSettings) -> State[Any]:
    """Compare challenger and champion, record the decision in the ledger and publish it as asked for."""
    from flows.champion.decide import decide  # This brings PyTorch and SciPy, as not every retraining needs.

    params = read_params(PARAMS)
    take_decision = partial(decide, params, settings.approve_timeout)
    if settings.branch is None:
        entry = take_decision()
    else:
        entry = _decide_on_branch(params, settings.branch, take_decision)
    if entry.flow_run_id != str(flow_run.id):
        message = f"{entry.flow_run_name} has decided on the same model meanwhile: {entry.decision}"
        return Completed(name="Skipped", message=message)
    print(f"{entry.decision}: {entry.reason}")
    publish.show_decision(entry, params)
    if settings.branch is None:
        publish.save_experiment(entry, params, push=settings.push, commit=settings.commit)
    return Completed(message=f"{entry.decision}: {entry.reason}")


def _decide_on_branch(
    params: Params, branch: PublishBranch, take_decision: Callable[[], LedgerEntry]
) -> LedgerEntry:
    pull_models(params)
    push_results()
    md5 = hash_file(Path(params.paths.onnx_model), "md5")

    def find_accepted(entries: list[LedgerEntry]) -> LedgerEntry | None:
        """Find this run's decision, if the answer to its push got lost, or another run's on this model."""
        for i, entry in enumerate(entries):
            own = entry.flow_run_id == str(flow_run.id)
            if entry.model_md5 == md5 and (not entry.is_answer if own else i >= branch.num_decisions):
                return entry
        return None

    def decide_on_head() -> LedgerEntry:
        with open_repo() as repo:
            sync_champion(repo)
        return take_decision()

    return publish_decision(branch, result_files(params), decide_on_head, find_accepted)
