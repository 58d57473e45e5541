"""What was rolled back, and a ledger that lost a promotion: what flows decide, without a server."""

import dataclasses
import datetime as dt
import json
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.champion import approval, decide
from flows.champion.approval import Approval
from flows.champion.model import promote, restore_champion, sync_champion
from flows.retrain import _describe_decision
from flows.rollback import _override, _roll_back
from flows.versions.dvc_repro import open_repo
from tasks.params import Params
from tasks.registry import questions
from tasks.registry.ledger import (
    CHAMPION,
    CHAMPION_DVC_FILE,
    CHAMPION_INT8,
    LEDGER,
    LedgerEntry,
    append,
    read_ledger,
)
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import hash_file
from tests.conftest import copy_of_project

SOON = dt.timedelta(hours=1)


@pytest.fixture(autouse=True)
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[LedgerEntry]:
    """In a DVC repository: two promotions, of the models `one` and `two`."""
    copy_of_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    with Repo.init(no_scm=True):
        pass
    return [promote_model("one"), promote_model("two")]


def make_challenger(name: str, weights: str = "") -> LedgerEntry:
    """What a comparison promotes; DVC has its model in its cache."""
    Path("model").write_text(name)
    md5 = hash_file(Path("model"), "md5")
    cached = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
    cached.parent.mkdir(parents=True, exist_ok=True)
    Path("model").rename(cached)
    provenance = {"weights": weights or name}
    return LedgerEntry("promoted", "+4%", md5, len(name), "otter", "id", provenance, {"p_value": 0.001})


def promote_model(name: str) -> LedgerEntry:
    challenger = make_challenger(name)
    with open_repo() as repo:
        return promote(repo, challenger)


def record(challenger: LedgerEntry, timeout: dt.timedelta | None = None) -> LedgerEntry:
    """As a retraining does after its comparison."""
    with open_repo() as repo:
        return decide._record(repo, challenger, timeout)


def read_decisions() -> list[str]:
    return [entry.decision for entry in read_ledger()]


@pytest.mark.parametrize("timeout", [None, SOON], ids=["at once", "by a person"])
@pytest.mark.parametrize("export", ["two", "two in another opset"])
def test_retraining_rejects_what_was_rolled_back(export: str, timeout: dt.timedelta | None) -> None:
    rollback = _roll_back(None)
    assert CHAMPION.read_text() == "one"
    with open_repo() as repo:
        restore_champion(repo)
    rejected = record(make_challenger(export, weights="two"), timeout)
    assert rejected.decision == "rejected", "nobody is asked, either"
    assert rejected.reason.startswith(f"+4%; but version {rollback.version} rolled this model back on 20")
    assert CHAMPION.read_text() == "one"
    assert record(make_challenger("three")).decision == "promoted", "another model may come"


def test_retraining_with_nothing_changed_says_that_the_model_was_rolled_back(
    entries: list[LedgerEntry],
) -> None:
    assert "nothing changed since champion 2" in str(_describe_decision(read_ledger(), entries[1].model_md5))
    _roll_back(None)
    reason = str(_describe_decision(read_ledger(), entries[1].model_md5))
    assert "when this model was rolled back: manual rollback to champion 1 (" in reason
    assert reason.endswith("only a person promotes it again: cifarflow promote 2 --reason ...")
    _override("2", "it was the camera")
    assert "nothing changed since champion 4" in str(_describe_decision(read_ledger(), entries[1].model_md5))


def test_person_promotes_what_was_rolled_back() -> None:
    _roll_back(None)
    entry = _override("2", "it was\nthe camera\u2028 \x1b[31m\udcff")
    assert entry.reason == (
        "it was the camera \\x1b[31m\\udcff (version 2 was promoted, and version 3 rolled it back)"
    )
    assert CHAMPION.read_text() == "two"
    assert read_ledger()[-1] == entry
    assert _roll_back(1).decision == "rolled_back"
    assert _roll_back(2).model_md5 == entry.model_md5, "by its version, a person may return to it as well"


def test_rollbacks_go_further_back_each_time() -> None:
    promote_model("three")
    for name in ("two", "one"):
        _roll_back(None)
        assert CHAMPION.read_text() == name
    with pytest.raises(InputError, match="is the first champion; nothing to roll back to"):
        _roll_back(None)


def test_yes_to_a_question_does_not_promote_what_was_rolled_back(entries: list[LedgerEntry]) -> None:
    """A merge brought the question of another branch below the rollback."""
    _roll_back(None)
    question = append(questions.ask(make_challenger("two"), entries[0], dt.datetime.now(dt.UTC) + SOON))
    answer = Approval(approve=True, reason="looks good", person="ada")
    decided = approval._decide(question, answer, Params.model_construct(), SOON)
    assert decided.decision == "rejected"
    assert "+4%, approved by ada: looks good; but version 3 rolled this model back" in decided.reason
    assert CHAMPION.read_text() == "one"


CUTS = {"half": 200, "first bytes": 7, "whole line": 0}


@pytest.mark.parametrize("length", CUTS.values(), ids=CUTS)
def test_only_a_person_decides_where_a_promotion_may_be_missing(length: int) -> None:
    first, second = LEDGER.read_bytes().splitlines(keepends=True)
    LEDGER.write_bytes(first + second[:length])
    with open_repo() as repo:
        for use in (sync_champion, restore_champion):
            with pytest.raises(RunError, match="where Git has the whole ledger, restore it with: cp"):
                use(repo)
    with pytest.raises(
        RunError, match="choose the model that serves with: cifarflow rollback VERSION"
    ) as raised:
        _roll_back(None)
    assert len(str(raised.value).splitlines()) == 1
    assert (LEDGER.read_bytes(), CHAMPION.read_text()) == (first + second[:length], "two")
    _roll_back(1)
    assert (read_decisions(), CHAMPION.read_text()) == (["promoted", "rolled_back"], "one")
    if length:
        assert Path(f"{LEDGER}.truncated").read_bytes() == second[:length] + b"\n"


def test_files_of_the_champion_follow_the_ledger_after_a_merge(entries: list[LedgerEntry]) -> None:
    recorded = CHAMPION_DVC_FILE.read_bytes()
    CHAMPION_DVC_FILE.write_text("<<<<<<< HEAD\nouts:\n=======\n>>>>>>> other\n")
    CHAMPION.write_text("one")
    with open_repo() as repo:
        assert sync_champion(repo) == entries[1]
    assert (CHAMPION.read_text(), CHAMPION_DVC_FILE.read_bytes()) == ("two", recorded)


def test_line_of_an_earlier_version_may_be_rolled_back(entries: list[LedgerEntry]) -> None:
    lines = [json.dumps(dataclasses.asdict(entry) | {"approval": None}) for entry in entries]
    LEDGER.write_text("".join(f"{line}\n" for line in lines))
    assert _roll_back(None).model_md5 == entries[0].model_md5
    assert LEDGER.read_text().splitlines()[:2] == lines


def test_int8_model_is_promoted_and_rolled_back_with_its_model(entries: list[LedgerEntry]) -> None:
    int8 = make_challenger("three in 8 bits")
    three = dataclasses.replace(
        make_challenger("three"), int8_md5=int8.model_md5, int8_bytes=int8.model_bytes
    )
    with open_repo() as repo:
        three = promote(repo, three)
    assert (CHAMPION.read_text(), CHAMPION_INT8.read_text()) == ("three", "three in 8 bits")
    CHAMPION_INT8.unlink()
    with open_repo() as repo:
        assert repo.checkout(str(CHAMPION_DVC_FILE))["stats"]["added"] == 1, "DVC knows both files"
    assert _roll_back(2).int8_md5 == ""
    assert (CHAMPION.read_text(), CHAMPION_INT8.exists()) == ("two", False)
    assert _roll_back(three.version).int8_md5 == int8.model_md5
    assert (CHAMPION.read_text(), CHAMPION_INT8.read_text()) == ("three", "three in 8 bits")
    assert read_ledger()[-1].as_dict()["int8_bytes"] == len("three in 8 bits")
    assert "int8_md5" not in read_ledger()[0].as_dict()


def test_int8_model_that_dvc_does_not_have_promotes_nothing() -> None:
    before = LEDGER.read_bytes(), CHAMPION.read_text()
    with open_repo() as repo, pytest.raises(RunError, match="is not in the DVC cache"):
        promote(repo, dataclasses.replace(make_challenger("three"), int8_md5="0" * 32))
    assert (LEDGER.read_bytes(), CHAMPION.read_text()) == before
