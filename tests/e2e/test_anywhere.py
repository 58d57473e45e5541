"""Workers in empty folders on a real server: two at once, one that is killed, one that goes on."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.e2e.deployment_server import BIN, DeploymentServer, run_server, wait_until
from tests.flows.git_clones import Remotes, git, make_remotes

pytestmark = [pytest.mark.server, pytest.mark.distributed]

QUEUE = ("--work-queue", "anywhere")
SECRETS = {"AWS_SECRET_ACCESS_KEY": "planted-s3-key", "WANDB_API_KEY": "planted-wandb-key"}
# A challenger decides nothing by its latency here: the machines that run tests are busy.
OVERRIDES: dict[str, Any] = {"compare": {"max_latency_ratio": 50.0}}


@pytest.fixture(scope="module")
def remotes(finished_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Remotes:
    folder = tmp_path_factory.mktemp("remotes")
    project = shutil.copytree(finished_workspace, folder / "project")
    for name in ("prefect.yaml", "automations.yaml"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(ROOT / "flows", project / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    return make_remotes(folder, project)


@pytest.fixture(scope="module")
def server(remotes: Remotes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeploymentServer]:
    """A server with every deployment, and no worker."""
    server = DeploymentServer(remotes.folder / "laptop", tmp_path_factory.mktemp("home"))
    with run_server(server):
        server.run_prefect("work-pool", "create", "cifarflow", "--type", "process")
        server.run_prefect("deploy", "--all")
        server.run_prefect("variable", "set", "cifarflow_repository", remotes.url)
        yield server


@pytest.fixture
def workers(server: DeploymentServer, tmp_path: Path) -> Iterator[list[DeploymentServer]]:
    """Two workers, each in an empty folder, on machines where Git knows no user."""
    workers = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        workers.append(server.at(tmp_path / name, GIT_CONFIG_GLOBAL="/dev/null", **SECRETS))
    try:
        for worker in workers:
            worker.start_worker(*QUEUE, "--limit", "1")
        yield workers
    finally:
        for worker in workers:
            worker.stop_worker()


def test_workers_decide_in_one_order_and_leave_nothing_but_what_they_pushed(
    remotes: Remotes, server: DeploymentServer, workers: list[DeploymentServer], tmp_path: Path
) -> None:
    runs = [
        server.start_run("retrain/retrain-anywhere", overrides=OVERRIDES | {"train": {"seed": seed}})
        for seed in (1, 2)
    ]
    messages = [server.wait_until_completed(run, 240) for run in runs]
    entries = remotes.read_ledger(tmp_path)
    assert [entry.version for entry in entries] == [1, 2]
    assert {entry.flow_run_id for entry in entries} == set(runs)
    assert sorted(messages) == sorted(f"{entry.decision}: {entry.reason}" for entry in entries)
    assert "the first model" in entries[0].reason
    assert entries[1].evidence["champion_val_accuracy"] == entries[0].evidence["challenger_val_accuracy"]

    # On another machine: the champion, from the remotes alone.
    laptop = remotes.clone(tmp_path / "laptop")
    image = tmp_path / "image.png"
    Image.new("RGB", (32, 32)).save(image)
    commands = [
        ["dvc", "pull", "--quiet", "registry/champion.onnx.dvc"],
        ["cifarflow", "predict", str(image)],
    ]
    done = [
        subprocess.run(
            [str(BIN / command), *options], cwd=laptop, capture_output=True, text=True, check=False
        )
        for command, *options in commands
    ]
    assert (laptop / "registry/champion.onnx").is_file(), done[0].stderr
    assert "image.png" in done[1].stdout, done[1].stderr

    # No planted secret is in the repository's history, the DVC remote, Prefect's database or a log.
    wait_until(lambda: not any(worker.read_worker_processes() for worker in workers), 60)
    places = [git(remotes.repository, "log", "-p", "--all").encode()]
    for folder in (remotes.store, server.home, *(worker.folder for worker in workers)):
        places += read_files(folder)
    assert not [value for value in SECRETS.values() if any(value.encode() in place for place in places)]
    wait_until(lambda: not any(has_clone(worker.folder) for worker in workers), 60)  # they were temporary


def has_clone(folder: Path) -> bool:
    return any("dvc.yaml" in names for *_, names in os.walk(folder))


def read_files(folder: Path) -> Iterator[bytes]:
    """Of all files, while a worker may be deleting some."""
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield Path(path, name).read_bytes()


def test_worker_that_dies_before_the_push_has_changed_nothing_and_another_goes_on(
    remotes: Remotes, server: DeploymentServer, tmp_path: Path
) -> None:
    head, num_decisions = remotes.head, len(remotes.read_ledger(tmp_path))
    (tmp_path / "hooks").mkdir()
    hook, reached = tmp_path / "hooks/pre-push", tmp_path / "reached"
    hook.write_text(f"#!/bin/sh\nread line || exit 0\ntouch {reached}\nsleep 60\n")
    hook.chmod(0o755)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    hooks = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.hooksPath",
        "GIT_CONFIG_VALUE_0": str(hook.parent),
    }
    overrides = OVERRIDES | {"train": {"seed": 3}}
    worker = server.at(tmp_path / "one", **hooks)
    worker.start_worker(*QUEUE)
    try:
        server.start_run("retrain/retrain-anywhere", overrides=overrides)
        wait_until(reached.exists, 100)
    finally:
        worker.kill_worker()
    assert remotes.head == head

    other = server.at(tmp_path / "two")
    other.start_worker(*QUEUE)
    try:
        run = server.start_run("retrain/retrain-anywhere", overrides=overrides)
        server.wait_until_completed(run, 100)
    finally:
        other.stop_worker()
    entries = remotes.read_ledger(tmp_path)
    assert len(entries) == num_decisions + 1
    assert entries[-1].flow_run_id == run
    # What the first had trained is not trained again. Lines of the log reach the server later than states.
    restored = r"Restored\('from the DVC cache \(params train\.seed changed"
    wait_until(lambda: re.search(restored, server.read_log(run)) is not None, 30)


def test_question_of_one_worker_is_answered_on_another(
    remotes: Remotes, server: DeploymentServer, tmp_path: Path
) -> None:
    """The clone in which a run was suspended is gone when a person answers, as its worker is."""
    first = git(remotes.repository, "rev-list", "--max-parents=0", "main")
    git(remotes.repository, "branch", "approval", first)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    worker = server.at(tmp_path / "one")
    worker.start_worker(*QUEUE)
    try:
        run = server.start_run("retrain/retrain-anywhere", branch="approval", approve=True)
        wait_until(lambda: server.read_state(run)[0] == "Suspended", 100)
        wait_until(lambda: not has_clone(worker.folder), 60)
    finally:
        worker.stop_worker()
    (question,) = remotes.read_ledger(tmp_path, "approval")
    assert question.decision == "pending_approval"

    other = server.at(tmp_path / "two")
    other.start_worker(*QUEUE)
    try:
        answer = {"approve": True, "reason": "it is the first", "person": "ada"}
        server.request(f"flow_runs/{run}/resume", {"run_input": answer})
        message = server.wait_until_completed(run, 100)
    finally:
        other.stop_worker()
    assert message == "promoted: the first model, approved by ada: it is the first"
    entries = remotes.read_ledger(tmp_path, "approval")
    assert [entry.decision for entry in entries] == ["pending_approval", "promoted"]
    assert entries[1].model_md5 == question.model_md5
    pointer = git(remotes.repository, "show", "approval:registry/champion.onnx.dvc")
    assert question.model_md5 in pointer
