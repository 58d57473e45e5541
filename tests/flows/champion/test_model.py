"""The champion's file and its .dvc file, in step with the ledger."""

from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.rollback import rollback
from tasks.registry import ledger
from tasks.registry.ledger import CHAMPION, CHAMPION_DVC_FILE
from tasks.workspace.files import hash_file
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
    first = hash_file(CHAMPION, "md5")
    CHAMPION.write_bytes(second)  # as if the rollback had been killed after writing the ledger
    CHAMPION_DVC_FILE.write_text("<<<<<<< HEAD\n=======\n")
    assert run_retrain().name == "Skipped"  # the workspace's model was rolled back
    assert ledger.read_ledger()[-1].decision == "rolled_back"
    assert (hash_file(CHAMPION, "md5"), CHAMPION_DVC_FILE.read_bytes()) == (first, recorded)
