"""A champion that does not serve: the one before serves again, and the ledger and the run say so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo

from flows.champion import smoke_test
from flows.champion.model import find_outcome
from flows.champion.smoke_test import confirm_promotion
from flows.rollback import promote as promote_flow
from tasks.registry.ledger import CHAMPION, CHAMPION_INT8, LEDGER, append, read_ledger
from tasks.workspace.errors import RunError
from tests.conftest import copy_of_project
from tests.flows.champion.test_decide_rolled_back import make_challenger, promote_model
from tests.flows.conftest import IMPROVE, read_artifacts, run_retrain


@pytest.fixture
def used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Any]]:
    """A DVC repository, in which the model `two` does not serve, and what was used."""
    copy_of_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    with Repo.init(no_scm=True):
        pass
    found: list[tuple[Path, Any]] = []

    def find_problem(answers: dict[Path, Any]) -> str:
        found.extend(answers.items())
        return f"{CHAMPION} is slow" if CHAMPION.read_text() == "two" else ""

    monkeypatch.setattr(smoke_test, "find_problem", find_problem)
    return found


def test_champion_that_serves_stays(used: list[tuple[Path, Any]]) -> None:
    entry = promote_model("one")
    assert confirm_promotion(entry) == entry
    assert used == [(CHAMPION, ())]
    assert read_ledger() == [entry]


def test_champion_before_serves_again(used: list[tuple[Path, Any]]) -> None:
    one, two = promote_model("one"), promote_model("two")
    rollback = confirm_promotion(two)
    assert CHAMPION.read_text() == "one"
    assert read_ledger() == [one, two, rollback]
    assert (rollback.decision, rollback.model_md5, rollback.approval) == ("rolled_back", one.model_md5, None)
    assert rollback.reason == (
        f"version 2 ({two.model_md5[:8]}) was promoted, but {CHAMPION} is slow; {one.label} serves again"
    )
    assert [find_outcome(read_ledger(), entry).version for entry in (one, two)] == [1, 2], "another run's"


def test_run_that_asks_for_its_decision_again_finds_the_rollback(used: list[tuple[Path, Any]]) -> None:
    promote_model("one")
    two = promote_model("two")
    rollback = append(make_rollback(two.flow_run_id))
    assert find_outcome(read_ledger(), two) == rollback


def make_rollback(flow_run_id: str) -> Any:
    return replace(make_challenger("one"), decision="rolled_back", flow_run_id=flow_run_id)


def test_first_champion_that_does_not_serve_fails_the_run(used: list[tuple[Path, Any]]) -> None:
    with pytest.raises(RunError, match="is slow; there is no champion before it that could serve"):
        confirm_promotion(promote_model("two"))


def test_champion_before_that_is_gone_fails_the_run(used: list[tuple[Path, Any]]) -> None:
    one, two = promote_model("one"), promote_model("two")
    (Path(".dvc/cache/files/md5") / one.model_md5[:2] / one.model_md5[2:]).unlink()
    with pytest.raises(RunError, match=r"is slow; champion 1 .* cannot serve again: the model"):
        confirm_promotion(two)
    assert len(LEDGER.read_text().splitlines()) == 2


def test_rejection_is_not_used(used: list[tuple[Path, Any]]) -> None:
    rejected = append(replace(make_challenger("two"), decision="rejected"))
    assert confirm_promotion(rejected) == rejected
    assert used == []


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_retraining_and_person_are_told(champion_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, answers = CHAMPION.read_bytes(), []
    events: list[str] = []
    monkeypatch.setattr("flows.champion.publish.emit_event", lambda **event: events.append(event["event"]))

    def find_problem(expected: dict[Path, Any]) -> str:
        answers.append(expected)
        return "" if CHAMPION.read_bytes() == first else f"{CHAMPION} has not answered within 120 s"

    monkeypatch.setattr(smoke_test, "find_problem", find_problem)
    state = run_retrain(*IMPROVE)
    assert state.is_completed()
    assert str(state.message).startswith("rolled_back: version 2 (")
    assert f"{CHAMPION} has not answered within 120 s; champion 1 (" in str(state.message)
    assert CHAMPION.read_bytes() == first
    assert events == ["cifarflow.model.rolled_back"]
    assert "has not answered" in str(read_artifacts(state)["decision"].data)
    assert [entry.decision for entry in read_ledger()] == ["promoted", "promoted", "rolled_back"]
    assert {file: len(of_file) for file, of_file in answers[0].items()} == {CHAMPION: 16, CHAMPION_INT8: 16}
    assert Path(read_ledger()[1].page).is_file()
    assert run_retrain().name == "Skipped"

    state = promote_flow("2", "it answered me", return_state=True)
    assert state.is_failed()
    assert str(state.message).startswith("version 4 (")
    assert CHAMPION.read_bytes() == first
