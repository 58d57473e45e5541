import json
from pathlib import Path

import pytest

from tasks.registry import ledger
from tasks.registry.ledger import (
    CHAMPION,
    LEDGER,
    LedgerEntry,
    append,
    current_champion,
    read_ledger,
    resolve_rollback_target,
)
from tasks.workspace.errors import InputError, RunError


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def entry(verdict: ledger.DecisionKind, md5: str) -> LedgerEntry:
    return LedgerEntry(verdict, "because", md5 * 32, 9, "otter", "id", {"data": "d"}, {"gain": 0.5})


def test_entries_are_numbered_and_read_back() -> None:
    assert read_ledger() == []
    made = [append(entry("promoted", "a")), append(entry("rejected", "b")), append(entry("promoted", "c"))]
    assert read_ledger() == made
    assert [one.version for one in made] == [1, 2, 3]
    crowned = current_champion(made)
    assert crowned is not None
    assert crowned.model_md5 == "c" * 32
    assert current_champion(made[:2]) == made[0]
    assert [json.loads(line)["verdict"] for line in LEDGER.read_text().splitlines()] == [
        "promoted",
        "rejected",
        "promoted",
    ]


@pytest.mark.parametrize("end", ['{"verdict": "prom', '{"verdict": 1}', "\x00\x00\x00"])
def test_a_damaged_last_line_is_left_aside_and_kept(end: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = append(entry("promoted", "a"))
    with LEDGER.open("a") as file:
        file.write(end)
    assert read_ledger() == [first]
    second = append(entry("promoted", "b"))
    assert read_ledger() == [first, second]
    assert LEDGER.with_name("ledger.jsonl.damaged").read_text().strip("\n") == end
    assert "was cut short" in capsys.readouterr().out


def test_damage_elsewhere_is_one_line() -> None:
    append(entry("promoted", "a"))
    append(entry("promoted", "b"))
    LEDGER.write_text("{\n" + LEDGER.read_text().splitlines()[1] + "\n")
    with pytest.raises(RunError, match="line 1 is damaged"):
        read_ledger()


def test_what_a_rollback_goes_back_to() -> None:
    with pytest.raises(InputError, match="no model was ever promoted"):
        resolve_rollback_target([], None)
    entries = [append(entry("promoted", "a"))]
    with pytest.raises(InputError, match="the only one so far"):
        resolve_rollback_target(entries, None)
    entries += [append(entry("rejected", "b")), append(entry("promoted", "c"))]
    assert resolve_rollback_target(entries, None) == entries[0]
    assert resolve_rollback_target(entries, 0) == entries[2]
    assert resolve_rollback_target(entries, 1) == entries[0]
    with pytest.raises(InputError, match="2 is no champion; the ledger has these: 1, 3"):
        resolve_rollback_target(entries, 2)


def test_the_model_that_serves() -> None:
    fallback = Path("artifacts/model.onnx")
    assert ledger.resolve_serving_model(fallback)[0] == fallback
    CHAMPION.parent.mkdir(exist_ok=True)
    CHAMPION.write_bytes(b"one")
    md5 = ledger.file_md5(CHAMPION)
    append(LedgerEntry("promoted", "", md5, 3, "", "", {}, {}))
    assert ledger.resolve_serving_model(fallback) == (CHAMPION, read_ledger()[0].label)
    append(entry("promoted", "a"))  # the file follows a moment later
    assert ledger.resolve_serving_model(fallback) == (CHAMPION, read_ledger()[0].label)
    CHAMPION.write_bytes(b"two")
    with pytest.raises(RunError, match="is no model that was ever promoted"):
        ledger.resolve_serving_model(fallback)
    CHAMPION.unlink()
    with pytest.raises(RunError, match="is not there; bring it back: cifarflow rollback 0"):
        ledger.resolve_serving_model(fallback)
