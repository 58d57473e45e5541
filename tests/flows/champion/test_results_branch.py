"""Ten machines that decide at once: the branch has ten decisions in one order, each against its champion."""

import dataclasses
import hashlib
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from tasks.registry.ledger import CHAMPION, LEDGER, LedgerEntry, current_champion, read_ledger
from tests.conftest import copy_of_project
from tests.flows.git_clones import Remotes, git, make_remotes

pytestmark = pytest.mark.distributed

NUM_RUNS = 10


def build_entry(score: float, model: bytes, run: str, **evidence: Any) -> LedgerEntry:
    return LedgerEntry(
        decision="promoted",
        reason=f"score {score}",
        model_md5=hashlib.md5(model, usedforsecurity=False).hexdigest(),
        model_bytes=len(model),
        flow_run_name=run,
        flow_run_id=run,
        provenance={},
        evidence={"score": score, **evidence},
    )


def decide_in_clone(folder: Path, score: float, barrier: Any) -> None:
    """A run's end on a machine of its own: with this score it replaces a champion whose score is lower."""
    os.chdir(folder)
    os.environ["PREFECT__RUNTIME__FLOW_RUN__ID"] = f"run-{score}"

    from dvc_data.hashfile.hash_info import HashInfo

    from flows.champion.model import promote
    from flows.champion.results_branch import open_branch, publish_decision
    from flows.versions.dvc_remote import push_objects
    from flows.versions.dvc_repro import open_repo
    from tasks.registry.ledger import append

    model = f"model {score}".encode()

    def decide() -> LedgerEntry:
        champion = current_champion(read_ledger())
        against = {"champion": champion.version} if champion else {}
        entry = build_entry(score, model, f"run-{score}", **against)
        with open_repo() as repo:
            if champion is None or score > champion.evidence["score"]:
                return promote(repo, entry)
        return append(dataclasses.replace(entry, decision="rejected"))

    branch = open_branch("main")
    with open_repo() as repo:
        file = Path(repo.cache.local.oid_to_path(build_entry(score, model, "").model_md5))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(model)
        push_objects(repo, [HashInfo("md5", build_entry(score, model, "").model_md5)])
    barrier.wait()
    publish_decision(branch, [], decide)


@pytest.fixture
def remotes(tmp_path: Path) -> Remotes:
    (tmp_path / "project").mkdir()
    project = copy_of_project(tmp_path / "project")
    (project / "data.dvc").unlink()
    (project / ".dvc").mkdir()
    (tmp_path / "remotes").mkdir()
    return make_remotes(tmp_path / "remotes", project)


def test_ten_decisions_at_once_are_in_one_order(remotes: Remotes, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flows.champion.results_branch"])
    barrier = context.Barrier(NUM_RUNS)
    runs = [
        context.Process(
            target=decide_in_clone, args=(remotes.clone(tmp_path / f"clone-{i}"), float(i), barrier)
        )
        for i in range(NUM_RUNS)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0] * NUM_RUNS
    entries = remotes.read_ledger(tmp_path)
    assert [entry.version for entry in entries] == list(range(1, NUM_RUNS + 1))
    lines = git(remotes.repository, "show", f"main:{LEDGER.as_posix()}").splitlines()
    assert [json.loads(line)["version"] for line in lines] == list(range(1, NUM_RUNS + 1))
    assert {entry.flow_run_id for entry in entries} == {f"run-{float(i)}" for i in range(NUM_RUNS)}
    champion = None
    for entry in entries:
        assert entry.evidence.get("champion") == (champion and champion.version)
        better = champion is None or entry.evidence["score"] > champion.evidence["score"]
        assert entry.decision == ("promoted" if better else "rejected")
        champion = entry if better else champion
    assert champion is not None
    assert champion.evidence["score"] == NUM_RUNS - 1
    pointer = git(remotes.repository, "show", f"main:{CHAMPION.as_posix()}.dvc")
    assert champion.model_md5 in pointer
    stored = remotes.store / "files/md5" / champion.model_md5[:2] / champion.model_md5[2:]
    assert stored.read_bytes() == f"model {champion.evidence['score']}".encode()
    # One commit per decision, none merged.
    assert git(remotes.repository, "rev-list", "--count", "main") == str(NUM_RUNS + 1)
    assert not git(remotes.repository, "rev-list", "--merges", "main")
