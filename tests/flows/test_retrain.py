"""Retraining as a flow, in a workspace under Git, on the sample: promote, reject, skip, ingest, fail."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from flows.rollback import rollback
from flows.run.lock import LOCK_FILE
from tasks.registry import ledger
from tasks.registry.ledger import CHAMPION, LEDGER
from tests.flows.conftest import GET_WORSE, IMPROVE, read_artifacts, run_retrain

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


def test_retrain_promotes_rejects_and_skips(champion_copy: Path) -> None:
    first = CHAMPION.read_bytes()
    assert (run_retrain().name, len(ledger.read_ledger())) == ("Skipped", 1)

    state = run_retrain(*IMPROVE)
    assert state.is_completed(), state.message
    assert str(state.message).startswith("promoted: +")
    second = CHAMPION.read_bytes()
    assert second == Path("artifacts/model.onnx").read_bytes() != first
    state = run_retrain()
    assert state.name == "Skipped"
    assert "nothing changed since champion 2" in str(state.message)

    state = run_retrain(*GET_WORSE)
    assert state.is_completed()
    assert str(state.message).startswith("rejected: -")
    assert CHAMPION.read_bytes() == second
    state = run_retrain()
    assert state.name == "Skipped"
    assert "when this model was rejected: -" in str(state.message)

    entries = ledger.read_ledger()
    assert [entry.decision for entry in entries] == ["promoted", "promoted", "rejected"]
    assert {*entries[1].provenance} == {"data", "params", "code", "weights", "commit"}
    assert entries[1].evidence["accuracy_gain"] > 0
    assert entries[1].flow_run_id


def test_retrain_new_images_lead_to_new_model(champion_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "flows.champion.publish.emit_event",
        lambda **event: events.append(event) if "drifted" in event["event"] else None,
    )
    assert run_retrain(*IMPROVE).is_completed(), "only a model that is mostly right may judge labels"
    random = np.random.default_rng(7)
    folder = Path("incoming/ring")
    folder.mkdir(parents=True)
    for i in range(30):
        blobs = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(blobs).resize((50, 50), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"")
    recorded = Path("data.dvc").read_bytes()
    state = run_retrain(*IMPROVE)
    assert state.is_completed(), state.message
    assert state.name != "Skipped"
    assert Path("data.dvc").read_bytes() != recorded
    entry = ledger.read_ledger()[-1]
    assert entry.provenance["data"] != ledger.read_ledger()[0].provenance["data"]
    assert (Path("incoming/rejected/ring/broken.png")).is_file()
    val = [*Path("data/additions/ring").glob("*.val.png")]
    assert val, "none of these images is for validation"
    assert entry.evidence["val_images"] == ledger.read_ledger()[0].evidence["val_images"] + len(val)
    assert entry.evidence["val_added"]["images"] == len(val), "the champion is compared on them, too"
    artifacts = read_artifacts(state)
    assert f"accuracy, val, added ({len(val)};" in str(artifacts["decision"].data)
    page = str(artifacts["ingest"].data)
    assert f"| ring | 30 | {30 - len(val)} | {len(val)} |" in page
    assert "ring/broken.png" in page
    assert "| label in doubt | label |" in page  # colored blobs are no rings
    assert Path("reports/incoming.html").is_file()
    (intake,) = entry.evidence["drift"]
    assert (intake["images"], "label" in intake["shifts"]) == (30, True), "rings alone"
    assert f"New images, {intake['time'][:10]}: drift in 30 images: " in str(artifacts["decision"].data)
    assert str(artifacts["drift"].data).startswith("# Drift\n")
    (event,) = events
    assert (event["event"], event["payload"]["images"]) == ("cifarflow.data.drifted", 30)
    assert "label" in event["resource"]["cifarflow.shift"].split()
    assert event["resource"]["cifarflow.flow"] == "retrain", "which starts no other (prefect.yaml)"

    # Added images that are gone fail the next run: they must not vanish silently.
    next(Path("data/additions/ring").iterdir()).unlink()
    recorded = Path("data.dvc").read_bytes()
    state = run_retrain()
    assert state.is_failed()
    assert "restore the missing ones: dvc pull" in str(state.message)
    assert Path("data.dvc").read_bytes() == recorded


def test_retrain_full_disk_keeps_champion(champion_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the decision is to be written."""
    before = LEDGER.read_bytes(), CHAMPION.read_bytes()
    replace = Path.replace

    def replace_unless_ledger(self: Path, target: Path) -> Path:
        if target == LEDGER:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_unless_ledger)
    state = run_retrain(*IMPROVE)
    assert state.is_failed()
    assert state.message == "compare: cannot write registry/ledger.jsonl: No space left on device"
    assert (LEDGER.read_bytes(), CHAMPION.read_bytes()) == before
    assert not [*Path("registry").glob("*.partial"), *Path("registry").glob(".*.partial")]
    monkeypatch.undo()
    monkeypatch.chdir(champion_copy)
    assert str(run_retrain().message).startswith("promoted: +")


def test_retrain_locked_workspace_fails(champion_copy: Path) -> None:
    with FileLock(LOCK_FILE):
        state = run_retrain(wait=False)
    assert state.is_failed()
    assert "try again when it has" in str(state.message)


def test_retrain_corrupt_ledger_is_one_line(champion_copy: Path) -> None:
    LEDGER.write_text("{\n" + LEDGER.read_text())
    state = run_retrain()
    assert state.is_failed()
    assert "line 1 is " in str(state.message)
    assert len(str(state.message).splitlines()) == 1


def test_decisions_are_events_and_artifacts(champion_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[dict[str, Any]] = []
    aliased: list[str] = []
    monkeypatch.setattr("flows.champion.publish.emit_event", lambda **event: events.append(event))
    monkeypatch.setattr("flows.champion.publish.alias_champion", lambda md5, _: aliased.append(md5))
    state = run_retrain(*IMPROVE)
    assert state.is_completed()
    rolled_back = rollback(return_state=True)
    assert rolled_back.is_completed()
    assert [event["event"] for event in events] == [
        "cifarflow.model.promoted",
        "cifarflow.model.rolled_back",
    ]
    assert events[0]["payload"]["evidence"]["accuracy_gain"] > 0
    first, promoted, _ = (entry.model_md5 for entry in ledger.read_ledger())
    assert aliased == [promoted, first]
    page = str(read_artifacts(state)["decision"].data)
    assert page.startswith("# Promoted: +")
    assert "| accuracy, val |" in page
    decided = ledger.read_ledger()[1]
    evidence = decided.evidence
    shown = Path(decided.page).read_text(encoding="utf-8")
    assert decided.page in page
    assert f"<h2>Images that get better: {evidence['discordant_challenger']:,}</h2>" in shown
    assert '<p class="status">Rolled back</p>' in shown
    assert "The code of all stages is the same." in shown
    assert ", look 1 of a year, error spent: 0.50%" in page
    assert f"| {json.dumps(evidence['discordant_challenger'])} |" in page
    assert str(read_artifacts(rolled_back)["decision"].data).startswith("# Rolled back: manual rollback to ")
