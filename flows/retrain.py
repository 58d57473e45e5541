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

from flows.pipeline import DOWNLOAD_RETRIES, PARAMS, Course, at_work, ended_by, given_params
from flows.runtime import markdown, publish
from flows.runtime.champion import crown, hashes_of, settle
from flows.runtime.dvc_repro import opened, outdated, record_data
from tasks.dataset.ingest import Intake, as_rows, take_in, waiting
from tasks.inference.onnx_classifier import read_model
from tasks.params import Overrides, Params, read_params
from tasks.registry import ledger
from tasks.registry.compare import Decision, compare
from tasks.registry.ledger import CHAMPION, Entry
from tasks.workspace.errors import RunError

MODEL = "cifarflow.model.cifar10-classifier"


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
    course = Course()
    try:
        with at_work(workspace, wait=wait):
            params = given_params(overrides)
            with opened() as repo:
                settle(repo)
            failed = course.download(download_retries) or course.follow("incoming", take_in_pictures)
            if failed is None:
                undecided = _undecided(params)
                if undecided is not None:
                    return Completed(name="Skipped", message=undecided)
                failed = course.stages(force=False)
            if failed is None:
                failed = course.follow("compare", judge, push, commit)
            get_run_logger().info("The stages:\n%s", markdown.as_table(course.runs))
            if failed is not None:
                return failed
    except RunError as error:
        return ended_by(error)
    return Completed(message=course.runs[-1].why)


def _undecided(params: Params) -> str | None:
    """Why there is nothing to do, if so: no stage would run, and the model that they made was judged."""
    model = Path(params.paths.onnx_model)
    with opened() as repo:
        if outdated(repo) or not model.is_file():
            return None
    md5 = ledger.file_md5(model)
    entries = ledger.read_ledger()
    champion = ledger.champion(entries)
    if champion is None:
        return None
    if champion.model_md5 == md5:
        return f"nothing changed since {champion.title} was trained"
    judged = next((entry for entry in reversed(entries) if entry.model_md5 == md5), None)
    if judged is not None and judged.number > champion.number:
        return f"nothing changed since {judged.time[:10]}, when this model was refused: {judged.why}"
    return None


@task(name="incoming", task_run_name="incoming", log_prints=True, cache_policy=NO_CACHE, persist_result=False)
def take_in_pictures() -> State[Any]:
    """New pictures from `incoming/`, checked, into the training set, which DVC then holds."""
    try:
        params = read_params(PARAMS)
        folder = Path(params.incoming.folder)
        if not waiting(folder):
            return Completed(name="Cached", message="no new pictures")
        intake = take_in(folder, Path(params.paths.data), params.dataset, params.incoming)
        with opened() as repo:
            record_data(repo)
        create_markdown_artifact(_intake_page(intake), key="incoming")
    except RunError as error:
        return Failed(message=str(error), data=error)
    return Completed(message=str(intake))


def _intake_page(intake: Intake) -> str:
    taken = [f"| {label} | {count:,} |" for label, count in sorted(intake.taken.items())]
    head = ["| class | taken |", "| --- | ---: |"] if taken else []
    return "\n".join([f"# {intake}", "", *head, *taken, "", *as_rows(intake.refused.items())]) + "\n"


@task(name="compare", task_run_name="compare", log_prints=True, cache_policy=NO_CACHE, persist_result=False)
def judge(push: bool, commit: bool) -> State[Any]:
    """Challenger against champion; the decision goes to the ledger, and what was asked for to the remotes."""
    try:
        params = read_params(PARAMS)
        entry = _decided(params)
        print(f"{entry.verdict}: {entry.why}")
        create_markdown_artifact(markdown.as_decision(entry), key="decision")
        _tell(entry)
        publish.keep(entry, params, push=push, commit=commit)
    except RunError as error:
        return Failed(message=str(error), data=error)
    return Completed(message=f"{entry.verdict}: {entry.why}")


def _decided(params: Params) -> Entry:
    began = time.perf_counter()
    challenger = Path(params.paths.onnx_model)
    before = ledger.champion(ledger.read_ledger())
    decision = compare(
        challenger,
        CHAMPION if before else None,
        Path(params.paths.splits),
        markdown.read_json(params.paths.benchmarks)["parity"],
        params.compare,
        champion_val_sha256=before.evidence.get("val_sha256") if before else None,
    )
    with opened() as repo:
        entry = _entered(repo, decision, challenger, params)
    print(f"decided in {time.perf_counter() - began:.1f} s")
    return entry


def _entered(repo: Repo, decision: Decision, challenger: Path, params: Params) -> Entry:
    entry = Entry(
        verdict="promoted" if decision.promote else "refused",
        why=decision.why,
        model_md5=ledger.file_md5(challenger),
        model_bytes=challenger.stat().st_size,
        run=str(flow_run.name),
        run_id=str(flow_run.id),
        hashes=hashes_of(repo, params.model_dump_json(), read_model(challenger).run),
        evidence=decision.evidence.as_dict(),
    )
    return crown(repo, entry) if decision.promote else ledger.append(entry)


def _tell(entry: Entry) -> None:
    """The event on which automations can act: `cifarflow.model.promoted`, `.refused` or `.rolled-back`."""
    emit_event(
        event=f"cifarflow.model.{entry.verdict}",
        resource={"prefect.resource.id": MODEL, "prefect.resource.name": "CIFAR-10 classifier"},
        related=[
            {"prefect.resource.id": f"prefect.flow-run.{entry.run_id}", "prefect.resource.role": "flow-run"}
        ],
        payload={
            "number": entry.number,
            "why": entry.why,
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
        with at_work(workspace, wait=wait), opened() as repo:
            earlier = ledger.earlier(ledger.read_ledger(), number)
            if number == 0:
                settle(repo)
                return Completed(message=f"{CHAMPION} is {earlier.title}")
            entry = crown(
                repo,
                replace(
                    earlier,
                    verdict="rolled-back",
                    why=f"put back by hand: {earlier.title}",
                    run=str(flow_run.name),
                    run_id=str(flow_run.id),
                ),
            )
            create_markdown_artifact(markdown.as_decision(entry), key="decision")
            _tell(entry)
    except RunError as error:
        return ended_by(error)
    return Completed(message=f"{CHAMPION} is {earlier.title} again")
