import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.registry.ledger import LedgerEntry, append, current_champion, look_times, read_ledger
from tasks.registry.questions import (
    answer,
    ask,
    asked_against,
    deadline,
    find_answer,
    find_open_question,
    find_open_questions,
)
from tasks.workspace.errors import RunError

MONDAY = dt.datetime(2026, 1, 5, 3, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def _enter_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_entry(md5: str) -> LedgerEntry:
    return LedgerEntry("promoted", "+1%", md5 * 32, 9, f"run {md5}", md5, {"data": "d"}, {"p_value": 0.001})


def ask_about(md5: str) -> LedgerEntry:
    append(ask(make_entry(md5), current_champion(read_ledger()), MONDAY))
    return read_ledger()[-1]


def test_question_is_a_look_and_no_promotion_and_its_answer_is_the_reverse() -> None:
    champion = append(make_entry("a"))
    question = ask_about("b")
    assert question.decision == "pending_approval"
    assert question.approval == {"deadline": "2026-01-05T03:00:00+00:00", "champion_md5": "a" * 32}
    assert deadline(question) == MONDAY
    assert current_champion(read_ledger()) == champion
    assert find_open_questions(read_ledger()) == [question]
    assert find_open_question(read_ledger(), "b") == question
    assert find_open_question(read_ledger(), "a") is None
    assert find_answer(read_ledger(), question) is None
    assert len(look_times(read_ledger())) == 2

    answered = append(answer(question, approved=True, person="ada", reason="why not"))
    assert answered.reason == "+1%, approved by ada: why not"
    entries = read_ledger()
    assert current_champion(entries) == answered
    assert find_answer(entries, question) == answered
    assert find_open_questions(entries) == []
    assert len(look_times(entries)) == 2


def test_question_is_open_until_a_later_entry_is_on_its_model() -> None:
    first, second = ask_about("b"), ask_about("c")
    assert find_open_questions(read_ledger()) == [first, second]
    append(answer(first, approved=False, person="", reason="no answer"))
    assert read_ledger()[-1].reason == "+1%, not approved (no answer)"
    assert find_open_questions(read_ledger()) == [second]
    # A merge with another branch's ledger moves it to another line.
    assert find_answer(read_ledger(), replace(second, version=7)) is None


def test_asked_against_tells_whether_the_champion_is_still_the_same() -> None:
    question = ask_about("b")
    assert asked_against(question, None)
    assert not asked_against(question, make_entry("a"))
    assert asked_against(ask(make_entry("b"), make_entry("a"), MONDAY), make_entry("a"))


def test_deadline_that_a_person_broke_names_the_line() -> None:
    question = replace(ask_about("b"), approval={"deadline": "soon", "champion_md5": None})
    with pytest.raises(RunError, match=r"line 1: the time is not ISO 8601: .*soon"):
        deadline(question)
