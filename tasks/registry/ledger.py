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
from tasks.workspace.files import written_whole

LEDGER = Path("registry/ledger.jsonl")
CHAMPION = Path("registry/champion.onnx")
DAMAGED = ".damaged"

Verdict = Literal["promoted", "refused", "rolled-back"]


@dataclass(frozen=True)
class Entry:
    """A line of the ledger."""

    verdict: Verdict
    why: str
    model_md5: str
    """of the model that was judged: the challenger, or the one that was put back"""
    model_bytes: int
    run: str
    """name of the flow run"""
    run_id: str
    hashes: Mapping[str, str]
    """of what the model was made from: `data`, `params`, `code`, `weights`"""
    evidence: Mapping[str, Any]
    number: int = 0
    """counted from 1; given by `append`, as is the time"""
    time: str = ""
    """ISO 8601, UTC"""

    @property
    def crowned(self) -> bool:
        """Whether the model became the champion by it."""
        return self.verdict != "refused"

    @property
    def title(self) -> str:
        return f"champion {self.number} ({self.model_md5[:8]}, {self.verdict} {self.time[:10]})"


def read_ledger(file: Path = LEDGER) -> list[Entry]:
    """The decisions, oldest first. A last line that was cut short, as by a full disk, is left aside."""
    try:
        content = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error
    entries: list[Entry] = []
    lines = content.splitlines()
    for i, line in enumerate(lines):
        try:
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError) as error:
            if i == len(lines) - 1:
                break
            raise RunError(
                f"{file}, line {i + 1} is damaged ({error}); bring it back: git checkout {file}"
            ) from None
    return entries


def damaged_end(file: Path = LEDGER) -> str:
    """What `read_ledger` leaves aside."""
    whole = len(read_ledger(file))
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return "\n".join(lines[whole:])


def champion(entries: list[Entry]) -> Entry | None:
    return next((entry for entry in reversed(entries) if entry.crowned), None)


def append(entry: Entry, file: Path = LEDGER) -> Entry:
    """Add a decision; gives it with number and time. It is on disk, whole, on return."""
    entries = read_ledger(file)
    damaged = damaged_end(file)
    if damaged:
        aside = file.with_name(file.name + DAMAGED)
        with aside.open("a", encoding="utf-8") as kept:
            kept.write(damaged + "\n")
        print(f"the last line of {file} was cut short; it was moved to {aside}")
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    entry = replace(entry, number=len(entries) + 1, time=now)
    with written_whole(file) as partial:
        lines = (json.dumps(vars(one), ensure_ascii=False) + "\n" for one in [*entries, entry])
        partial.write_text("".join(lines), encoding="utf-8")
    return entry


def model_to_serve(fallback: Path) -> tuple[Path, str]:
    """The champion where there is one, else `fallback`; and what it is, in a few words.

    `RunError` where the ledger names a champion whose model is not in the workspace, or is another file.
    """
    crowned = [entry for entry in read_ledger() if entry.crowned]
    if not crowned:
        return fallback, "the workspace's model; none was promoted"
    if not CHAMPION.is_file():
        raise RunError(f"{CHAMPION}, {crowned[-1].title}, is not there; bring it back: cifarflow rollback 0")
    md5 = file_md5(CHAMPION)
    for entry in reversed(crowned):  # an earlier one for the moment in which a promotion is under way
        if entry.model_md5 == md5:
            return CHAMPION, entry.title
    raise RunError(f"{CHAMPION} is no model that was ever promoted; bring it back: cifarflow rollback 0")


def file_md5(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def earlier(entries: list[Entry], number: int | None) -> Entry:
    """The entry whose model a rollback puts back: number `number`, or the champion before this one."""
    crowned = [entry for entry in entries if entry.crowned]
    if not crowned:
        raise InputError("no model was ever promoted: there is none to go back to")
    if number is None:
        others = [entry for entry in crowned if entry.model_md5 != crowned[-1].model_md5]
        if not others:
            raise InputError(f"{crowned[-1].title} is the only one so far: there is none to go back to")
        return others[-1]
    if number == 0:
        return crowned[-1]
    known = {entry.number: entry for entry in crowned}
    if number not in known:
        numbers = ", ".join(map(str, known))
        raise InputError(f"{number} is no champion; the ledger has these: {numbers}")
    return known[number]
