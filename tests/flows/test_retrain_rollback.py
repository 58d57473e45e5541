"""Rollback as a flow: to the champion before, to a version, and restoring the champion's file."""

import shutil
from pathlib import Path

import pytest

from flows.rollback import override, rollback
from tasks.registry import ledger
from tasks.registry.ledger import CHAMPION, LEDGER
from tasks.workspace.files import hash_file
from tests.flows.conftest import GET_WORSE, IMPROVE, run_retrain

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


def test_rollback_promotes_previous_champion(champion_copy: Path) -> None:
    first = CHAMPION.read_bytes()
    assert run_retrain(*IMPROVE).is_completed()
    second = CHAMPION.read_bytes()
    assert run_retrain(*GET_WORSE).is_completed()
    assert rollback(return_state=True).is_completed()
    assert CHAMPION.read_bytes() == first
    decisions = [entry.decision for entry in ledger.read_ledger()]
    assert decisions == ["promoted", "promoted", "rejected", "rolled_back"]
    assert rollback(2, return_state=True).is_completed()
    assert CHAMPION.read_bytes() == second
    # What the comparison rejected, a person can still promote.
    state = override("3", "for a demonstration", return_state=True)
    assert state.is_completed(), state.message
    entry = ledger.read_ledger()[-1]
    assert (entry.decision, entry.model_md5) == ("overridden", hash_file(CHAMPION, "md5"))
    assert entry.reason.startswith("for a demonstration (version 3 was rejected: -")
    assert entry.model_md5 == ledger.read_ledger()[2].model_md5
    state = override("3", " ", return_state=True)
    assert state.is_failed()
    assert state.message == "an override needs a reason, for the ledger"
    state = rollback(9, return_state=True)
    assert state.is_failed()
    assert str(state.message).startswith("9 is ")
    assert str(state.message).endswith(": 1, 2, 4, 5, 6")


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
