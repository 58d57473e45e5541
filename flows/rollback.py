"""The flows `rollback` and `promote`: by these, a person decides which model is the champion."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.champion.model import promote as promote_model
from flows.champion.model import restore_champion
from flows.champion.publish import show_decision
from flows.champion.results_branch import open_branch, publish_decision
from flows.champion.smoke_test import confirm_promotion
from flows.parameters import PromoteParameters, RollbackParameters
from flows.run.flow_run import exclusive_workspace, workspace_flow
from flows.versions.dvc_repro import open_repo
from tasks.params import PARAMS, read_params
from tasks.registry import ledger
from tasks.registry.earlier_models import find_rollback, resolve_candidate, resolve_rollback_target
from tasks.registry.ledger import CHAMPION, CHAMPION_DVC_FILE, LEDGER, DecisionKind, LedgerEntry, to_line
from tasks.registry.serving_model import require_known_champion
from tasks.workspace.errors import RunError

ROLLBACK_REASON = "manual rollback to "


@workspace_flow("rollback")
def rollback(parameters: RollbackParameters) -> State[Any]:
    """Promote an earlier champion again; its model comes from DVC's cache or remote."""
    version, branch = parameters.version, parameters.branch
    with exclusive_workspace(parameters):
        parameters.check()
        if parameters.restore:
            with open_repo() as repo:
                champion = restore_champion(repo)
            print(
                f"{champion.label} serves predictions; the ledger is as before, so nothing is to be committed"
            )
            return Completed(message=f"{CHAMPION} is {champion.label}")
        if branch:
            target = open_branch(branch)
            expected = ledger.current_champion(ledger.read_ledger())
            entry = publish_decision(target, [], lambda: _roll_back(version, expected))
        else:
            entry = _roll_back(version)
        show_decision(entry, read_params(PARAMS))
        _print_what_serves(entry, branch)
    return Completed(message=f"{CHAMPION} is {entry.reason.removeprefix(ROLLBACK_REASON)} again")


def _roll_back(version: int | None, expected: LedgerEntry | None = None) -> LedgerEntry:
    """Append the rollback to the ledger.

    `RunError` where no version is given and the champion is not the expected one.
    """
    if version is None:
        require_known_champion()
    entries = ledger.read_ledger()
    champion = ledger.current_champion(entries)
    if version is None and expected and champion and champion.version != expected.version:
        raise RunError(
            f"nothing was rolled back: {champion.label} has come meanwhile; give the version to roll back to"
        )
    earlier = resolve_rollback_target(entries, version)
    return _promote_again(earlier, "rolled_back", f"{ROLLBACK_REASON}{earlier.label}")


@workspace_flow("promote")
def promote(parameters: PromoteParameters) -> State[Any]:
    """Promote a model that was rejected or rolled back, or awaits approval.

    The ledger records that a person has decided so, and why.
    """
    model, reason = parameters.model, parameters.reason

    def take_decision() -> LedgerEntry:
        return confirm_promotion(_override(model, reason))

    with exclusive_workspace(parameters):
        parameters.check()
        if parameters.branch:
            entry = publish_decision(open_branch(parameters.branch), [], take_decision)
        else:
            entry = take_decision()
        show_decision(entry, read_params(PARAMS))
        if entry.decision == "rolled_back":
            raise RunError(entry.reason)
        _print_what_serves(entry, parameters.branch)
    return Completed(message=f"{CHAMPION} is {entry.label}")


def _override(model: str, reason: str) -> LedgerEntry:
    entries = ledger.read_ledger()
    earlier = resolve_candidate(entries, model)
    # The reason before stands in its own entry, which the version names.
    decisions = {
        "rejected": "was rejected",
        "pending_approval": "awaited approval",
        "promoted": "was promoted",
        "rolled_back": "was promoted again",
        "overridden": "was promoted by a person",
    }
    before = f"version {earlier.version} {decisions[earlier.decision]}"
    taken_back = find_rollback(entries, earlier)
    if taken_back is not None:
        before += f", and version {taken_back.version} rolled it back"
    return _promote_again(earlier, "overridden", f"{to_line(reason)} ({before})")


def _promote_again(earlier: LedgerEntry, decision: DecisionKind, reason: str) -> LedgerEntry:
    """Make the model of an earlier entry the champion, by a new entry of this flow run."""
    entry = replace(
        earlier,
        decision=decision,
        reason=reason,
        flow_run_name=str(flow_run.name),
        flow_run_id=str(flow_run.id),
        approval=None,
    )
    with open_repo() as repo:
        return promote_model(repo, entry)


def _print_what_serves(entry: LedgerEntry, branch: str | None) -> None:
    """Say in one sentence which model serves predictions now, and what is left to do."""
    if branch:
        print(f"{entry.label} serves predictions now; the branch {branch} has the decision")
        return
    pages = Path(read_params(PARAMS).paths.decisions).parent
    files = f"{LEDGER} {CHAMPION_DVC_FILE} {pages}"
    print(f"{entry.label} serves predictions now; to share the decision, commit it: git add {files}")
