"""A person's yes or no to a challenger that the comparison promotes, in the ledger.

The question is a line of its own, `pending_approval`: it has the evidence, and is the look of
`tasks.registry.sequential`. It is open until a later line is on the same model. The answer repeats its
evidence.
"""

import datetime as dt
from dataclasses import replace

from tasks.registry.ledger import LedgerEntry, parse_time


def ask(entry: LedgerEntry, champion: LedgerEntry | None, deadline: dt.datetime) -> LedgerEntry:
    """The question whether to promote the entry's model, to be appended."""
    approval = {
        "deadline": deadline.isoformat(timespec="seconds"),
        "champion_md5": champion.model_md5 if champion else None,
    }
    return replace(entry, decision="pending_approval", approval=approval)


def answer(question: LedgerEntry, *, approved: bool, person: str, reason: str) -> LedgerEntry:
    """The decision on a question, to be appended; no person where nobody answered."""
    who = f"by {person}: {reason}" if person else f"({reason})"
    return replace(
        question,
        decision="promoted" if approved else "rejected",
        reason=f"{question.reason}, {'approved' if approved else 'not approved'} {who}",
        approval={"approved": approved, "person": person, "reason": reason},
    )


def find_open_questions(entries: list[LedgerEntry]) -> list[LedgerEntry]:
    latest = {entry.model_md5: entry for entry in entries}
    return [entry for entry in latest.values() if entry.decision == "pending_approval"]


def find_open_question(entries: list[LedgerEntry], flow_run_id: str) -> LedgerEntry | None:
    """The question of a flow run, if it is open."""
    questions = find_open_questions(entries)
    return next((question for question in questions if question.flow_run_id == flow_run_id), None)


def find_answer(entries: list[LedgerEntry], question: LedgerEntry) -> LedgerEntry | None:
    """The latest entry on the model, unless that is the question itself."""
    latest = next((entry for entry in reversed(entries) if entry.model_md5 == question.model_md5), question)
    # A merge of two ledgers may have given it another number.
    return None if replace(latest, version=question.version) == question else latest


def asked_against(question: LedgerEntry, champion: LedgerEntry | None) -> bool:
    """Whether the champion is still the one with which the person was shown the challenger."""
    assert question.approval is not None
    return bool(question.approval["champion_md5"] == (champion.model_md5 if champion else None))


def deadline(question: LedgerEntry) -> dt.datetime:
    assert question.approval is not None
    return parse_time(question.approval["deadline"], question)
