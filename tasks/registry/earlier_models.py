"""Find earlier models: what a rollback restores, what a person may promote, what was rolled back."""

from dataclasses import replace
from pathlib import Path

from tasks.registry.ledger import LEDGER, LedgerEntry, current_champion
from tasks.workspace.errors import InputError
from tasks.workspace.files import hash_file

BY_PERSON = {"rolled_back", "overridden"}


def require_champion(entries: list[LedgerEntry]) -> LedgerEntry:
    """Return the current champion; `InputError` where no model has been promoted."""
    champion = current_champion(entries)
    if champion is None:
        raise InputError("no model has been promoted yet; nothing to roll back to")
    return champion


def resolve_rollback_target(entries: list[LedgerEntry], version: int | None = None) -> LedgerEntry:
    """Return the entry whose model a rollback restores.

    That is the one of `version`, or else the champion that served before the current champion's model was
    first promoted. So each rollback goes further back, and none returns to a model that was rolled back.
    """
    promotions = [entry for entry in entries if entry.is_promotion]
    champion = require_champion(entries)
    by_version = {entry.version: entry for entry in promotions}
    if version is None:
        first = next(i for i, entry in enumerate(promotions) if entry.model_md5 == champion.model_md5)
        earlier = [entry for entry in promotions[:first] if find_rollback(entries, entry) is None]
        if earlier:
            return earlier[-1]
        others = [str(entry.version) for entry in promotions if entry.model_md5 != champion.model_md5]
        problem = "has no champion before it that was not rolled back" if first else "is the first champion"
        hint = f"; to return to another one, give its version: {', '.join(others)}" if others else ""
        raise InputError(f"{champion.label} {problem}; nothing to roll back to{hint}")
    if version not in by_version:
        raise InputError(
            f"{version} is not a promoted version; choose one of: {', '.join(map(str, by_version))}"
        )
    return by_version[version]


def resolve_candidate(entries: list[LedgerEntry], model: str) -> LedgerEntry:
    """Return the entry of a model that a person may promote, by the model's version or file.

    The model was rejected or rolled back, or waits for a person's approval. `InputError` for any other.
    """
    if model.isdecimal():
        found = [entry for entry in entries if entry.version == int(model)]
        if not found:
            raise InputError(f"{LEDGER} has no version {model}; {_describe_candidates(entries)}")
    elif Path(model).is_file():
        md5 = hash_file(Path(model), "md5")
        found = [entry for entry in entries if entry.model_md5 == md5]
    else:
        raise InputError(f"{model} is neither a version of {LEDGER} nor a file")
    if not found:
        raise InputError(f"{model} has not been compared with the champion; first run: cifarflow retrain")
    candidate = found[-1]
    promoted = [entry for entry in entries if entry.is_promotion and entry.model_md5 == candidate.model_md5]
    if promoted and find_rollback(entries, candidate) is None:
        version = promoted[-1].version
        raise InputError(
            f"{model} was promoted as version {version}; cifarflow rollback {version} promotes it again"
        )
    return candidate


def _describe_candidates(entries: list[LedgerEntry]) -> str:
    """Say which versions `resolve_candidate` would return."""
    promoted = {entry.model_md5 for entry in entries if entry.is_promotion}
    candidates = [
        str(entry.version)
        for entry in entries
        if entry.model_md5 not in promoted or find_rollback(entries, entry) is not None
    ]
    if candidates:
        return f"versions that can be promoted: {', '.join(candidates)}"
    return "no model in it was rejected or rolled back, or awaits approval"


def find_rollback(entries: list[LedgerEntry], model: LedgerEntry) -> LedgerEntry | None:
    """Return the rollback that withdrew the entry's model, if it is still in force.

    A rollback withdraws every promotion after that of the model to which it returns, until a person makes
    such a model the champion again. Two entries have the same model where the hashes of the files or of the
    weights are equal: another export of a withdrawn model is no new model.
    """
    rollbacks: dict[str, LedgerEntry] = {}  # Its keys are hashes of files and of weights.
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
    """Return the entry, or a rejection where it would promote a model that was rolled back.

    Only a person may promote such a model again.
    """
    rollback = find_rollback(entries, entry)
    if rollback is None or not entry.is_promotion:
        return entry
    reason = (
        f"{entry.reason}; but version {rollback.version} rolled this model back on {rollback.day}, "
        "and only cifarflow promote makes it the champion again"
    )
    return replace(entry, decision="rejected", reason=reason)


def _identify(entry: LedgerEntry) -> set[str]:
    """Return the hashes by which a model is known again: of its file and, if recorded, of its weights."""
    return {entry.model_md5, entry.provenance.get("weights", "")} - {""}
