"""What a retraining publishes: a DVC experiment, a push, a commit on a branch of its own."""

import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.rollback import rollback
from tasks.registry import ledger
from tasks.registry.ledger import CHAMPION
from tasks.workspace.files import hash_file
from tests.flows.conftest import IMPROVE, git, run_retrain

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


def test_retrain_saves_experiment_and_commits_to_branch(champion_copy: Path, tmp_path: Path) -> None:
    head = git("rev-parse", "HEAD")
    subprocess.run(["git", "init", "--quiet", "--bare", tmp_path / "origin"], check=True)
    git("remote", "add", "origin", str(tmp_path / "origin"))
    Path(".dvc/config").write_text(
        f"[core]\n    analytics = false\n    remote = r\n['remote \"r\"']\n    url = {tmp_path}/store\n"
    )
    Path("staged").write_text("the user's own")
    git("add", "staged")
    state = run_retrain(*IMPROVE, push=True, commit=True)
    assert state.is_completed(), state.message
    assert (git("rev-parse", "HEAD"), git("symbolic-ref", "--short", "HEAD")) == (head, "main")
    assert git("diff", "--cached", "--name-only") == "staged"
    entry = ledger.read_ledger()[-1]
    branch = f"retrain/{entry.time[:10]}"
    changed = git("diff", "--name-only", "main", branch).splitlines()
    assert {"registry/ledger.jsonl", "registry/champion.onnx.dvc", "dvc.lock", "params.yaml"} <= {*changed}
    assert {"reports/metrics.json", "reports/history.csv", "reports/benchmark.json"} <= {*changed}
    assert "staged" not in changed
    assert not [file for file in changed if file.startswith(("artifacts/", "data/"))]
    with Repo() as repo:
        names = [experiment for names in repo.experiments.ls().values() for experiment, _ in names]
    assert entry.flow_run_name in names
    assert entry.flow_run_name in git("ls-remote", "origin")
    md5 = entry.model_md5
    assert (tmp_path / "store/files/md5" / md5[:2] / md5[2:]).is_file()

    # The remote alone is enough to restore the champion's file.
    shutil.rmtree(".dvc/cache")
    CHAMPION.unlink()
    assert rollback(restore=True, return_state=True).is_completed()
    assert hash_file(CHAMPION, "md5") == md5


def test_failed_push_keeps_champion(champion_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where a folder should be")
    Path(".dvc/config").write_text(f"[core]\n    remote = r\n['remote \"r\"']\n    url = {tmp_path}/store\n")
    state = run_retrain(*IMPROVE, push=True)
    assert state.is_failed()
    assert "promoted (+" in str(state.message)
    assert "but the push failed" in str(state.message)
    assert CHAMPION.read_bytes() == Path("artifacts/model.onnx").read_bytes()
    assert len(ledger.read_ledger()) == 2
    assert run_retrain().name == "Skipped"
