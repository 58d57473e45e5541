"""Which model serves: `registry/ledger.jsonl`, a line a decision, and `registry/champion.onnx`, the model.

The ledger is the truth: the last line that promoted or rolled back names the champion by its hash. It is
replaced as a whole, in one step, so a decision is taken or it is not.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import atomic_write

LEDGER = Path("registry/ledger.jsonl")
CHAMPION = Path("registry/champion.onnx")
DAMAGED_SUFFIX = ".damaged"

DecisionKind = Literal["promoted", "rejected", "rolled_back"]


@dataclass(frozen=True)
class LedgerEntry:
    """A line of the ledger."""

    decision: DecisionKind
    reason: str
    model_md5: str
    """of the model that was judged: the challenger, or the one that was put back"""
    model_bytes: int
    flow_run_name: str
    """name of the flow run"""
    flow_run_id: str
    provenance: Mapping[str, str]
    """of what the model was made from: `data`, `params`, `code`, `weights`"""
    evidence: Mapping[str, Any]
    version: int = 0
    """counted from 1; given by `append`, as is the time"""
    time: str = ""
    """ISO 8601, UTC"""

    @property
    def is_promotion(self) -> bool:
        """Whether the model became the champion by it."""
        return self.decision != "rejected"

    @property
    def label(self) -> str:
        return f"champion {self.version} ({self.model_md5[:8]}, {self.decision} {self.time[:10]})"


def read_ledger(file: Path = LEDGER) -> list[LedgerEntry]:
    """The decisions, oldest first. A last line that was cut short, as by a full disk, is left aside."""
    try:
        content = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error
    entries: list[LedgerEntry] = []
    lines = content.splitlines()
    for i, line in enumerate(lines):
        try:
            entries.append(LedgerEntry(**json.loads(line)))
        except (ValueError, TypeError) as error:
            if i == len(lines) - 1:
                break
            raise RunError(
                f"{file}, line {i + 1} is damaged ({error}); bring it back: git checkout {file}"
            ) from None
    return entries


def truncated_tail(file: Path = LEDGER) -> str:
    """What `read_ledger` leaves aside."""
    whole = len(read_ledger(file))
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return "\n".join(lines[whole:])


def current_champion(entries: list[LedgerEntry]) -> LedgerEntry | None:
    return next((entry for entry in reversed(entries) if entry.is_promotion), None)


def append(entry: LedgerEntry, file: Path = LEDGER) -> LedgerEntry:
    """Add a decision; gives it with number and time. It is on disk, whole, on return."""
    entries = read_ledger(file)
    damaged = truncated_tail(file)
    if damaged:
        aside = file.with_name(file.name + DAMAGED_SUFFIX)
        with aside.open("a", encoding="utf-8") as kept:
            kept.write(damaged + "\n")
        print(f"the last line of {file} was cut short; it was moved to {aside}")
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    entry = replace(entry, version=len(entries) + 1, time=now)
    with atomic_write(file) as partial:
        lines = (json.dumps(vars(one), ensure_ascii=False) + "\n" for one in [*entries, entry])
        partial.write_text("".join(lines), encoding="utf-8")
    return entry


def resolve_serving_model(fallback: Path) -> tuple[Path, str]:
    """The champion where there is one, else `fallback`; and what it is, in a few words.

    `RunError` where the ledger names a champion whose model is not in the workspace, or is another file.
    """
    crowned = [entry for entry in read_ledger() if entry.is_promotion]
    if not crowned:
        return fallback, "the workspace's model; none was promoted"
    if not CHAMPION.is_file():
        raise RunError(f"{CHAMPION}, {crowned[-1].label}, is not there; bring it back: cifarflow rollback 0")
    md5 = file_md5(CHAMPION)
    for entry in reversed(crowned):  # an earlier one for the moment in which a promotion is under way
        if entry.model_md5 == md5:
            return CHAMPION, entry.label
    raise RunError(f"{CHAMPION} is no model that was ever promoted; bring it back: cifarflow rollback 0")


def file_md5(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def resolve_rollback_target(entries: list[LedgerEntry], number: int | None) -> LedgerEntry:
    """The entry whose model a rollback puts back: number `number`, or the champion before this one."""
    crowned = [entry for entry in entries if entry.is_promotion]
    if not crowned:
        raise InputError("no model was ever promoted: there is none to go back to")
    if number is None:
        others = [entry for entry in crowned if entry.model_md5 != crowned[-1].model_md5]
        if not others:
            raise InputError(f"{crowned[-1].label} is the only one so far: there is none to go back to")
        return others[-1]
    if number == 0:
        return crowned[-1]
    known = {entry.version: entry for entry in crowned}
    if number not in known:
        numbers = ", ".join(map(str, known))
        raise InputError(f"{number} is no champion; the ledger has these: {numbers}")
    return known[number]
