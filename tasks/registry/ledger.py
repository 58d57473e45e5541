"""Read and append the decisions about models: `registry/ledger.jsonl`, one line per decision.

The ledger is append-only and authoritative: its last line that is a promotion, rollback or override names the
champion by its hash. The file of the champion, `registry/champion.onnx`, is replaced atomically, so decisions
are atomic, too. `tasks.registry.ledger_lines` says how damage to a line is found.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tasks.registry.ledger_lines import (
    AlteredLineError,
    DamagedLineError,
    LineReader,
    format_remedy,
    seal_line,
)
from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write

LEDGER = Path("registry/ledger.jsonl")
CHAMPION = Path("registry/champion.onnx")
CHAMPION_INT8 = CHAMPION.with_name("champion.int8.onnx")
CHAMPION_DVC_FILE = CHAMPION.with_name(f"{CHAMPION.name}.dvc")
CONFLICT_MARKERS = (b"<<<<<<<", b"=======", b">>>>>>>", b"|||||||")
TRUNCATED_SUFFIX = ".truncated"

DecisionKind = Literal["promoted", "rejected", "rolled_back", "overridden", "pending_approval"]
"""What was decided.

overridden: a person promoted a model that had been rejected or rolled back, or that waited for approval

pending_approval: the comparison promotes, and a person is asked (`tasks.registry.questions`)
"""
PROMOTIONS = {"promoted", "rolled_back", "overridden"}
SCHEMA = 2
"""version of a line's format; lines without one are older"""
EARLIER_NAMES = {
    "verdict": "decision",
    "why": "reason",
    "run": "flow_run_name",
    "run_id": "flow_run_id",
    "hashes": "provenance",
    "number": "version",
    "only_challenger_right": "discordant_challenger",
    "only_champion_right": "discordant_champion",
    "gain": "accuracy_gain",
}
"""keys of lines, and of their evidence, that the first version wrote"""
EARLIER_DECISIONS = {"refused": "rejected", "rolled-back": "rolled_back"}
TEST_FIGURES = ("p_value", "look", "threshold", "error_spent")


@dataclass(frozen=True)
class LedgerEntry:
    """A line of the ledger."""

    decision: DecisionKind
    reason: str
    model_md5: str
    """hash of the challenger's file, or of the model that a rollback or an override made the champion"""
    model_bytes: int
    flow_run_name: str
    flow_run_id: str
    provenance: Mapping[str, str]
    """hashes of what the model was made from: `data`, `params`, `code`, `weights`"""
    evidence: Mapping[str, Any]
    int8_md5: str = ""
    """hash of the same model in 8-bit integers; empty where it has lost too much accuracy"""
    int8_bytes: int = 0
    version: int = 0
    """number of the line, from 1 on; `append` sets it and the time"""
    time: str = ""
    """time of the decision, ISO 8601, UTC"""
    approval: Mapping[str, Any] | None = None
    """in a pending approval `deadline` and `champion_md5`, in its answer `approved`, `person` and `reason`"""
    page: str = ""
    """the page that shows the comparison (`tasks.decision_pages`); empty in lines of earlier versions"""
    reproduction: Mapping[str, Any] | None = None
    """what `cifarflow reproduce` needs to make the model again; None in lines of earlier versions"""

    @property
    def is_promotion(self) -> bool:
        """Return whether the decision made the model the champion."""
        return self.decision in PROMOTIONS

    @property
    def is_answer(self) -> bool:
        """Return whether the entry answers a pending approval, whose evidence it repeats."""
        return self.approval is not None and "approved" in self.approval

    def as_dict(self) -> dict[str, Any]:
        """Return the object of the entry's line, without what is optional and not there."""
        optional = {"approval", "int8_md5", "int8_bytes", "page", "reproduction"}
        return {key: value for key, value in vars(self).items() if value or key not in optional}

    @property
    def day(self) -> str:
        """Return the date of the decision."""
        return self.time[:10]

    @property
    def label(self) -> str:
        return f"champion {self.version} ({self.model_md5[:8]}, {self.decision} {self.day})"


LedgerEntry.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
ENTRY = TypeAdapter(LedgerEntry)


@dataclass(frozen=True)
class LedgerContent:
    """The content of a ledger's file."""

    entries: list[LedgerEntry]
    """the decisions, oldest first"""
    intact: bytes
    """the lines of the file, without a last line that is truncated"""
    truncated: bytes
    """what is left of a last line that is truncated; empty where it is not"""
    last_digest: str | None
    """digest of the last entry's line"""


def read_ledger(file: Path = LEDGER) -> list[LedgerEntry]:
    """Return the decisions, oldest first.

    An entry's version is the number of its line, so versions stay unique where Git merged two branches that
    both appended. A truncated last line is skipped. `RunError` for a file with conflict markers or with a
    line that is not as it was written; its message holds a fix that works in the middle of a merge as well.
    """
    return read_content(file).entries


def read_content(file: Path = LEDGER) -> LedgerContent:
    """Return the entries and the bytes that they were read from. `RunError` as in `read_ledger`."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return LedgerContent([], b"", b"", None)
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror or error}") from error
    return parse_content(content, file)


def parse_content(content: bytes, file: Path = LEDGER) -> LedgerContent:
    """Parse the content of a ledger's file. `RunError` as in `read_ledger`."""
    if not content.strip(b"\x00 \t\r\n"):
        raise RunError(
            f"{file} is {'nothing but zero bytes' if content else 'empty'}: its decisions are lost; where no "
            f"model was ever promoted, delete it; else restore it with: git checkout HEAD -- {file}"
        )
    lines = content.rstrip(b" \t\r\n").split(b"\n")
    if any(line.startswith(CONFLICT_MARKERS) for line in lines):
        pattern = "/^\\(<<<<<<<\\|=======\\|>>>>>>>\\||||||||\\)/d"
        raise RunError(
            f"{file} has Git's conflict markers; to keep the decisions of both sides: "
            f"sed -i '{pattern}' {file} && git add {file}"
        )
    entries: list[LedgerEntry] = []
    reader = LineReader()
    truncated = b""
    last_digest = None
    for number, line in enumerate(lines, 1):
        try:
            values = reader.open_line(number, line)
            if values is not None:
                if isinstance(schema := values.pop("schema", 0), int) and schema > SCHEMA:
                    raise RunError(
                        f"{file} was written by a newer version of cifarflow (schema {schema}); upgrade"
                    )
                entries.append(replace(_parse_entry(values), version=number))
                last_digest = reader.last_digest
        except DamagedLineError as error:
            if number == len(lines) and not isinstance(error, AlteredLineError):
                truncated = lines.pop()
                break
            remedy = format_remedy(file, number, error)
            raise RunError(f"{file}, line {number} is corrupt ({error}); {remedy}") from None
    intact = b"".join(line + b"\n" for line in lines)
    return LedgerContent(entries, intact, truncated, last_digest)


def _parse_entry(values: dict[str, Any]) -> LedgerEntry:
    """Return the entry of a line's object; `DamagedLineError` where a key is missing, unknown or mistyped."""
    try:
        entry = ENTRY.validate_python(_rename_earlier_keys(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise DamagedLineError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for name in TEST_FIGURES:
        if not isinstance(entry.evidence.get(name, 0), int | float):
            raise DamagedLineError(f"evidence.{name} is not a number")
    needed = {"deadline", "champion_md5"} if entry.decision == "pending_approval" else set()
    if not needed <= (entry.approval or {}).keys():
        raise DamagedLineError("approval has no deadline or no champion_md5")
    return entry


def _rename_earlier_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Return the object with the keys of today, where it is one of the first version."""
    if "verdict" not in values:
        return values
    renamed = {EARLIER_NAMES.get(key, key): value for key, value in values.items()}
    renamed["decision"] = EARLIER_DECISIONS.get(renamed["decision"], renamed["decision"])
    if isinstance(evidence := renamed.get("evidence"), dict):
        renamed["evidence"] = {EARLIER_NAMES.get(key, key): value for key, value in evidence.items()}
    return renamed


def truncated_tail(file: Path = LEDGER) -> str:
    """Return the truncated last line, which `read_ledger` skips; empty where nothing is truncated."""
    return read_content(file).truncated.decode("utf-8", "backslashreplace")


def current_champion(entries: list[LedgerEntry]) -> LedgerEntry | None:
    return next((entry for entry in reversed(entries) if entry.is_promotion), None)


def find_reference(entries: list[LedgerEntry]) -> LedgerEntry | None:
    """Return the promotion of the model against which margins are measured; None without a champion.

    It is the champion's own, unless the evidence of its promotion names the reference of before.
    """
    champion = current_champion(entries)
    md5 = champion.evidence.get("reference_md5") if champion else None
    promotions = (entry for entry in reversed(entries) if entry.is_promotion and entry.model_md5 == md5)
    return next(promotions, champion)


def look_times(entries: list[LedgerEntry]) -> list[dt.datetime]:
    """Return the times at which challengers were compared with a champion (`tasks.registry.significance`).

    Entries that earlier versions of this project wrote, without a threshold per look, count. Entries that
    repeat the evidence of another do not: rollbacks, overrides, and answers to pending approvals. `RunError`
    for a time that is not ISO 8601.
    """
    return [
        parse_time(entry.time, entry)
        for entry in entries
        if entry.decision not in {"rolled_back", "overridden"}
        and not entry.is_answer
        and "p_value" in entry.evidence
    ]


def parse_time(text: str, entry: LedgerEntry) -> dt.datetime:
    """Parse a time in the entry; `RunError` where it is not ISO 8601."""
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise RunError(f"{LEDGER}, line {entry.version}: the time is not ISO 8601: {error}") from None
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


def describe_test(evidence: Mapping[str, Any]) -> str:
    """Describe the significance test of a comparison; empty where there was none.

    Entries that earlier versions of this project wrote have no look.
    """
    if "p_value" not in evidence:
        return ""
    if not {"look", "threshold", "error_spent"} <= evidence.keys():
        return f"p = {evidence['p_value']:.2g}"
    return (
        f"p = {evidence['p_value']:.2g}, required: {evidence['threshold']:.2g}, "
        f"look {evidence['look']} of a year, error spent: {evidence['error_spent']:.2%}"
    )


def describe_detectable_gain(evidence: Mapping[str, Any]) -> str:
    """Say how large a gain the comparison could find; empty where there was none, or an earlier version's."""
    if "detectable_gain" not in evidence:
        return ""
    half, most = (
        "none" if gain is None else f"{100 * gain:.1f} points" for gain in evidence["detectable_gain"]
    )
    return (
        f"the smallest gain that such a comparison finds: {half} in half of the cases, {most} in nine of ten"
    )


def to_line(text: str) -> str:
    """Turn what a person typed or pasted into one line: spaces for line ends, escapes for the unprintable."""
    joiners = "\u200c\u200d"  # These invisible characters join letters and emoji in many languages.
    return "".join(
        character
        if character.isprintable() or character in joiners
        else character.encode("unicode_escape").decode()
        for character in " ".join(text.split())
    )


def next_version(file: Path = LEDGER) -> int:
    """Return the version that the next decision gets."""
    return _count_lines(read_content(file)) + 1


def _count_lines(content: LedgerContent) -> int:
    return content.intact.count(b"\n")


def append(entry: LedgerEntry, file: Path = LEDGER) -> LedgerEntry:
    """Append a decision, and return it with its version and time. On return it is on disk.

    The lines of the file stay as they are, byte for byte; a truncated last line moves to a file of its own.
    """
    content = read_content(file)
    if content.truncated:
        backup = file.with_name(file.name + TRUNCATED_SUFFIX)
        with backup.open("ab") as backup_file:
            backup_file.write(content.truncated + b"\n")
        print(f"the last line of {file} was truncated; moved to {backup}")
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    entry = replace(entry, version=_count_lines(content) + 1, time=now)
    with atomic_write(file) as temp_path:
        temp_path.write_bytes(
            content.intact + seal_line({**entry.as_dict(), "schema": SCHEMA}, content.last_digest)
        )
    return entry
