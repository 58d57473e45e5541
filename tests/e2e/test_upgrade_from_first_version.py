"""A project as the first version left it, under today's code: its ledger, champion, checkpoints, automations.

`tests/e2e/upgrade/` holds what the code of that version wrote: a ledger of the models `one`, `two` and
`other`, its pointer for DVC, and its automations. Both versions pin the same Prefect, so its database stays.
"""

import datetime as dt
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from dvc.repo import Repo
from prefect.client.orchestration import get_client
from ruamel.yaml import YAML

from flows.champion import decide
from flows.champion.model import sync_champion
from flows.cli.serve import _ensure_automations
from flows.rollback import _roll_back
from flows.run.markdown import decision_markdown
from flows.versions.dvc_repro import open_repo
from tasks.registry.earlier_models import find_rollback
from tasks.registry.ledger import CHAMPION, LEDGER, LedgerEntry, current_champion, look_times, read_ledger
from tasks.registry.ledger_lines import seal_line
from tasks.registry.serving_model import resolve_serving_model
from tasks.status.status import read_status
from tasks.training.checkpoints import CheckpointStore
from tasks.workspace.errors import RunError
from tests.conftest import ROOT, copy_of_project

BEFORE = Path(__file__).with_name("upgrade")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Today's code, with the registry and the DVC cache of before; it is the current folder."""
    copy_of_project(tmp_path)
    shutil.copy(ROOT / "prefect.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    with Repo.init(no_scm=True):
        pass
    shutil.copytree(BEFORE, "registry")
    for model in ("one", "two", "other", "three"):
        md5 = hashlib.md5(model.encode()).hexdigest()
        cached = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_text(model)
    CHAMPION.write_text("one")
    return tmp_path


def test_ledger_says_today_what_it_said_then(project: Path) -> None:
    entries = read_ledger()
    assert [entry.decision for entry in entries] == ["promoted", "rejected", "promoted", "rolled_back"]
    assert [entry.version for entry in entries] == [1, 2, 3, 4]
    second = entries[1]
    assert (second.reason, second.flow_run_name) == ("-0.40% on validation is no gain", "brave-fox")
    assert set(second.provenance) == {"data", "params", "code", "weights"}
    assert (second.evidence["accuracy_gain"], second.evidence["discordant_champion"]) == (-0.004, 230)
    assert [time.day for time in look_times(entries)] == [9, 16]
    assert current_champion(entries) == entries[3]
    assert find_rollback(entries, entries[2]) == entries[3]
    assert "Gain on validation -0.40%" in decision_markdown(second)


def test_champion_of_before_serves_and_status_has_nothing_to_say_about_it(project: Path) -> None:
    model, label = resolve_serving_model(Path("artifacts/model.onnx"))
    assert (model, label) == (CHAMPION, "champion 4 (f97c5d29, rolled_back 2026-11-23)")
    status = read_status(dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC))
    assert status.problems == []
    assert status.champion is not None
    with open_repo() as repo:
        assert sync_champion(repo) == status.champion


def test_new_decisions_leave_the_lines_of_before_as_they_are(project: Path) -> None:
    before = LEDGER.read_bytes()
    md5 = hashlib.md5(b"three").hexdigest()
    challenger = LedgerEntry("promoted", "+2%", md5, 5, "otter", "id", {"weights": "w"}, {"p_value": 0.001})
    with open_repo() as repo:
        promoted = decide._record(repo, challenger, None)
    assert (promoted.version, CHAMPION.read_text()) == (5, "three")
    assert _roll_back(3).version == 6
    assert CHAMPION.read_text() == "two"
    assert LEDGER.read_bytes().startswith(before)
    assert [json.loads(line).get("schema") for line in LEDGER.read_text().splitlines()] == [*[None] * 4, 2, 2]
    assert len(read_ledger()) == 6


def test_ledger_of_a_newer_version_is_refused_in_one_line(project: Path) -> None:
    newer = json.loads(LEDGER.read_text().splitlines()[0]) | {"schema": 3, "jury": ["ada"]}
    with LEDGER.open("ab") as ledger:
        ledger.write(seal_line(newer, None))
    with pytest.raises(RunError) as raised:
        read_ledger()
    assert str(raised.value) == f"{LEDGER} was written by a newer version of cifarflow (schema 3); upgrade"


def test_checkpoints_of_before_are_skipped_in_one_line_and_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = io.BytesIO()
    torch.save({"epoch": 3, "net": {"w": torch.zeros(2)}}, content)
    for key in ("0123456789abcdef", "fedcba9876543210"):
        (tmp_path / key).mkdir()
        sealed = hashlib.sha256(content.getvalue()).digest() + content.getvalue()
        (tmp_path / key / "epoch-000003.pt").write_bytes(sealed)
    assert CheckpointStore(tmp_path, "today").load_latest() is None
    assert capsys.readouterr().out == (
        f"skipping checkpoints in {tmp_path} of 2 other trainings, "
        "whose data, parameters, code or machine differ\n"
    )
    CheckpointStore(tmp_path, "today").save(1, {"epoch": 1})
    assert CheckpointStore(tmp_path, "tomorrow").load_latest() is None
    assert len([*tmp_path.glob("*/")]) == 2, "of three trainings, the one at work among them, the oldest goes"


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_serve_replaces_the_automations_of_before(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_automations() -> dict[str, dict[str, Any]]:
        with get_client(sync_client=True) as client:
            found = client.request("POST", "/automations/filter", json={}).json()
        return {entry["name"]: entry for entry in found if entry["name"].startswith("cifarflow")}

    shutil.copy(BEFORE / "automations.yaml", ".")
    _ensure_automations()
    (name,) = read_automations()
    assert name == "cifarflow: a run that fell silent has crashed"
    shutil.copy(ROOT / "automations.yaml", ".")
    try:
        _ensure_automations()
        first = read_automations()
        expected = {entry["name"] for entry in YAML(typ="safe").load(Path("automations.yaml"))["automations"]}
        assert first.keys() == expected
        _ensure_automations()
        assert read_automations() == first, "what is the same is not touched"
        address = "0b7e9f3a-6d1c-4f7e-9d53-000000000001"
        text = Path("automations.yaml").read_text().replace("&alerts false", "&alerts true")
        Path("automations.yaml").write_text(text.replace("00000000-0000-0000-0000-000000000000", address))
        _ensure_automations()
        renewed = read_automations()
        alerts = {name for name in renewed if "alert:" in name}
        assert {name for name in first if renewed[name] != first[name]} == alerts
        assert {renewed[name]["actions"][0]["block_document_id"] for name in alerts} == {address}
        assert all(renewed[name]["enabled"] for name in alerts)
    finally:
        with get_client(sync_client=True) as client:
            for entry in read_automations().values():
                client.delete_automation(entry["id"])
