import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.registry.ledger import (
    LEDGER,
    DecisionKind,
    LedgerEntry,
    append,
    current_champion,
    describe_detectable_gain,
    describe_test,
    find_reference,
    look_times,
    next_version,
    read_ledger,
    to_line,
    truncated_tail,
)
from tasks.workspace.errors import RunError


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
        "after",
        "schema",
        "sha256",
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


def test_find_reference_is_the_champion_unless_its_promotion_names_another() -> None:
    assert find_reference([]) is None
    first = append(make_entry("promoted", "a"))
    assert find_reference(read_ledger()) == first, "also of an earlier version's entry"
    kept = {"reference_md5": "a" * 32}
    append(replace(make_entry("promoted", "b"), evidence=kept))
    append(make_entry("rejected", "c"))
    assert find_reference(read_ledger()) == first
    better = append(make_entry("promoted", "d"))
    assert find_reference(read_ledger()) == better
    append(replace(make_entry("rolled_back", "b"), evidence=kept))
    assert find_reference(read_ledger()) == first, "a rollback restores it with its model"


def test_describe_detectable_gain_in_points() -> None:
    evidence = {"detectable_gain": [0.1, None]}
    assert describe_detectable_gain(evidence).endswith(
        ": 10.0 points in half of the cases, none in nine of ten"
    )
    evidence = {"detectable_gain": [0.0151, None]}
    assert describe_detectable_gain(evidence) == (
        "the smallest gain that such a comparison finds: 1.5 points in half of the cases, none in nine of ten"
    )
    assert describe_detectable_gain({"p_value": 0.0312}) == ""


def test_describe_test_says_look_threshold_and_error_spent() -> None:
    evidence = {"p_value": 0.0312, "look": 12, "threshold": 0.00161, "error_spent": 0.0143}
    assert describe_test(evidence) == "p = 0.031, required: 0.0016, look 12 of a year, error spent: 1.43%"
    assert describe_test({"p_value": 0.0312}) == "p = 0.031"
    assert describe_test({"challenger_val_accuracy": 0.6}) == ""


def test_next_version_is_the_number_of_the_next_line() -> None:
    for version in (1, 2):
        assert next_version() == append(make_entry("rejected", "a")).version == version


def test_question_is_a_look_and_its_answer_is_none() -> None:
    evidence = {"p_value": 0.04}
    question = {"deadline": "2026-01-19T03:00:00+00:00", "champion_md5": "a" * 32}
    asked = replace(make_entry("pending_approval", "b"), evidence=evidence, approval=question)
    answer = {"approved": False, "person": "Ada", "reason": "no"}
    refused = replace(make_entry("rejected", "b"), evidence=evidence, approval=answer)
    first = make_entry("promoted", "a")  # which was compared with no champion
    assert [entry.is_answer for entry in (first, asked, refused)] == [False, False, True]
    entries = [append(entry) for entry in (first, asked, refused)]
    assert [time.isoformat() for time in look_times(entries)] == [entries[1].time]


def test_to_line_keeps_what_is_printed_or_joins_and_escapes_the_rest() -> None:
    assert to_line(" good\non\tmy  photos ") == "good on my photos"
    assert to_line("Größe 猫 👩\u200d💻 क\u200cष") == "Größe 猫 👩\u200d💻 क\u200cष"
    assert to_line("\x1b[31m\u202e\x00") == r"\x1b[31m\u202e\x00"


def test_ledger_that_cannot_be_read_says_why() -> None:
    LEDGER.mkdir(parents=True)
    with pytest.raises(RunError, match=r"^registry/ledger\.jsonl cannot be read: Is a directory$"):
        read_ledger()


def test_line_before_the_first_sealed_one_is_named_where_it_was_altered() -> None:
    """Of several lines of an earlier version, the last is the one that the sealed line names."""
    rest = dict(vars(make_entry("rejected", "a")).items())
    LEDGER.parent.mkdir()
    LEDGER.write_text("".join(f"{json.dumps(rest | {'model_bytes': size})}\n" for size in (1, 2, 3)))
    append(make_entry("promoted", "b"))
    LEDGER.write_text(LEDGER.read_text().replace('"model_bytes": 3', '"model_bytes": 4'))
    with pytest.raises(RunError, match=r"line 4 is corrupt .*or line 3, which has no digest of its own, was"):
        read_ledger()
