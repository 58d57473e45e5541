"""Rollback as a flow: to the champion before, to a version, and restoring the champion's file."""

import shutil
from pathlib import Path

import pytest

from flows.rollback import promote, rollback
from tasks.registry import ledger
from tasks.registry.ledger import CHAMPION, LEDGER
from tests.flows.conftest import GET_WORSE, IMPROVE, run_retrain

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


def test_promote_overrides_a_rejection_and_rollback_promotes_previous_champion(
    champion_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = CHAMPION.read_bytes()
    assert str(run_retrain(*IMPROVE, "compare.min_gain=0.9").message).startswith("rejected: +")
    assert CHAMPION.read_bytes() == first
    state = promote("2", " ", return_state=True)
    assert state.is_failed()
    assert state.message == "an override needs a reason, for the ledger"
    state = promote("2", "90% is too much to ask", return_state=True)
    assert state.is_completed(), state.message
    second = CHAMPION.read_bytes()
    assert second == Path("artifacts/model.onnx").read_bytes() != first
    entries = ledger.read_ledger()
    assert (entries[2].model_md5, entries[2].evidence) == (entries[1].model_md5, entries[1].evidence)
    assert entries[2].reason == "90% is too much to ask (version 2 was rejected)"
    assert len(ledger.look_times(entries)) == 1, "an override is no look"

    caplog.clear()
    assert rollback(return_state=True).is_completed()
    assert CHAMPION.read_bytes() == first
    assert "champion 4 (" in (printed := caplog.text)
    assert (
        "serves predictions now; to share the decision, commit it: git add registry/ledger.jsonl" in printed
    )
    state = rollback(return_state=True)
    assert state.is_failed(), "what was rolled back comes back only by its version"
    assert "is the first champion; nothing to roll back to; to return to another one, give" in str(
        state.message
    )
    decisions = [entry.decision for entry in ledger.read_ledger()]
    assert decisions == ["promoted", "rejected", "overridden", "rolled_back"]
    assert rollback(3, return_state=True).is_completed()
    assert CHAMPION.read_bytes() == second
    state = rollback(2, return_state=True)
    assert state.is_failed()
    assert state.message == "2 is not a promoted version; choose one of: 1, 3, 4, 5"


def test_rollback_restore_brings_back_champion_file(champion_copy: Path) -> None:
    model, entries = CHAMPION.read_bytes(), LEDGER.read_bytes()
    CHAMPION.unlink()
    state = rollback(restore=True, return_state=True)
    assert state.is_completed()
    assert str(state.message).startswith(f"{CHAMPION} is champion 1 (")
    assert (CHAMPION.read_bytes(), LEDGER.read_bytes()) == (model, entries)


def test_rollback_restore_without_champion_fails(champion_copy: Path) -> None:
    LEDGER.unlink()
    state = rollback(restore=True, return_state=True)
    assert state.is_failed()
    assert state.message == "no model has been promoted yet; nothing to restore"


def test_rollback_version_and_restore_fails(champion_copy: Path) -> None:
    state = rollback(1, restore=True, return_state=True)
    assert state.is_failed()
    assert "not both" in str(state.message)


def test_rollback_model_missing_from_cache_fails(champion_copy: Path) -> None:
    CHAMPION.unlink()
    shutil.rmtree(".dvc/cache")
    state = rollback(restore=True, return_state=True)
    assert state.is_failed()
    assert "is not in the DVC cache, and no DVC remote is configured" in str(state.message)
    assert len(ledger.read_ledger()) == 1


def test_what_was_rolled_back_is_promoted_again_by_a_person_only(champion_copy: Path) -> None:
    first = CHAMPION.read_bytes()
    assert str(run_retrain(*IMPROVE).message).startswith("promoted: +")
    second = CHAMPION.read_bytes()
    assert rollback(return_state=True).is_completed()
    for restore in (False, True):
        if restore:
            assert rollback(restore=True, return_state=True).is_completed()
        state = run_retrain()
        assert state.name == "Skipped"
        assert "when this model was rolled back: manual rollback to champion 1 (" in str(state.message)
        assert "only a person promotes it again: cifarflow promote 2 --reason" in str(state.message)

    # Stages run, and make the same bytes again: the comparison alone would promote them.
    assert str(run_retrain(*GET_WORSE).message).startswith("rejected: +0.00%")
    state = run_retrain(*IMPROVE)
    assert state.name == "Completed", state.message
    assert str(state.message).startswith("rejected: +")
    assert "but version 3 rolled this model back on 20" in str(state.message)
    assert CHAMPION.read_bytes() == first
    assert run_retrain().name == "Skipped"

    state = promote("2", "it was the camera", return_state=True)
    assert state.is_completed(), state.message
    assert CHAMPION.read_bytes() == second
    decisions = [entry.decision for entry in ledger.read_ledger()]
    assert decisions == ["promoted", "promoted", "rolled_back", "rejected", "rejected", "overridden"]
    reason = "it was the camera (version 2 was promoted, and version 3 rolled it back)"
    assert ledger.read_ledger()[-1].reason == reason
    assert rollback(1, return_state=True).is_completed()
    assert rollback(6, return_state=True).is_completed(), "a person may do that, too"


def test_retrain_and_rollback_do_not_decide_where_a_promotion_may_be_missing(champion_copy: Path) -> None:
    assert str(run_retrain(*IMPROVE).message).startswith("promoted: +")
    champion, whole = CHAMPION.read_bytes(), LEDGER.read_bytes()
    first, second = whole.splitlines(keepends=True)
    for cut in (first + second[:190], first + second[:7], first + b"\x00" * 300, first):
        LEDGER.write_bytes(cut)
        for state in (
            run_retrain(),
            rollback(return_state=True),
            rollback(restore=True, return_state=True),
        ):
            assert state.is_failed()
            assert "where Git has the whole ledger, restore it with: cp" in str(state.message)
            assert len(str(state.message).splitlines()) == 1
        assert (LEDGER.read_bytes(), CHAMPION.read_bytes()) == (cut, champion)
    LEDGER.write_bytes(first + second[:190])
    assert rollback(1, return_state=True).is_completed(), "a person decides"
    assert [entry.decision for entry in ledger.read_ledger()] == ["promoted", "rolled_back"]
    assert Path(f"{LEDGER}.truncated").read_bytes() == second[:190] + b"\n"
    LEDGER.write_bytes(whole)
    assert rollback(restore=True, return_state=True).is_completed()
    assert CHAMPION.read_bytes() == champion


def test_retrain_with_a_rejection_cut_short_goes_on(champion_copy: Path) -> None:
    assert str(run_retrain(*IMPROVE, "compare.min_gain=0.9").message).startswith("rejected: +")
    first, second = LEDGER.read_bytes().splitlines(keepends=True)
    LEDGER.write_bytes(first + second[:50])
    state = run_retrain("compare.min_gain=0.0")
    assert str(state.message).startswith("promoted: +"), "the comparison is made again"
    assert len(ledger.read_ledger()) == 2
