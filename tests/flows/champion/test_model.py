"""The champion's file and its .dvc file, in step with the ledger."""

from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.champion.model import CHAMPION_DVC_FILE
from flows.rollback import rollback
from tasks.registry import ledger
from tasks.registry.ledger import CHAMPION
from tests.flows.conftest import IMPROVE, run_retrain

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


def test_champion_is_found_by_dvc_registry(champion_copy: Path) -> None:
    with Repo() as repo:
        (found,) = (entry for file in repo.artifacts.read().values() for entry in file.values())
        assert repo.status([str(CHAMPION_DVC_FILE)]) == {}
    assert (found.path, found.type) == (str(CHAMPION), "model")


def test_champion_file_is_repaired_from_ledger(champion_copy: Path) -> None:
    assert run_retrain(*IMPROVE).is_completed()
    second = CHAMPION.read_bytes()
    assert rollback(return_state=True).is_completed()
    recorded = CHAMPION_DVC_FILE.read_bytes()
    CHAMPION.write_bytes(second)  # as if the rollback had been killed after writing the ledger
    assert run_retrain().name == "Completed"  # the workspace's model is compared with the champion again
    assert ledger.read_ledger()[-1].decision == "promoted"
    assert CHAMPION_DVC_FILE.read_bytes() != recorded
