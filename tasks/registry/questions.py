"""Make and find the ledger's entries by which a person approves a challenger, or does not.

Where the comparison promotes a challenger but a person has to agree, the ledger gets an entry
`pending_approval`, the question. It has the evidence, and it is what counts as a look in
`tasks.registry.significance`. A question is open until a later entry decides about the same model. The
answer, an entry of its own, repeats the evidence.
"""

import datetime as dt
from dataclasses import replace

from tasks.registry.ledger import LedgerEntry, parse_time


def ask(entry: LedgerEntry, champion: LedgerEntry | None, deadline: dt.datetime) -> LedgerEntry:
    """Return the question whether to promote the entry's model, an entry to be appended."""
    approval = {
        "deadline": deadline.isoformat(timespec="seconds"),
        "champion_md5": champion.model_md5 if champion else None,
    }
    return replace(entry, decision="pending_approval", approval=approval)


def answer(question: LedgerEntry, *, approved: bool, person: str, reason: str) -> LedgerEntry:
    """Return the answer to a question, an entry to be appended; `person` is empty if nobody answered."""
    who = f"by {person}: {reason}" if person else f"({reason})"
    return replace(
        question,
        decision="promoted" if approved else "rejected",
        reason=f"{question.reason}, {'approved' if approved else 'not approved'} {who}",
        approval={"approved": approved, "person": person, "reason": reason},
    )


def find_open_questions(entries: list[LedgerEntry]) -> list[LedgerEntry]:
    """Return the questions that are the latest entry about their model."""
    latest = {entry.model_md5: entry for entry in entries}
    return [entry for entry in latest.values() if entry.decision == "pending_approval"]


def find_open_question(entries: list[LedgerEntry], flow_run_id: str) -> LedgerEntry | None:
    """Return the question that a flow run asked, if it is open."""
    questions = find_open_questions(entries)
    return next((question for question in questions if question.flow_run_id == flow_run_id), None)


def find_answer(entries: list[LedgerEntry], question: LedgerEntry) -> LedgerEntry | None:
    """Return the latest entry about the question's model, unless that is the question itself."""
    latest = next((entry for entry in reversed(entries) if entry.model_md5 == question.model_md5), question)
    # A merge of two ledgers may have given the question another version.
    return None if replace(latest, version=question.version) == question else latest


def asked_against(question: LedgerEntry, champion: LedgerEntry | None) -> bool:
    """Return whether the champion is still the one beside which the challenger was shown to the person."""
    assert question.approval is not None
    return bool(question.approval["champion_md5"] == (champion.model_md5 if champion else None))


def deadline(question: LedgerEntry) -> dt.datetime:
    """Return the time until which the question can be answered."""
    assert question.approval is not None
    return parse_time(question.approval["deadline"], question)
