"""A damaged ledger: what is cut short, altered, removed or moved is noticed, and nothing is lost."""

import json
import re
import subprocess
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.registry.ledger import LEDGER, DecisionKind, LedgerEntry, append, parse_content, read_ledger
from tasks.registry.ledger_lines import LineReader, seal_line
from tasks.workspace.errors import RunError
from tests.tasks.registry.test_ledger import make_entry
from tests.tasks.registry.test_ledger_merge import git


@pytest.fixture(autouse=True)
def _enter_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_ledger(*reasons: str) -> list[LedgerEntry]:
    LEDGER.unlink(missing_ok=True)
    kinds: tuple[DecisionKind, ...] = ("promoted", "rejected", "rolled_back")
    for i, reason in enumerate(reasons):
        append(replace(make_entry(kinds[i % 3], "abc"[i % 3]), reason=reason))
    return read_ledger()


def write_lines(*lines: bytes) -> None:
    LEDGER.parent.mkdir(exist_ok=True)
    LEDGER.write_bytes(b"".join(line + b"\n" for line in lines))


def old_line(decision: str, md5: str) -> bytes:
    """A line of an earlier version, which had no digests."""
    entry = make_entry("promoted", md5).as_dict()
    return json.dumps(
        {**entry, "decision": decision, "version": 1, "time": "2026-01-05T03:00:00+00:00"}
    ).encode()


@given(
    reason=st.text(st.characters(codec=None))
    | st.text('\x00\n\r\x0b\x1c\x85\u2028\u2029\ud800\udcff"\\#{}ä✓')
)
def test_any_reason_is_one_line_that_is_read_again(reason: str) -> None:
    line = seal_line({"reason": reason}, None)
    assert LineReader().open_line(1, line) == json.loads(json.dumps({"reason": reason}))
    assert len(line.decode("utf-8").splitlines()) == 1


def test_every_truncation_is_read_without_its_end_or_refused() -> None:
    entries = write_ledger("größer ✓", "näher", "ü\u2028 🎉")
    content = LEDGER.read_bytes()
    with pytest.raises(RunError, match="is empty: its decisions are lost"):
        parse_content(b"")
    for length in range(1, len(content) + 1):
        parsed = parse_content(content[:length])
        *whole, rest = content[:length].split(b"\n")
        if parsed.truncated:
            assert parsed.truncated == rest.rstrip()
            assert parsed.entries == entries[: len(whole)]
        else:
            assert rest in {b"", content.split(b"\n")[len(whole)]}, "only the newline is missing"
            assert parsed.entries == entries[: len(whole) + bool(rest)]


def test_append_after_half_a_character_keeps_what_is_left() -> None:
    first, _ = write_ledger("one", "ü")
    cut = LEDGER.read_bytes().partition("ü".encode())[0] + b"\xc3"
    LEDGER.write_bytes(cut)
    second = append(make_entry("rejected", "d"))
    assert read_ledger() == [first, second]
    assert LEDGER.read_bytes().startswith(cut.partition(b"\n")[0])
    assert Path(f"{LEDGER}.truncated").read_bytes() == cut.partition(b"\n")[2] + b"\n"


def test_every_flipped_bit_is_noticed() -> None:
    entries = write_ledger("größer ✓", "ü 🎉")
    content = LEDGER.read_bytes()
    num_refused = 0
    for i in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[i] ^= 1 << bit
            try:
                parsed = parse_content(bytes(flipped))
            except RunError:
                num_refused += 1
            else:
                assert parsed.entries == entries[:1], (i, bit)
                assert parsed.truncated
    assert num_refused > 0.8 * 8 * len(content)


def test_every_order_of_a_merge_by_union_is_read_and_every_other_is_refused() -> None:
    """Each branch's own lines keep their order; before the branches stand the lines that both have."""
    write_ledger("gemeinsam")
    branches = []
    for names in (("Ä", "Ö"), ("✓", "🎉")):
        common = LEDGER.read_bytes()
        for name in names:
            append(replace(make_entry("promoted", "b"), reason=name))
        branches.append(LEDGER.read_bytes().splitlines()[1:])
        LEDGER.write_bytes(common)
    (base,) = LEDGER.read_bytes().splitlines()
    for places in combinations(range(4), 2):
        ours, theirs = iter(branches[0]), iter(branches[1])
        merged = [next(ours) if i in places else next(theirs) for i in range(4)]
        write_lines(base, *merged)
        assert [entry.version for entry in read_ledger()] == [1, 2, 3, 4, 5]
        assert append(make_entry("promoted", "c")).version == 6
    write_lines(base, branches[0][1], branches[0][0])
    with pytest.raises(RunError, match=r"line 2 is corrupt .*no longer stands above it"):
        read_ledger()


def test_line_that_two_branches_both_have_counts_once() -> None:
    entries = write_ledger("one", "two")
    first, second = LEDGER.read_bytes().splitlines()
    write_lines(first, second, second)
    assert read_ledger() == entries
    assert append(make_entry("promoted", "c")).version == 4


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_removed_line_is_noticed_by_the_next(removed: int) -> None:
    write_ledger("one", "two", "three", "four")
    lines = LEDGER.read_bytes().splitlines()
    del lines[removed]
    write_lines(*lines)
    with pytest.raises(RunError, match=f"line {removed + 1} is corrupt .* git diff HEAD -- registry"):
        read_ledger()


def test_old_lines_stay_as_they_are_and_an_edited_one_is_named() -> None:
    old = [old_line("promoted", "a"), old_line("rejected", "b").replace(b'", "', b'" ,  "')]
    write_lines(*old)
    append(make_entry("promoted", "c"))
    assert LEDGER.read_bytes().splitlines()[:2] == old
    assert [entry.decision for entry in read_ledger()] == ["promoted", "rejected", "promoted"]
    LEDGER.write_bytes(LEDGER.read_bytes().replace(b"rejected", b"promoted"))
    with pytest.raises(RunError, match=r"line 3 is corrupt .*or line 2, which has no digest of its own, was"):
        read_ledger()


@pytest.mark.parametrize("line", [0, 1])
def test_edited_line_is_named_and_refused_although_it_is_the_last(line: int) -> None:
    write_ledger("one", "two")
    lines = LEDGER.read_bytes().splitlines()
    lines[line] = lines[line].replace(b'"model_bytes": 9', b'"model_bytes": 8')
    write_lines(*lines)
    with pytest.raises(RunError, match=f"line {line + 1} is corrupt .*its sha256 is not that of its content"):
        read_ledger()


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"\x00" * 999, b"\x00" * 99 + b"\n"],
    ids=["empty", "newline", "zeros", "zeros and newline"],
)
def test_ledger_that_lost_everything_is_not_an_empty_one(content: bytes) -> None:
    LEDGER.parent.mkdir()
    LEDGER.write_bytes(content)
    for use in (read_ledger, lambda: append(make_entry("promoted", "a"))):
        with pytest.raises(RunError, match=r"its decisions are lost; .* restore it with: git checkout"):
            use()
    assert LEDGER.read_bytes() == content


ODD_LINES = {
    "nested": b"[" * 100_000,
    "number": b"5",
    "text": b'"text"',
    "null": b"null",
    "huge number": b'{"version": ' + b"9" * 5000 + b"}",
    "model_md5": old_line("promoted", "a").replace(b'"' + b"a" * 32 + b'"', b"5"),
    "decision": old_line("demoted", "a"),
    "evidence": old_line("promoted", "a").replace(b'{"accuracy_gain": 0.5}', b"7"),
    "p_value": old_line("promoted", "a").replace(b"accuracy_gain", b"p_value").replace(b"0.5", b'"0.5"'),
    "provenance": old_line("promoted", "a").replace(b'{"data": "d"}', b"[1]"),
    "approval": old_line("pending_approval", "a"),
    "unknown key": old_line("promoted", "a").replace(b'"reason"', b'"raison"'),
}


@pytest.mark.parametrize("line", ODD_LINES.values(), ids=ODD_LINES)
def test_odd_line_is_refused_in_one_line_and_skipped_at_the_end(line: bytes) -> None:
    write_lines(line, old_line("promoted", "a"))
    with pytest.raises(
        RunError, match=r"^registry/ledger\.jsonl, line 1 is corrupt \(.*\); where Git"
    ) as raised:
        read_ledger()
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 1000
    write_lines(old_line("promoted", "a"), line)
    assert [entry.decision for entry in read_ledger()] == ["promoted"]
    assert append(make_entry("rejected", "b")).version == 2
    assert Path(f"{LEDGER}.truncated").read_bytes() == line + b"\n"


def damage(lines: list[bytes], number: int) -> None:
    lines[number - 1] = lines[number - 1].replace(b"because", b"became")
    write_lines(*lines)


def read_remedy(start: str, end: str = "$") -> str:
    """The command that the error names."""
    with pytest.raises(RunError) as raised:
        read_ledger()
    found = re.search(f"{re.escape(start)}(.*?){end}", str(raised.value))
    assert found is not None
    return found[1]


def test_restore_command_brings_back_gits_lines_and_keeps_those_that_git_does_not_have() -> None:
    git("init", "--quiet")
    committed = [append(make_entry("promoted", name)) for name in "ab"]
    git("add", ".")
    git("commit", "--quiet", "-m", "two")
    entries = [*committed, append(make_entry("rejected", "c"))]
    damage(LEDGER.read_bytes().splitlines(), 1)
    damaged = LEDGER.read_bytes()
    subprocess.run(read_remedy("restore it with: "), shell=True, check=True)
    assert read_ledger() == entries
    assert Path(f"{LEDGER}.damaged").read_bytes() == damaged


def test_line_that_git_does_not_have_is_set_aside_in_its_place() -> None:
    entries = [append(make_entry("promoted", name)) for name in "abc"]
    damage(LEDGER.read_bytes().splitlines(), 2)
    subprocess.run(read_remedy("set it aside: ", "; where"), shell=True, check=True)
    assert read_ledger() == [entries[0], entries[2]]
    assert append(make_entry("rejected", "d")).version == 4
    first, second, _, last = LEDGER.read_bytes().splitlines()
    assert second.startswith(b'#{"decision": "promoted"')
    write_lines(first, second, last)
    with pytest.raises(RunError, match="line 3 is corrupt"):
        read_ledger()  # a line that is set aside explains no other


def test_place_of_a_removed_line_can_be_marked() -> None:
    entries = [append(make_entry("promoted", name)) for name in "abc"]
    first, _, third = LEDGER.read_bytes().splitlines()
    write_lines(first, third)
    subprocess.run(read_remedy("mark its place: "), shell=True, check=True)
    assert read_ledger() == [entries[0], entries[2]]


def test_files_md_says_how_to_check_a_line_by_hand() -> None:
    """The same digest by sed and sha256sum."""
    write_ledger("größer", "näher\u2028")
    first, second = (json.loads(line) for line in LEDGER.read_text().splitlines())
    assert (first["after"], second["after"]) == (None, first["sha256"])
    for number, line in enumerate((first, second), 1):
        command = (
            f"sed -n {number}p {LEDGER} | sed 's/, \"sha256\": \"[0-9a-f]*\"}}$//' | tr -d '\\n' | sha256sum"
        )
        done = subprocess.run(command, shell=True, check=True, capture_output=True, text=True)
        assert done.stdout.split()[0] == line["sha256"]
