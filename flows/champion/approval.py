"""Ask a person in Prefect's UI or on the terminal whether a challenger is promoted.

A deployed run is suspended: its process ends, and Prefect starts the run again when somebody has answered.
What was asked is in the ledger, so the run then goes straight to the answer.
"""

import datetime as dt
import getpass
import sys
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

import click
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import AfterValidator, Field, ValidationError

from flows.champion.model import find_outcome, promote
from flows.champion.publish import commit_to_branch, show_decision
from flows.champion.results_branch import (
    REMOTE_RETRIES,
    DecisionSettings,
    locate_page,
    publish_decision,
)
from flows.champion.smoke_test import confirm_promotion
from flows.run import markdown
from flows.run.flow_run import (
    read_pause_keys,
    status_logger,
    workspace_task,
)
from flows.versions.dvc_repro import open_repo
from tasks.params import PARAMS, Params, read_params
from tasks.registry import ledger
from tasks.registry import questions as registry
from tasks.registry.earlier_models import reject_if_rolled_back
from tasks.registry.ledger import LedgerEntry, to_line
from tasks.registry.serving_model import require_known_champion
from tasks.workspace.errors import InputError

KEY_PREFIX = "approve-"

Line = Annotated[str, Field(min_length=1, pattern=r"\S"), AfterValidator(to_line)]


class Approval(RunInput):
    """A person's answer. Prefect's UI makes its form of these fields."""

    # Without a default, the UI would refuse a no: it sends nothing for a toggle that nobody touched.
    approve: bool = Field(default=False, description="Promote this model?")
    reason: Line = Field(description="Why or why not; recorded in the ledger.")
    person: Line = Field(description="Who decides; recorded in the ledger.")


def require_respondent() -> None:
    """Raise `InputError` where this flow run could ask nobody."""
    if not _is_deployed() and not sys.stdin.isatty():
        raise InputError(
            "approve asks in Prefect's UI or on a terminal; this run is not deployed and has none"
        )


def was_asked() -> bool:
    """Return whether this flow run was suspended for an answer before."""
    return any(key.startswith(KEY_PREFIX) for key in read_pause_keys())


def ask(question: LedgerEntry, settings: DecisionSettings) -> Approval | None:
    """Return the answer; None if the time was over. This does not return if it suspends the flow run.

    The question names the page of the comparison, and the commit that holds it, to be looked at before.
    """
    description = markdown.decision_markdown(question, locate_page(question, settings))
    if not _is_deployed():
        return _ask_on_terminal(description)
    assert question.approval is not None
    remaining = registry.deadline(question) - dt.datetime.now(dt.UTC)
    # The same question is not asked twice: with a key that it knows, Prefect gives the answer.
    key = f"{KEY_PREFIX}{question.model_md5}-{question.approval['champion_md5'] or 'none'}"
    try:
        return suspend_flow_run(
            wait_for_input=Approval.with_initial_data(description=description),
            timeout=max(1, round(remaining.total_seconds())),
            key=key,
        )
    except ValidationError:
        if key not in read_pause_keys():
            raise
        return None  # Somebody started the run again after the time was over.


def find_abandoned_questions(entries: list[LedgerEntry]) -> list[LedgerEntry]:
    """Return the open questions that can get no answer any more."""
    return [question for question in registry.find_open_questions(entries) if _is_abandoned(question)]


@workspace_task("approve", **REMOTE_RETRIES)
def record_answer(question: LedgerEntry, answer: Approval | None, settings: DecisionSettings) -> State[Any]:
    """Record in the ledger what follows from an answer, or from its absence, and publish it as asked for.

    If the champion is another one by now, a yes leads to another comparison.
    """
    params = read_params(PARAMS)

    def decide() -> LedgerEntry:
        return confirm_promotion(_decide(question, answer, params, settings.approve_timeout))

    if settings.branch is None:
        entries = ledger.read_ledger()
        answered = registry.find_answer(entries, question)
        entry = find_outcome(entries, answered) if answered else decide()
    else:
        entry = publish_decision(
            settings.branch, [], decide, lambda entries: registry.find_answer(entries, question)
        )
    if entry.flow_run_id != str(flow_run.id):
        message = f"{entry.flow_run_name} has decided on the same model meanwhile: {entry.decision}"
        return Completed(name="Skipped", message=message)
    print(f"{entry.decision}: {entry.reason}")
    show_decision(entry, params)
    if settings.commit and settings.branch is None:
        print(f"committed to the branch {commit_to_branch(entry, params)}")
    return Completed(message=f"{entry.decision}: {entry.reason}")


def _decide(
    question: LedgerEntry, answer: Approval | None, params: Params, timeout: dt.timedelta | None
) -> LedgerEntry:
    require_known_champion()
    entries = ledger.read_ledger()
    champion = ledger.current_champion(entries)
    if answer is None:
        answered = registry.answer(question, approved=False, person="", reason=_describe_silence(question))
    elif answer.approve and not registry.asked_against(question, champion):
        from flows.champion.decide import decide_again  # This brings PyTorch and SciPy.

        return decide_again(question, answer.person, params, timeout)
    else:
        answered = registry.answer(
            question, approved=answer.approve, person=answer.person, reason=answer.reason
        )
    answered = reject_if_rolled_back(entries, answered)
    answered = replace(answered, flow_run_name=str(flow_run.name), flow_run_id=str(flow_run.id))
    if not answered.is_promotion:
        return ledger.append(answered)
    with open_repo() as repo:
        return promote(repo, answered)


def _describe_silence(question: LedgerEntry) -> str:
    deadline = registry.deadline(question)
    if deadline < dt.datetime.now(dt.UTC):
        return f"no answer by {deadline:%Y-%m-%d %H:%M} UTC"
    return f"{question.flow_run_name} ended without an answer"


def _is_abandoned(question: LedgerEntry) -> bool:
    """Return whether the run that asked has ended; if Prefect does not know it, whether its time is over."""
    try:
        with get_client(sync_client=True) as client:
            asked_by = client.read_flow_run(UUID(question.flow_run_id))
    except (ObjectNotFound, ValueError):  # Another server has that run.
        asked_by = None
    if asked_by is not None and asked_by.deployment_id is not None and asked_by.state is not None:
        return asked_by.state.is_final()
    return registry.deadline(question) < dt.datetime.now(dt.UTC)


def _is_deployed() -> bool:
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None


def _ask_on_terminal(description: str) -> Approval:
    """Ask the person at the terminal.

    Ctrl-C, or an end of the input, is a no, whose reason holds what was typed before.
    """
    status_logger.info("")
    click.echo(description, err=True)
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # The user of a container may have no name.
        login = None
    typed: list[str] = []
    try:
        approve = click.confirm("Promote this model?", default=None, err=True)
        typed.append("yes" if approve else "no")
        typed.append(click.prompt("Why or why not?", value_proc=_require_text, err=True))
        person = click.prompt("Who decides?", default=login, value_proc=_require_text, err=True)
        return Approval(approve=approve, reason=typed[-1], person=person)
    except click.Abort:
        click.echo(err=True)
        reason = f"interrupted after: {', '.join(typed)}" if typed else "interrupted"
        return Approval(approve=False, reason=reason, person=login or "unknown")


def _require_text(text: str) -> str:
    if not text.strip():
        raise click.BadParameter("it must not be empty")
    return text
