"""Retraining as a flow, in a workspace under Git, on a sample: promote, refuse, skip, roll back."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from prefect.client.schemas.objects import State

from flows.retrain import retrain, rollback
from flows.runtime.lock import LOCK_FILE
from tasks.overrides import parse_overrides
from tasks.registry import ledger
from tasks.registry.ledger import CHAMPION, LEDGER

pytestmark = pytest.mark.usefixtures("prefect_server")

LEARNS = ("train.epochs=3", "compare.max_latency_ratio=50.0")  # machines that run tests are busy
UNLEARNS = ("train.lr=1.0e-9",)


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(workspace: Path) -> Path:
    """The sample workspace under Git, with a champion."""
    Path(".dvc/config").write_text("[core]\n    analytics = false\n")
    Path(".gitignore").write_text("/artifacts/\n/data/\n/incoming/\n/.cifarflow.lock\n/wandb/\n")
    Path("registry").mkdir()
    Path("registry/.gitignore").write_text("/champion.onnx\n")
    git("init", "--quiet", "--initial-branch=main")
    git("config", "user.name", "T")
    git("config", "user.email", "t@example.org")
    git("add", "--all")
    git("commit", "--quiet", "--message=before")
    assert run().message == "promoted: the first model"
    return workspace


def run(*assignments: str, **options: Any) -> State[Any]:
    return retrain(parse_overrides(assignments) if assignments else None, **options, return_state=True)


def test_promote_refuse_skip_and_roll_back(repository: Path) -> None:
    first = CHAMPION.read_bytes()
    assert (run().name, len(ledger.read_ledger())) == ("Skipped", 1)

    state = run(*LEARNS)
    assert state.is_completed(), state.message
    assert str(state.message).startswith("promoted: +")
    second = CHAMPION.read_bytes()
    assert second == Path("artifacts/model.onnx").read_bytes() != first
    state = run()
    assert state.name == "Skipped"
    assert "nothing changed since champion 2" in str(state.message)

    state = run(*UNLEARNS)
    assert state.is_completed()
    assert str(state.message).startswith("rejected: -")
    assert CHAMPION.read_bytes() == second
    state = run()
    assert state.name == "Skipped"
    assert "when this model was rejected" in str(state.message)

    assert rollback(return_state=True).is_completed()
    assert CHAMPION.read_bytes() == first
    entries = ledger.read_ledger()
    assert [entry.decision for entry in entries] == ["promoted", "promoted", "rejected", "rolled_back"]
    assert {*entries[1].provenance} == {"data", "params", "code", "weights"}
    assert entries[1].evidence["accuracy_gain"] > 0
    assert entries[1].flow_run_id

    CHAMPION.unlink()
    assert rollback(restore=True, return_state=True).is_completed()
    assert CHAMPION.read_bytes() == first
    state = rollback(9, return_state=True)
    assert "9 is no champion; the ledger has these: 1, 2, 4" in str(state.message)


def test_each_run_is_a_dvc_experiment_and_a_commit_aside(repository: Path, tmp_path: Path) -> None:
    head = git("rev-parse", "HEAD")
    subprocess.run(["git", "init", "--quiet", "--bare", tmp_path / "origin"], check=True)
    git("remote", "add", "origin", str(tmp_path / "origin"))
    Path(".dvc/config").write_text(
        f"[core]\n    analytics = false\n    remote = r\n['remote \"r\"']\n    url = {tmp_path}/store\n"
    )
    Path("staged").write_text("the user's own")
    git("add", "staged")
    state = run(*LEARNS, push=True, commit=True)
    assert state.is_completed(), state.message
    assert (git("rev-parse", "HEAD"), git("symbolic-ref", "--short", "HEAD")) == (head, "main")
    assert git("diff", "--cached", "--name-only") == "staged"
    entry = ledger.read_ledger()[-1]
    branch = f"retrain/{entry.time[:10]}"
    changed = git("diff", "--name-only", "main", branch).splitlines()
    assert {"registry/ledger.jsonl", "registry/champion.onnx.dvc", "dvc.lock", "params.yaml"} <= {*changed}
    assert "reports/metrics.json" in changed
    assert "staged" not in changed
    assert not [file for file in changed if file.startswith(("artifacts/", "data/"))]
    assert (
        entry.flow_run_name
        in subprocess.run(["dvc", "exp", "list"], check=True, capture_output=True, text=True).stdout
    )
    assert entry.flow_run_name in git("ls-remote", "origin")
    md5 = entry.model_md5
    assert (tmp_path / "store/files/md5" / md5[:2] / md5[2:]).is_file()

    # From the remote alone: the model of a registry comes back.
    shutil.rmtree(".dvc/cache")
    CHAMPION.unlink()
    assert rollback(restore=True, return_state=True).is_completed()
    assert ledger.file_md5(CHAMPION) == md5


def test_a_refusing_remote_is_told_and_the_champion_stays(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where a folder should be")
    Path(".dvc/config").write_text(f"[core]\n    remote = r\n['remote \"r\"']\n    url = {tmp_path}/store\n")
    state = run(*LEARNS, push=True)
    assert state.is_failed()
    assert "promoted (+" in str(state.message)
    assert "but the push failed" in str(state.message)
    assert CHAMPION.read_bytes() == Path("artifacts/model.onnx").read_bytes()
    assert len(ledger.read_ledger()) == 2
    assert run().name == "Skipped"


def test_a_full_disk_leaves_the_champion(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is full when the decision is to be written."""
    ledger, model = LEDGER.read_bytes(), CHAMPION.read_bytes()
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target == LEDGER:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    state = run(*LEARNS)
    assert state.is_failed()
    assert state.message == "compare: cannot write registry/ledger.jsonl: No space left on device"
    assert (LEDGER.read_bytes(), CHAMPION.read_bytes()) == (ledger, model)
    assert not [*Path("registry").glob("*.partial"), *Path("registry").glob(".*.partial")]
    monkeypatch.undo()
    monkeypatch.chdir(repository)
    assert str(run().message).startswith("promoted: +")


def test_dvcs_registry_finds_the_champion(repository: Path) -> None:
    from dvc.repo import Repo

    with Repo() as repo:
        (found,) = (entry for file in repo.artifacts.read().values() for entry in file.values())
    assert (found.path, found.type) == (str(CHAMPION), "model")
    assert subprocess.run(["dvc", "status", f"{CHAMPION}.dvc"], check=True, capture_output=True, text=True)
    with Repo() as repo:
        assert repo.status([f"{CHAMPION}.dvc"]) == {}


def test_a_model_that_dvc_has_lost(repository: Path) -> None:
    CHAMPION.unlink()
    shutil.rmtree(".dvc/cache")
    state = rollback(restore=True, return_state=True)
    assert state.is_failed()
    assert "is not in the DVC cache, and no DVC remote is configured" in str(state.message)
    assert len(ledger.read_ledger()) == 1


def test_a_kill_between_ledger_and_model_is_put_right(repository: Path) -> None:
    assert run(*LEARNS).is_completed()
    second = CHAMPION.read_bytes()
    assert rollback(return_state=True).is_completed()
    pointer = CHAMPION.with_name("champion.onnx.dvc").read_bytes()
    CHAMPION.write_bytes(second)  # as if the rollback had been killed after its line in the ledger
    assert run().name == "Completed"  # the workspace's model is judged against the champion again
    assert ledger.read_ledger()[-1].decision == "promoted"
    assert pointer != CHAMPION.with_name("champion.onnx.dvc").read_bytes()


def test_new_pictures_lead_to_a_new_model(repository: Path) -> None:
    random = np.random.default_rng(0)
    folder = Path("incoming/ring")
    folder.mkdir(parents=True)
    for i in range(20):
        blobs = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(blobs).resize((50, 50), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"")
    pointer = Path("data.dvc").read_bytes()
    state = run()
    assert state.is_completed(), state.message
    assert state.name != "Skipped"
    assert Path("data.dvc").read_bytes() != pointer
    entry = ledger.read_ledger()[-1]
    assert entry.provenance["data"] != ledger.read_ledger()[0].provenance["data"]
    assert (Path("incoming/rejected/ring/broken.png")).is_file()

    # Data that was added and is gone is not given up without a word.
    gone = next(Path("data/additions/ring").iterdir())
    gone.unlink()
    pointer = Path("data.dvc").read_bytes()
    state = run()
    assert state.is_failed()
    assert "restore the missing ones: dvc pull" in str(state.message)
    assert Path("data.dvc").read_bytes() == pointer


def test_one_at_a_time(repository: Path) -> None:
    with FileLock(LOCK_FILE):
        state = run(wait=False)
    assert state.is_failed()
    assert "is at work in this folder" in str(state.message)


def test_a_damaged_ledger_is_one_line(repository: Path) -> None:
    LEDGER.write_text("{\n" + LEDGER.read_text())
    state = run()
    assert state.is_failed()
    assert "line 1 is damaged" in str(state.message)


def test_decisions_are_events_and_artifacts(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    told: list[dict[str, Any]] = []
    monkeypatch.setattr("flows.retrain.emit_event", lambda **event: told.append(event))
    state = run(*LEARNS)
    assert state.is_completed()
    assert rollback(return_state=True).is_completed()
    assert [event["event"] for event in told] == ["cifarflow.model.promoted", "cifarflow.model.rolled_back"]
    assert told[0]["payload"]["evidence"]["accuracy_gain"] > 0
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        pages = [str(artifact.data) for artifact in client.read_artifacts(artifact_filter=wanted)]
    (page,) = (page for page in pages if page.startswith("# Promoted: +"))
    assert "| accuracy, val |" in page
    assert json.dumps(ledger.read_ledger()[1].evidence["discordant_challenger"]) in page
