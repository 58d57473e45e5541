"""What a rollback restores, what a person may promote, and what no retraining may promote again."""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.registry.earlier_models import (
    find_rollback,
    reject_if_rolled_back,
    require_champion,
    resolve_candidate,
    resolve_rollback_target,
)
from tasks.registry.ledger import DecisionKind, LedgerEntry, append, current_champion
from tasks.workspace.errors import InputError
from tasks.workspace.files import hash_file
from tests.tasks.registry.test_ledger import make_entry


@pytest.fixture(autouse=True)
def _enter_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_rollback_target_without_promotion_raises() -> None:
    for entries in ([], [append(make_entry("rejected", "a"))]):
        with pytest.raises(InputError, match="no model has been promoted yet; nothing to roll back to"):
            resolve_rollback_target(entries)
        with pytest.raises(InputError, match="no model has been promoted yet"):
            require_champion(entries)


def test_rollback_target_of_only_champion_raises() -> None:
    entries = [append(make_entry("promoted", "a"))]
    with pytest.raises(InputError, match=r"is the first champion; nothing to roll back to$"):
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
        resolve_candidate([], str(file))
    rejected = replace(make_entry("rejected", "b"), model_md5=hash_file(file, "md5"))
    entries = [append(make_entry("promoted", "a")), append(rejected)]
    assert resolve_candidate(entries, "2") == resolve_candidate(entries, str(file)) == entries[1]
    others = [*entries, append(make_entry("rejected", "0"))]
    assert resolve_candidate(others, str(file)) == entries[1]
    with pytest.raises(
        InputError, match="1 was promoted as version 1; cifarflow rollback 1 promotes it again"
    ):
        resolve_candidate(entries, "1")
    with pytest.raises(InputError, match=r"has no version 7; versions that can be promoted: 2, 3$"):
        resolve_candidate(others, "7")
    with pytest.raises(InputError, match=r"nothing is neither a version of .* nor a file"):
        resolve_candidate(entries, "nothing")
    entries.append(append(replace(rejected, decision="overridden")))
    assert current_champion(entries) == entries[2]
    with pytest.raises(InputError, match="2 was promoted as version 4"):
        resolve_candidate(entries, "2")


Decided = tuple[DecisionKind, str]
A: Decided = ("promoted", "a")
B: Decided = ("promoted", "b")
C: Decided = ("promoted", "c")
D: Decided = ("promoted", "d")
BACK_TO_A: Decided = ("rolled_back", "a")
BACK_TO_B: Decided = ("rolled_back", "b")


def make_ledger(*decisions: Decided) -> list[LedgerEntry]:
    """Entries by decision and model: its letter, and after a dash that of other weights."""
    entries = []
    for i, (decision, name) in enumerate(decisions, 1):
        md5, _, weights = name.partition("-")
        entry = replace(make_entry(decision, md5), version=i, time="2026-01-05T03:00:00+00:00")
        entries.append(replace(entry, provenance={"weights": (weights or md5) * 64}))
    return entries


@pytest.mark.parametrize(
    ("decisions", "rolled_back"),
    [
        ([A, B], ""),
        ([A, B, BACK_TO_A], "b"),
        ([A, B, BACK_TO_A, ("rejected", "b")], "b"),
        ([A, B, BACK_TO_A, ("pending_approval", "b")], "b"),
        ([A, B, BACK_TO_A, ("overridden", "b")], ""),
        ([A, B, BACK_TO_A, BACK_TO_B], "a"),
        ([A, B, BACK_TO_A, C], "b"),
        ([A, B, BACK_TO_A, C, D, BACK_TO_A], "bcd"),
        ([A, B, C, BACK_TO_B], "c"),
        ([A, B, C, BACK_TO_A], "bc"),
        ([A, B, C, BACK_TO_A, ("overridden", "c"), D], "b"),
        ([A, B, A, C, BACK_TO_A], "c"),
        ([A, B, BACK_TO_A, B], "b"),  # an earlier version promoted it again
        ([B, BACK_TO_A], "b"),  # the line of a is set aside
        ([B, C, BACK_TO_A], "c"),  # and of it, the last promotion is what it took back
        ([A, B, C, A, D, BACK_TO_A], "d"),  # the last promotion of a counts
    ],
    ids=str,
)
def test_rollback_takes_back_what_was_promoted_since_until_a_person_promotes_it(
    decisions: list[Decided], rolled_back: str
) -> None:
    entries = make_ledger(*decisions)
    challengers = make_ledger(*(("promoted", name) for name in "abcd"))
    found = [entry for entry in challengers if find_rollback(entries, entry) is not None]
    assert "".join(entry.model_md5[0] for entry in found) == rolled_back
    for challenger in challengers:
        decided = reject_if_rolled_back(entries, challenger)
        assert (decided.decision == "rejected") == (challenger in found)
    for question in (replace(challenger, decision="pending_approval") for challenger in challengers):
        assert reject_if_rolled_back(entries, question) == question


def test_another_export_of_what_was_rolled_back_is_no_new_model() -> None:
    entries = make_ledger(A, B, BACK_TO_A)
    (export,) = make_ledger(("promoted", "e-b"))
    rejected = reject_if_rolled_back(entries, export)
    assert rejected.reason == (
        "because; but version 3 rolled this model back on 2026-01-05, "
        "and only cifarflow promote makes it the champion again"
    )
    (trained_anew,) = make_ledger(("promoted", "e-f"))
    assert reject_if_rolled_back(entries, trained_anew) == trained_anew
    twins = make_ledger(A, ("promoted", "e-a"), BACK_TO_A)
    assert find_rollback(twins, twins[0]) is None
    assert find_rollback(twins, twins[1]) == twins[2]


def test_rollback_target_leaves_out_what_was_rolled_back() -> None:
    entries = make_ledger(A, B, C, BACK_TO_B)
    assert resolve_rollback_target(entries) == entries[0]
    entries = make_ledger(A, B, BACK_TO_A)
    with pytest.raises(InputError, match=r"is the first champion; .* give its version: 2$"):
        resolve_rollback_target(entries)
    assert resolve_rollback_target(entries, 2) == entries[1]
    entries = make_ledger(A, B, BACK_TO_A, BACK_TO_B)
    with pytest.raises(
        InputError, match=r"has no champion before it that was not rolled back; .* version: 1, 3$"
    ):
        resolve_rollback_target(entries)


def test_rollbacks_never_return_to_a_later_champion() -> None:
    for path in ([A, B, C, D], [A, B, C, BACK_TO_A, D], [A, B, ("overridden", "c"), D, BACK_TO_B]):
        entries = make_ledger(*path)
        seen: list[str] = []
        while True:
            try:
                target = resolve_rollback_target(entries)
            except InputError:
                break
            seen.append(target.model_md5)
            back = replace(target, decision="rolled_back", version=len(entries) + 1)
            entries.append(back)
        assert seen == sorted(set(seen), reverse=True)
        assert seen[-1][0] == "a"


def test_rolled_back_model_may_be_promoted_by_a_person() -> None:
    entries = make_ledger(A, B, BACK_TO_A)
    assert resolve_candidate(entries, "2") == entries[1]
    for version in "13":
        with pytest.raises(InputError, match=f"{version} was promoted as version 3; cifarflow rollback 3"):
            resolve_candidate(entries, version)
    with pytest.raises(InputError, match=r"has no version 9; versions that can be promoted: 2$"):
        resolve_candidate(entries, "9")
