"""Models of earlier decisions: what a rollback restores, what a person may promote, what was rolled back."""

from dataclasses import replace
from pathlib import Path

from tasks.registry.ledger import LEDGER, LedgerEntry, current_champion
from tasks.workspace.errors import InputError
from tasks.workspace.files import hash_file

BY_PERSON = {"rolled_back", "overridden"}


def require_champion(entries: list[LedgerEntry]) -> LedgerEntry:
    """The current champion; `InputError` where no model has been promoted."""
    champion = current_champion(entries)
    if champion is None:
        raise InputError("no model has been promoted yet; nothing to roll back to")
    return champion


def resolve_rollback_target(entries: list[LedgerEntry], version: int | None = None) -> LedgerEntry:
    """The entry whose model a rollback restores: that of `version`, or the last champion before.

    Without a version, what was rolled back itself is left out, so that each rollback goes further back.
    """
    promotions = [entry for entry in entries if entry.is_promotion]
    champion = require_champion(entries)
    by_version = {entry.version: entry for entry in promotions}
    if version is None:
        others = [entry for entry in promotions if entry.model_md5 != champion.model_md5]
        earlier = [entry for entry in others if find_rollback(entries, entry) is None]
        if earlier:
            return earlier[-1]
        problem = "all before it were rolled back" if others else "it is the only one so far"
        hint = f"; to return to one, give its version: {', '.join(map(str, by_version))}" if others else ""
        raise InputError(f"{champion.label}: {problem}; nothing to roll back to{hint}")
    if version not in by_version:
        raise InputError(
            f"{version} is not a promoted version; choose one of: {', '.join(map(str, by_version))}"
        )
    return by_version[version]


def resolve_candidate(entries: list[LedgerEntry], model: str) -> LedgerEntry:
    """The entry of a model that a person may promote, found by its version or by its file.

    It was rejected or rolled back, or a person was asked about it. `InputError` for any other.
    """
    if model.isdecimal():
        found = [entry for entry in entries if entry.version == int(model)]
        hint = f"the ledger has the versions 1 to {entries[-1].version}; " if entries else ""
    elif Path(model).is_file():
        md5, hint = hash_file(Path(model), "md5"), ""
        found = [entry for entry in entries if entry.model_md5 == md5]
    else:
        raise InputError(f"{model} is neither a version of {LEDGER} nor a file")
    if not found:
        raise InputError(
            f"{model} has not been compared with the champion; {hint}first run: cifarflow retrain"
        )
    candidate = found[-1]
    promoted = [entry for entry in entries if entry.is_promotion and entry.model_md5 == candidate.model_md5]
    if promoted and find_rollback(entries, candidate) is None:
        version = promoted[-1].version
        raise InputError(
            f"{model} was promoted as version {version}; cifarflow rollback {version} does it again"
        )
    return candidate


def find_rollback(entries: list[LedgerEntry], model: LedgerEntry) -> LedgerEntry | None:
    """The rollback that took the entry's model back; None where a person has made it the champion since.

    A rollback takes back every promotion after that of the model to which it returns. A model is the same
    where its file is, or where the weights are: another export of what was rolled back is no new model.
    """
    rollbacks: dict[str, LedgerEntry] = {}  # by what identifies a model
    promotions: list[LedgerEntry] = []
    for entry in entries:
        if not entry.is_promotion:
            continue
        if entry.decision == "rolled_back":
            same = [i for i, earlier in enumerate(promotions) if earlier.model_md5 == entry.model_md5]
            for taken_back in promotions[same[-1] + 1 if same else -1 :]:
                rollbacks |= dict.fromkeys(_identify(taken_back), entry)
        if entry.decision in BY_PERSON:
            for identity in _identify(entry):
                rollbacks.pop(identity, None)
        promotions.append(entry)
    found = [rollbacks[identity] for identity in _identify(model) if identity in rollbacks]
    return found[-1] if found else None


def reject_if_rolled_back(entries: list[LedgerEntry], entry: LedgerEntry) -> LedgerEntry:
    """The entry, or a rejection where it would promote what was rolled back: only a person may do that."""
    rollback = find_rollback(entries, entry)
    if rollback is None or not entry.is_promotion:
        return entry
    reason = (
        f"{entry.reason}; but version {rollback.version} rolled this model back on {rollback.day}, "
        "and only cifarflow promote makes it the champion again"
    )
    return replace(entry, decision="rejected", reason=reason)


def _identify(entry: LedgerEntry) -> set[str]:
    return {entry.model_md5, entry.provenance.get("weights", "")} - {""}
