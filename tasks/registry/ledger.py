"""Which model serves: `registry/ledger.jsonl`, one line per decision, and `registry/champion.onnx`.

The ledger is authoritative: the last line that promoted or rolled back names the champion by its hash. Its
file is replaced atomically, so decisions are atomic, too.
"""

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import atomic_write, hash_file

LEDGER = Path("registry/ledger.jsonl")
CHAMPION = Path("registry/champion.onnx")
CONFLICT_MARKERS = ("<<<<<<<", "=======", ">>>>>>>", "|||||||")
TRUNCATED_SUFFIX = ".truncated"
RESTORE_COMMAND = "cifarflow rollback --restore"

DecisionKind = Literal["promoted", "rejected", "rolled_back", "overridden", "pending_approval"]
"""overridden: a person promoted a model that had been rejected, or about which a person was asked

pending_approval: the comparison promotes, and a person is asked (`tasks.registry.questions`)
"""
PROMOTIONS = {"promoted", "rolled_back", "overridden"}


@dataclass(frozen=True)
class LedgerEntry:
    """A line of the ledger."""

    decision: DecisionKind
    reason: str
    model_md5: str
    """of the challenger, or of the model that a rollback or an override made the champion"""
    model_bytes: int
    flow_run_name: str
    flow_run_id: str
    provenance: Mapping[str, str]
    """hashes of what the model was made from: `data`, `params`, `code`, `weights`"""
    evidence: Mapping[str, Any]
    version: int = 0
    """from 1 on; set by `append`, as is the time"""
    time: str = ""
    """ISO 8601, UTC"""
    approval: Mapping[str, Any] | None = None
    """of a pending approval `deadline` and `champion_md5`, of its answer `approved`, `person` and `reason`"""

    @property
    def is_promotion(self) -> bool:
        """Whether it made the model the champion."""
        return self.decision in PROMOTIONS

    @property
    def is_answer(self) -> bool:
        """Whether it answers a pending approval, whose evidence it repeats."""
        return self.approval is not None and "approved" in self.approval

    def as_dict(self) -> dict[str, Any]:
        """Its line; `approval` only where a person was asked."""
        return {key: value for key, value in vars(self).items() if key != "approval" or value is not None}

    @property
    def label(self) -> str:
        return f"champion {self.version} ({self.model_md5[:8]}, {self.decision} {self.time[:10]})"


def read_ledger(file: Path = LEDGER) -> list[LedgerEntry]:
    """The decisions, oldest first; an entry's version is the number of its line.

    So versions stay unique where Git merged two branches that both appended. A truncated last line, as
    after a full disk, is skipped. `RunError` for a file with conflict markers or a corrupt line, with a fix
    that works in the middle of a merge as well.
    """
    try:
        content = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error
    entries: list[LedgerEntry] = []
    lines = content.splitlines()
    if any(line.startswith(CONFLICT_MARKERS) for line in lines):
        pattern = "/^\\(<<<<<<<\\|=======\\|>>>>>>>\\||||||||\\)/d"
        raise RunError(
            f"{file} has Git's conflict markers; to keep the decisions of both sides: "
            f"sed -i '{pattern}' {file} && git add {file}"
        )
    for i, line in enumerate(lines):
        try:
            entries.append(replace(LedgerEntry(**json.loads(line)), version=i + 1))
        except (ValueError, TypeError) as error:
            if i == len(lines) - 1:
                break
            raise RunError(
                f"{file}, line {i + 1} is corrupt ({error}); restore it with: git checkout HEAD -- {file}"
            ) from None
    return entries


def truncated_tail(file: Path = LEDGER) -> str:
    """The text that `read_ledger` skips; empty where nothing is truncated."""
    num_entries = len(read_ledger(file))
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return "\n".join(lines[num_entries:])


def current_champion(entries: list[LedgerEntry]) -> LedgerEntry | None:
    return next((entry for entry in reversed(entries) if entry.is_promotion), None)


def look_times(entries: list[LedgerEntry]) -> list[dt.datetime]:
    """When challengers were compared with a champion, for `tasks.registry.sequential`.

    Entries of earlier versions, which had no threshold per look, count; what repeats evidence, a rollback, an
    override or the answer to a pending approval, does not. `RunError` for a time that is not ISO 8601.
    """
    return [
        parse_time(entry.time, entry)
        for entry in entries
        if entry.decision not in {"rolled_back", "overridden"}
        and not entry.is_answer
        and "p_value" in entry.evidence
    ]


def parse_time(text: str, entry: LedgerEntry) -> dt.datetime:
    """A time in the entry; `RunError` where it is not ISO 8601."""
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise RunError(f"{LEDGER}, line {entry.version}: the time is not ISO 8601: {error}") from None
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


def describe_test(evidence: Mapping[str, Any]) -> str:
    """The significance test of a comparison in words; empty where there was none.

    Entries of earlier versions have no look.
    """
    if "p_value" not in evidence:
        return ""
    if "look" not in evidence:
        return f"p = {evidence['p_value']:.2g}"
    return (
        f"p = {evidence['p_value']:.2g}, required: {evidence['threshold']:.2g}, "
        f"look {evidence['look']} of a year, error spent: {evidence['error_spent']:.2%}"
    )


def append(entry: LedgerEntry, file: Path = LEDGER) -> LedgerEntry:
    """Add a decision; returns it with version and time. On return it is on disk."""
    entries = read_ledger(file)
    tail = truncated_tail(file)
    if tail:
        backup = file.with_name(file.name + TRUNCATED_SUFFIX)
        with backup.open("a", encoding="utf-8") as backup_file:
            backup_file.write(tail + "\n")
        print(f"the last line of {file} was truncated; moved to {backup}")
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    entry = replace(entry, version=len(entries) + 1, time=now)
    with atomic_write(file) as temp_path:
        lines = (json.dumps(row.as_dict(), ensure_ascii=False) + "\n" for row in [*entries, entry])
        temp_path.write_text("".join(lines), encoding="utf-8")
    return entry


def resolve_serving_model(fallback: Path) -> tuple[Path, str]:
    """The champion where there is one, else `fallback`; and a few words that say which.

    `RunError` where the ledger names a champion whose model is missing, or is another file.
    """
    promotions = [entry for entry in read_ledger() if entry.is_promotion]
    if not promotions:
        return fallback, "the workspace's model; none has been promoted"
    if not CHAMPION.is_file():
        raise RunError(f"{CHAMPION}, {promotions[-1].label}, not found; restore it with: {RESTORE_COMMAND}")
    md5 = hash_file(CHAMPION, "md5")
    for entry in reversed(promotions):  # an earlier one, for the moment in which a promotion is under way
        if entry.model_md5 == md5:
            return CHAMPION, entry.label
    raise RunError(f"{CHAMPION} does not match any promoted model; restore it with: {RESTORE_COMMAND}")


def resolve_rollback_target(entries: list[LedgerEntry], version: int | None = None) -> LedgerEntry:
    """The entry whose model a rollback restores: that of `version`, or the previous champion."""
    promotions = [entry for entry in entries if entry.is_promotion]
    champion = require_champion(entries)
    if version is None:
        earlier = [entry for entry in promotions if entry.model_md5 != champion.model_md5]
        if not earlier:
            raise InputError(f"{champion.label} is the only one so far; nothing to roll back to")
        return earlier[-1]
    by_version = {entry.version: entry for entry in promotions}
    if version not in by_version:
        raise InputError(
            f"{version} is not a promoted version; choose one of: {', '.join(map(str, by_version))}"
        )
    return by_version[version]


def resolve_rejected(entries: list[LedgerEntry], model: str) -> LedgerEntry:
    """The entry that rejected a model, by its version or by its file; `InputError` where there is none.

    Or the one that asks a person about it.
    """
    if model.isdecimal():
        found = [entry for entry in entries if entry.version == int(model)]
    elif Path(model).is_file():
        md5 = hash_file(Path(model), "md5")
        found = [entry for entry in entries if entry.model_md5 == md5]
    else:
        raise InputError(f"{model} is neither a version of {LEDGER} nor a file")
    if not found:
        raise InputError(f"{model} has not been compared with the champion; first run: cifarflow retrain")
    promoted = [entry for entry in entries if entry.is_promotion and entry.model_md5 == found[-1].model_md5]
    if promoted:
        version = promoted[-1].version
        raise InputError(
            f"{model} was promoted as version {version}; cifarflow rollback {version} does it again"
        )
    return found[-1]


def require_champion(entries: list[LedgerEntry]) -> LedgerEntry:
    """The current champion; `InputError` where no model has been promoted."""
    champion = current_champion(entries)
    if champion is None:
        raise InputError("no model has been promoted yet; nothing to roll back to")
    return champion
