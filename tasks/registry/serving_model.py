"""Find the model that serves predictions, and check that the file on disk is that model."""

import re
import shlex
from pathlib import Path

from tasks.registry.ledger import (
    CHAMPION,
    CHAMPION_DVC_FILE,
    LEDGER,
    TRUNCATED_SUFFIX,
    LedgerContent,
    read_content,
)
from tasks.registry.ledger_lines import format_restore_command
from tasks.validation import load_yaml
from tasks.workspace.errors import InputError, RunError
from tasks.workspace.files import hash_file

RESTORE_COMMAND = "cifarflow rollback --restore"
DVC_LOCK = Path("dvc.lock")
NO_PROMOTION = re.compile(rb'\{"decision": "(rejected|pending_approval)"')


def resolve_serving_model(fallback: Path) -> tuple[Path, str]:
    """Return the champion's file where there is one, else `fallback`, and a few words that say which.

    `RunError` where the ledger names a champion whose file is missing or has other content, where lines are
    missing in the ledger, or where `fallback` is not the file that DVC has recorded.
    """
    content = read_content()
    promotions = [entry for entry in content.entries if entry.is_promotion]
    doubt = find_doubt(content)
    md5 = hash_file(CHAMPION, "md5") if CHAMPION.is_file() else ""
    # While a promotion is under way, the file is for a moment that of an earlier champion.
    for entry in reversed(promotions):
        if entry.model_md5 == md5:
            return CHAMPION, entry.label + (f"; {doubt}" if doubt else "")
    if md5 and f'"model_md5": "{md5}"'.encode() in content.truncated:
        return CHAMPION, f"as the last line of {LEDGER} says, which is cut short"
    if doubt:
        raise RunError(f"{doubt}; {_doubt_remedy(content)}")
    if not promotions:
        check_recorded_by_dvc(fallback)
        return fallback, "the workspace's model; none has been promoted"
    label = promotions[-1].label
    if not md5:
        raise RunError(f"{CHAMPION}, {label}, not found; restore it with: {RESTORE_COMMAND}")
    raise RunError(f"{CHAMPION} does not match any promoted model; restore it with: {RESTORE_COMMAND}")


def require_known_champion() -> None:
    """Raise `RunError` where lines are missing in the ledger, so that it may not name the champion."""
    content = read_content()
    doubt = find_doubt(content)
    if doubt:
        raise RunError(f"{doubt}; {_doubt_remedy(content)}")


def find_doubt(content: LedgerContent) -> str:
    """Say why a promotion may be missing in the ledger; empty where the ledger is complete."""
    if content.truncated and not NO_PROMOTION.match(content.truncated):
        return f"the last line of {LEDGER} is cut short and may have promoted a model"
    recorded = read_recorded_champion()
    if recorded and recorded not in {entry.model_md5 for entry in content.entries if entry.is_promotion}:
        return f"lines are missing in {LEDGER}: none promotes the model that {CHAMPION_DVC_FILE} names"
    return ""


def read_recorded_champion() -> str:
    """Return the champion's MD5 in its .dvc file, which is written after the ledger; empty without one."""
    if not CHAMPION_DVC_FILE.is_file():
        return ""
    try:
        return str(load_yaml(CHAMPION_DVC_FILE)["outs"][0]["md5"])
    except (InputError, KeyError, IndexError, TypeError):
        return ""  # `sync_champion` writes the file anew.


def check_recorded_by_dvc(file: Path) -> None:
    """Raise `RunError` where dvc.lock has another MD5 for the file."""
    if not (file.is_file() and DVC_LOCK.is_file()):
        return
    try:
        stages = load_yaml(DVC_LOCK)["stages"].values()
        recorded = {out["path"]: out.get("md5") for stage in stages for out in stage.get("outs", [])}
    except (InputError, KeyError, TypeError, AttributeError):
        return  # The next run says what is wrong with the file.
    md5 = recorded.get(file.as_posix())
    if md5 and hash_file(file, "md5") != md5:
        raise RunError(
            f"{file} is not the file that {DVC_LOCK} records: it is damaged, or was made by hand; "
            "make it again with: cifarflow run"
        )


def _doubt_remedy(content: LedgerContent) -> str:
    command = format_restore_command(shlex.quote(str(LEDGER)), shlex.quote(f"{LEDGER}.damaged"))
    kept = f" (what is left of the line moves to {LEDGER}{TRUNCATED_SUFFIX})" if content.truncated else ""
    return (
        f"choose the model that serves with: cifarflow rollback VERSION{kept}; "
        f"or, where Git has the whole ledger, restore it with: {command}"
    )
