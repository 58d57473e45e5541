"""Compare a challenger with the champion and write the decision into the ledger.

This module brings PyTorch and SciPy, so it is imported when there is something to compare.
"""

import datetime as dt
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from prefect.runtime import flow_run

from flows.champion.model import fetch_model, promote, provenance_hashes, sync_champion
from flows.champion.page import name_next_page, show_comparison
from flows.champion.smoke_test import ANSWERS, confirm_promotion, record_answers
from flows.reproduce.record import read_commit, record_inputs
from flows.versions.dvc_remote import pull_outputs
from flows.versions.dvc_repro import open_repo
from tasks.decision_pages.page import ComparedModels
from tasks.drift.check import read_intakes
from tasks.inference.onnx_classifier import OnnxClassifier, load_model
from tasks.params import Params
from tasks.registry import ledger
from tasks.registry import questions as approval
from tasks.registry.compare import Decision, History, compare
from tasks.registry.earlier_models import reject_if_rolled_back
from tasks.registry.evidence import NUM_THREADS, is_correct
from tasks.registry.ledger import CHAMPION, CHAMPION_INT8, LedgerEntry
from tasks.workspace.errors import RunError
from tasks.workspace.files import hash_file, read_json
from tasks.workspace.splits import load_splits


def decide(params: Params, approve_timeout: dt.timedelta | None = None) -> LedgerEntry:
    """Promote or reject the pipeline's model; with a timeout, a person is asked before it is promoted.

    What was rolled back before is rejected, whatever the comparison says.
    """
    started = time.perf_counter()
    challenger = Path(params.paths.onnx_model)
    parity = read_json(Path(params.paths.benchmarks))["parity"]
    evidence, decision, models = _compare(challenger, parity, params)
    entries = ledger.read_ledger()
    intakes = read_intakes(params, since=entries[-1].time if entries else "")
    int8, int8_evidence = _check_int8(params, evidence)
    answers = record_answers(
        {CHAMPION: challenger} | ({CHAMPION_INT8: Path(params.paths.int8_model)} if int8 else {})
    )
    with open_repo() as repo:
        entry = LedgerEntry(
            decision="promoted" if decision.promote else "rejected",
            reason=decision.reason,
            model_md5=hash_file(challenger, "md5"),
            model_bytes=challenger.stat().st_size,
            flow_run_name=str(flow_run.name),
            flow_run_id=str(flow_run.id),
            provenance=provenance_hashes(repo, params.model_dump_json(), models.metadata[0]) | read_commit(),
            evidence=evidence | int8_evidence | answers | ({"drift": intakes} if intakes else {}),
            page=name_next_page(params),
            reproduction=record_inputs(repo, params, models.metadata[0]),
            **int8,
        )
        entry = _record(repo, entry, approve_timeout)
    show_comparison(entry, models, params)
    print(f"compared in {time.perf_counter() - started:.1f} s")
    return confirm_promotion(entry)


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
    evidence, decision, models = _compare(challenger, parity, params)
    champion = ledger.current_champion(ledger.read_ledger())
    since = f"{champion.label} came" if champion else "the champion went"
    kept = {
        key: question.evidence[key]
        for key in ("drift", "int8_val_accuracy", ANSWERS)
        if key in question.evidence
    }
    entry = replace(
        question,
        decision="promoted" if decision.promote else "rejected",
        reason=f"{decision.reason}; {since} before {person} approved",
        flow_run_name=str(flow_run.name),
        flow_run_id=str(flow_run.id),
        evidence=evidence | kept,
        approval=None,
        page=name_next_page(params),
    )
    with open_repo() as repo:
        entry = _record(repo, entry, approve_timeout)
    show_comparison(entry, models, params)
    return entry


def _compare(
    file: Path, parity: dict[str, Any], params: Params
) -> tuple[dict[str, Any], Decision, ComparedModels]:
    """Compare with the champion; the evidence also names the model against which margins stay measured."""
    entries = ledger.read_ledger()
    champion, reference = ledger.current_champion(entries), ledger.find_reference(entries)
    sweep, splits = Path(params.paths.sweep), Path(params.paths.splits)
    challenger = load_model(file, NUM_THREADS)
    champion_model = load_model(CHAMPION, NUM_THREADS) if champion else None
    decision = compare(
        challenger,
        champion_model,
        splits,
        parity,
        params.compare,
        reference=_load_reference(reference) if reference and reference != champion else None,
        history=History(
            champion_val_sha256=champion.evidence.get("val_sha256") if champion else None,
            looks=ledger.look_times(entries),
            selections=[entry.evidence.get("selection", {}) for entry in entries],
            sweep=read_json(sweep) if sweep.is_file() else None,
        ),
    )
    evidence = decision.evidence.as_dict()
    if reference and decision.promote and not decision.is_reference:
        evidence["reference_md5"] = reference.model_md5
    metadata = [model.metadata for model in (challenger, champion_model) if model]
    models = ComparedModels(
        load_splits(splits), challenger.classes, metadata, decision.val_probabilities, champion
    )
    return evidence, decision, models


def _check_int8(params: Params, evidence: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the int8 model's fields in the ledger, none where it has lost too much, and its evidence.

    It is the challenger in 8-bit integers, so it is promoted, rejected and rolled back with it.
    """
    file = Path(params.paths.int8_model)
    val = load_splits(Path(params.paths.splits)).val
    accuracy = float(is_correct(load_model(file, NUM_THREADS), val).mean())
    drop = evidence["challenger_val_accuracy"] - accuracy
    fields = {"int8_md5": hash_file(file, "md5"), "int8_bytes": file.stat().st_size}
    if round(drop, 9) > params.quantize.max_accuracy_drop:
        fields = {}
        print(
            f"{file} is left out: it loses {100 * drop:.2f} points on validation, more than the "
            f"{100 * params.quantize.max_accuracy_drop:.2f} of quantize.max_accuracy_drop"
        )
    return fields, {"int8_val_accuracy": accuracy}


def _load_reference(reference: LedgerEntry) -> OnnxClassifier:
    with open_repo() as repo:
        try:
            return load_model(fetch_model(repo, reference.model_md5), NUM_THREADS)
        except RunError as error:
            raise RunError(
                f"margins are measured against version {reference.version}, but {error}; to measure them "
                "against another model, promote it yourself: cifarflow promote VERSION --reason ..."
            ) from error


def _record(repo: Repo, entry: LedgerEntry, approve_timeout: dt.timedelta | None) -> LedgerEntry:
    entry = reject_if_rolled_back(ledger.read_ledger(), entry)
    if not entry.is_promotion:
        return ledger.append(entry)
    if approve_timeout is None:
        return promote(repo, entry)
    champion = ledger.current_champion(ledger.read_ledger())
    return ledger.append(approval.ask(entry, champion, dt.datetime.now(dt.UTC) + approve_timeout))
