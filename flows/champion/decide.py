"""Compare a challenger with the champion and write the decision into the ledger."""

import datetime as dt
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from prefect.runtime import flow_run

from flows.champion.model import fetch_model, promote, provenance_hashes, sync_champion
from flows.champion.results_branch import PublishBranch
from flows.versions.dvc_remote import pull_outputs
from flows.versions.dvc_repro import open_repo
from tasks.drift.check import read_intakes
from tasks.inference.onnx_classifier import load_model
from tasks.params import Params
from tasks.registry import ledger
from tasks.registry import questions as approval
from tasks.registry.compare import NUM_THREADS, Decision, compare
from tasks.registry.earlier_models import reject_if_rolled_back
from tasks.registry.ledger import CHAMPION, LedgerEntry
from tasks.workspace.files import hash_file, read_json


@dataclass(frozen=True)
class DecisionSettings:
    """How a retraining takes its decision and publishes it."""

    push: bool
    """whether data, models and the experiment are pushed to the remotes"""
    commit: bool
    """whether the decision and its results are committed to a branch of their own"""
    branch: PublishBranch | None
    """the branch of the Git remote whose ledger counts, if that is not the workspace's own"""
    approve_timeout: dt.timedelta | None
    """how long a person has time to answer before a model is promoted; None if nobody is asked"""


def decide(params: Params, approve_timeout: dt.timedelta | None = None) -> LedgerEntry:
    """Promote or reject the pipeline's model; with a timeout, a person is asked before it is promoted.

    What was rolled back before is rejected, whatever the comparison says.
    """
    started = time.perf_counter()
    challenger = Path(params.paths.onnx_model)
    parity = read_json(Path(params.paths.benchmarks))["parity"]
    decision = _compare(challenger, parity, params)
    entries = ledger.read_ledger()
    intakes = read_intakes(params, since=entries[-1].time if entries else "")
    with open_repo() as repo:
        entry = LedgerEntry(
            decision="promoted" if decision.promote else "rejected",
            reason=decision.reason,
            model_md5=hash_file(challenger, "md5"),
            model_bytes=challenger.stat().st_size,
            flow_run_name=str(flow_run.name),
            flow_run_id=str(flow_run.id),
            provenance=provenance_hashes(repo, params.model_dump_json(), load_model(challenger).metadata),
            evidence=decision.evidence.as_dict() | ({"drift": intakes} if intakes else {}),
        )
        entry = _record(repo, entry, approve_timeout)
    print(f"compared in {time.perf_counter() - started:.1f} s")
    return entry


def decide_again(
    question: LedgerEntry, person: str, params: Params, approve_timeout: dt.timedelta | None
) -> LedgerEntry:
    """Reject or ask again after a person's yes that was meant for the comparison with an earlier champion."""
    with open_repo() as repo:
        sync_champion(repo)
        if not Path(params.paths.splits).is_file():
            pull_outputs(repo, [params.paths.splits])
        challenger = fetch_model(repo, question.model_md5)
    parity = {key: question.evidence[f"parity_{key}"] for key in ("max_abs_diff", "argmax_agreement")}
    decision = _compare(challenger, parity, params)
    champion = ledger.current_champion(ledger.read_ledger())
    since = f"{champion.label} came" if champion else "the champion went"
    drift = {key: value for key, value in question.evidence.items() if key == "drift"}
    entry = replace(
        question,
        decision="promoted" if decision.promote else "rejected",
        reason=f"{decision.reason}; {since} before {person} approved",
        flow_run_name=str(flow_run.name),
        flow_run_id=str(flow_run.id),
        evidence=decision.evidence.as_dict() | drift,
        approval=None,
    )
    with open_repo() as repo:
        return _record(repo, entry, approve_timeout)


def _compare(challenger: Path, parity: dict[str, Any], params: Params) -> Decision:
    entries = ledger.read_ledger()
    champion = ledger.current_champion(entries)
    return compare(
        load_model(challenger, NUM_THREADS),
        load_model(CHAMPION, NUM_THREADS) if champion else None,
        Path(params.paths.splits),
        parity,
        params.compare,
        champion_val_sha256=champion.evidence.get("val_sha256") if champion else None,
        earlier_looks=ledger.look_times(entries),
    )


def _record(repo: Repo, entry: LedgerEntry, approve_timeout: dt.timedelta | None) -> LedgerEntry:
    entry = reject_if_rolled_back(ledger.read_ledger(), entry)
    if not entry.is_promotion:
        return ledger.append(entry)
    if approve_timeout is None:
        return promote(repo, entry)
    champion = ledger.current_champion(ledger.read_ledger())
    return ledger.append(approval.ask(entry, champion, dt.datetime.now(dt.UTC) + approve_timeout))
