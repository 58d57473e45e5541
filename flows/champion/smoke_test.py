"""Use a new champion before anybody relies on it, and let the one before serve again if it does not serve.

Both lines of the ledger, the promotion and the rollback, are written before the decision is published: on a
branch they are one commit.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect.runtime import flow_run

from flows.champion.model import promote
from flows.versions.dvc_repro import open_repo
from tasks.inference.onnx_classifier import load_model
from tasks.registry import ledger
from tasks.registry.ledger import CHAMPION, CHAMPION_INT8, LedgerEntry
from tasks.smoke_test.smoke_test import NUM_THREADS, ask, find_problem
from tasks.workspace.errors import RunError

ANSWERS = "answers"
"""key of the evidence: by the name of each file of the champion, what it answered when it was compared"""


def record_answers(files: Mapping[Path, Path]) -> dict[str, Any]:
    """Return the evidence of what the files answer, by the champion's files that they would become."""
    answers = {file.name: ask(load_model(source, NUM_THREADS)) for file, source in files.items()}
    return {ANSWERS: answers}


def confirm_promotion(entry: LedgerEntry) -> LedgerEntry:
    """Return the entry, or that of the rollback where it promoted a model that does not serve.

    `RunError` where there is no champion to return to.
    """
    if not entry.is_promotion:
        return entry
    problem = _find_problem(entry)
    if not problem:
        return entry
    entries = [each for each in ledger.read_ledger() if each.version < entry.version]
    earlier = ledger.current_champion(entries)
    failure = f"version {entry.version} ({entry.model_md5[:8]}) was promoted, but {problem}"
    if earlier is None:
        raise RunError(f"{failure}; there is no champion before it that could serve")
    rollback = replace(
        earlier,
        decision="rolled_back",
        reason=f"{failure}; {earlier.label} serves again",
        flow_run_name=str(flow_run.name),
        flow_run_id=str(flow_run.id),
        approval=None,
    )
    try:
        with open_repo() as repo:
            return promote(repo, rollback)
    except RunError as error:
        raise RunError(f"{failure}; {earlier.label} cannot serve again: {error}") from error


def _find_problem(entry: LedgerEntry) -> str:
    """Use the champion's files; an entry of an earlier version names no answers."""
    answers = entry.evidence.get(ANSWERS, {})
    files = [CHAMPION, CHAMPION_INT8] if entry.int8_md5 else [CHAMPION]
    return find_problem({file: answers.get(file.name, ()) for file in files})
