"""Rollback as a flow: to the champion before, to a version, and restoring the champion's file."""

import shutil
from pathlib import Path

import pytest

from flows.rollback import override, rollback
from tasks.registry import ledger
from tasks.registry.ledger import CHAMPION, LEDGER
from tests.flows.conftest import IMPROVE, run_retrain

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


def test_promote_overrides_a_rejection_and_rollback_promotes_previous_champion(champion_copy: Path) -> None:
    first = CHAMPION.read_bytes()
    assert str(run_retrain(*IMPROVE, "compare.min_gain=0.9").message).startswith("rejected: +")
    assert CHAMPION.read_bytes() == first
    state = override("2", " ", return_state=True)
    assert state.is_failed()
    assert state.message == "an override needs a reason, for the ledger"
    state = override("2", "90% is too much to ask", return_state=True)
    assert state.is_completed(), state.message
    second = CHAMPION.read_bytes()
    assert second == Path("artifacts/model.onnx").read_bytes() != first
    entries = ledger.read_ledger()
    assert (entries[2].model_md5, entries[2].evidence) == (entries[1].model_md5, entries[1].evidence)
    assert entries[2].reason == f"90% is too much to ask (version 2 was rejected: {entries[1].reason})"
    assert len(ledger.look_times(entries)) == 1, "an override is no look"

    assert rollback(return_state=True).is_completed()
    assert CHAMPION.read_bytes() == first
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
