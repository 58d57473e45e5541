import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.registry.ledger import (
    CHAMPION,
    LEDGER,
    DecisionKind,
    LedgerEntry,
    append,
    current_champion,
    describe_test,
    look_times,
    read_ledger,
    require_champion,
    resolve_rejected,
    resolve_rollback_target,
    resolve_serving_model,
    truncated_tail,
)
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import hash_file


@pytest.fixture(autouse=True)
def _enter_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_entry(decision: DecisionKind, md5: str) -> LedgerEntry:
    return LedgerEntry(decision, "because", md5 * 32, 9, "otter", "id", {"data": "d"}, {"accuracy_gain": 0.5})


def test_append_numbers_entries_and_read_ledger_returns_them() -> None:
    assert read_ledger() == []
    entries = [
        append(make_entry("promoted", "a")),
        append(make_entry("rejected", "b")),
        append(make_entry("rolled_back", "c")),
    ]
    assert read_ledger() == entries
    assert [entry.version for entry in entries] == [1, 2, 3]
    lines = [json.loads(line) for line in LEDGER.read_text().splitlines()]
    assert [line["decision"] for line in lines] == ["promoted", "rejected", "rolled_back"]
    assert lines[0].keys() == {
        "decision",
        "reason",
        "model_md5",
        "model_bytes",
        "flow_run_name",
        "flow_run_id",
        "provenance",
        "evidence",
        "version",
        "time",
    }


def test_current_champion_is_the_last_that_was_not_rejected() -> None:
    entries = [make_entry("promoted", "a"), make_entry("rejected", "b")]
    assert current_champion([]) is None
    assert current_champion(entries) == entries[0]
    assert current_champion([*entries, make_entry("rolled_back", "c")]) == make_entry("rolled_back", "c")


@pytest.mark.parametrize("tail", ['{"decision": "prom', '{"decision": 1}', "\x00\x00\x00"])
def test_truncated_last_line_is_skipped_and_kept_in_a_file(
    tail: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = append(make_entry("promoted", "a"))
    assert truncated_tail() == ""
    with LEDGER.open("a") as file:
        file.write(tail)
    assert read_ledger() == [first]
    assert truncated_tail() == tail
    second = append(make_entry("promoted", "b"))
    assert read_ledger() == [first, second]
    assert LEDGER.with_name("ledger.jsonl.truncated").read_text().strip("\n") == tail
    assert "was truncated; moved to" in capsys.readouterr().out


def test_read_ledger_corrupt_line_is_named() -> None:
    append(make_entry("promoted", "a"))
    append(make_entry("promoted", "b"))
    LEDGER.write_text("{\n" + LEDGER.read_text().splitlines()[1] + "\n")
    with pytest.raises(RunError, match=r"line 1 is corrupt .* git checkout"):
        read_ledger()


def test_rollback_target_without_promotion_raises() -> None:
    for entries in ([], [append(make_entry("rejected", "a"))]):
        with pytest.raises(InputError, match="no model has been promoted yet; nothing to roll back to"):
            resolve_rollback_target(entries)
        with pytest.raises(InputError, match="no model has been promoted yet"):
            require_champion(entries)


def test_rollback_target_of_only_champion_raises() -> None:
    entries = [append(make_entry("promoted", "a"))]
    with pytest.raises(InputError, match="the only one so far; nothing to roll back to"):
        resolve_rollback_target(entries)


def test_rollback_target_is_previous_champion_or_version() -> None:
    entries = [
        append(make_entry("promoted", "a")),
        append(make_entry("rejected", "b")),
        append(make_entry("promoted", "c")),
    ]
    assert resolve_rollback_target(entries) == entries[0]
    assert resolve_rollback_target(entries, 1) == entries[0]
    assert resolve_rollback_target(entries, 3) == entries[2]
    assert require_champion(entries) == entries[2]
    with pytest.raises(InputError, match="2 is not a promoted version; choose one of: 1, 3"):
        resolve_rollback_target(entries, 2)


def test_rejected_model_is_found_by_version_or_file(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"model")
    with pytest.raises(InputError, match=r"model\.onnx has not been compared .* cifarflow retrain"):
        resolve_rejected([], str(file))
    rejected = replace(make_entry("rejected", "b"), model_md5=hash_file(file, "md5"))
    entries = [append(make_entry("promoted", "a")), append(rejected)]
    assert resolve_rejected(entries, "2") == resolve_rejected(entries, str(file)) == entries[1]
    with pytest.raises(InputError, match="1 was promoted as version 1; cifarflow rollback 1 does it again"):
        resolve_rejected(entries, "1")
    with pytest.raises(InputError, match="7 has not been compared with the champion"):
        resolve_rejected(entries, "7")
    with pytest.raises(InputError, match=r"nothing is neither a version of .* nor a file"):
        resolve_rejected(entries, "nothing")
    entries.append(append(replace(rejected, decision="overridden")))
    assert current_champion(entries) == entries[2]
    with pytest.raises(InputError, match="2 was promoted as version 3"):
        resolve_rejected(entries, "2")


LEDGER_OF_AN_EARLIER_VERSION = """\
{"decision": "promoted", "time": "2026-01-05T03:00:00+00:00", "evidence": {"challenger_val_accuracy": 0.6}}
{"decision": "rejected", "time": "2026-01-12T03:00:00+00:00", "evidence": {"p_value": 0.2}}
{"decision": "promoted", "time": "2026-01-19T03:00:00", "evidence": {"p_value": 0.04}}
{"decision": "rolled_back", "time": "2026-01-20T03:00:00+00:00", "evidence": {"p_value": 0.04}}
{"decision": "overridden", "time": "2026-01-21T03:00:00+00:00", "evidence": {"p_value": 0.2}}
"""


def test_look_times_of_an_earlier_versions_ledger_are_its_comparisons() -> None:
    rest = vars(make_entry("rejected", "a")).items()
    lines = [dict(rest) | json.loads(line) for line in LEDGER_OF_AN_EARLIER_VERSION.splitlines()]
    LEDGER.parent.mkdir()
    LEDGER.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert [time.isoformat() for time in look_times(read_ledger())] == [
        "2026-01-12T03:00:00+00:00",
        "2026-01-19T03:00:00+00:00",
    ]
    LEDGER.write_text(LEDGER.read_text().replace("2026-01-12T03:00:00+00:00", "last Monday"))
    with pytest.raises(RunError, match=r"line 2: the time is not ISO 8601: .*last Monday"):
        look_times(read_ledger())


def test_describe_test_says_look_threshold_and_error_spent() -> None:
    evidence = {"p_value": 0.0312, "look": 12, "threshold": 0.00161, "error_spent": 0.0143}
    assert describe_test(evidence) == "p = 0.031, required: 0.0016, look 12 of a year, error spent: 1.43%"
    assert describe_test({"p_value": 0.0312}) == "p = 0.031"
    assert describe_test({"challenger_val_accuracy": 0.6}) == ""


def write_champion(content: bytes) -> str:
    CHAMPION.parent.mkdir(exist_ok=True)
    CHAMPION.write_bytes(content)
    return hash_file(CHAMPION, "md5")


def test_serving_model_is_champion_else_fallback() -> None:
    fallback = Path("artifacts/model.onnx")
    assert resolve_serving_model(fallback)[0] == fallback
    append(LedgerEntry("promoted", "", write_champion(b"one"), 3, "", "", {}, {}))
    assert resolve_serving_model(fallback) == (CHAMPION, read_ledger()[0].label)
    append(make_entry("promoted", "a"))  # the file follows a moment later
    assert resolve_serving_model(fallback) == (CHAMPION, read_ledger()[0].label)


def test_serving_model_of_unknown_or_missing_file_raises() -> None:
    append(make_entry("promoted", "a"))
    with pytest.raises(RunError, match="not found; restore it with: cifarflow rollback --restore"):
        resolve_serving_model(Path("artifacts/model.onnx"))
    write_champion(b"two")
    with pytest.raises(
        RunError, match="does not match any promoted model; restore it with: cifarflow rollback"
    ):
        resolve_serving_model(Path("artifacts/model.onnx"))
