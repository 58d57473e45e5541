"""Workers in empty folders on a real server, with Git over HTTP and S3: two at once, some that are killed."""

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ruamel.yaml import YAML

from tasks.overrides import Overrides, with_overrides
from tasks.params import read_params
from tasks.train import train
from tests.conftest import ROOT
from tests.e2e.deployment_server import BIN, DeploymentServer, run_server, wait_until
from tests.flows.git_clones import Remotes, find_clones, git, make_remotes, read_files, read_objects
from tests.flows.git_http_server import serve_git
from tests.s3 import KEYS, S3

pytestmark = [pytest.mark.server, pytest.mark.distributed]

QUEUE = ("--work-queue", "anywhere")
BUCKET = "anywhere"
BLOCKS = {"git-token": "planted-git-token", "wandb-key": "plantedwandbkey".ljust(40, "0")}
POOL_ENV = {  # as docs/anywhere.md has it
    "GIT_TOKEN": "{{ prefect.blocks.secret.git-token }}",
    "WANDB_API_KEY": "{{ prefect.blocks.secret.wandb-key }}",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "credential.helper",
    "GIT_CONFIG_VALUE_0": '!f() { echo username=x-access-token; echo "password=$GIT_TOKEN"; }; f',
}
# A challenger decides nothing by its latency here: the machines that run tests are busy.
OVERRIDES: dict[str, Any] = {"compare": {"max_latency_ratio": 50.0}}


@pytest.fixture(scope="module")
def remotes(
    finished_workspace: Path, s3_server: S3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Remotes]:
    """The Git remote, and a DVC remote on S3, which is that of this process, too."""
    folder = tmp_path_factory.mktemp("remotes")
    project = shutil.copytree(finished_workspace, folder / "project")
    for name in ("prefect.yaml", "automations.yaml"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(ROOT / "flows", project / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.env.items():
            patch.setenv(name, value)
        yield make_remotes(folder, project, f"{s3_server.make_bucket(BUCKET)}/store")


@pytest.fixture(scope="module")
def server(
    remotes: Remotes, prefect_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DeploymentServer]:
    """A server with the deployment and the secrets in blocks, and no worker."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(prefect_database, home)
    server = DeploymentServer(remotes.folder / "laptop", home)
    with serve_git(remotes.folder, BLOCKS["git-token"]) as git_url, run_server(server):
        for name, value in BLOCKS.items():
            server.save_secret(name, value)
        template = server.run_prefect("work-pool", "get-default-base-job-template", "--type", "process")
        pool = json.loads(template)
        pool["variables"]["properties"]["env"]["default"] = POOL_ENV
        file = server.home / "pool.json"
        file.write_text(json.dumps(pool))
        server.run_prefect(
            "work-pool", "create", "cifarflow", "--type", "process", "--base-job-template", str(file)
        )
        server.run_prefect("deploy", "--name", "retrain-anywhere")
        server.run_prefect("variable", "set", "cifarflow_repository", f"{git_url}/origin.git")
        yield server


@contextlib.contextmanager
def start_worker(
    server: DeploymentServer, folder: Path, *options: str, **env: str
) -> Iterator[DeploymentServer]:
    """A worker in an empty folder, on a machine where Git knows no user."""
    folder.mkdir()
    machine = {
        "HOME": str(folder),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "DVC_SITE_CACHE_DIR": str(folder / "dvc"),
    }
    worker = server.at(folder, **machine, **env)
    worker.start_worker(*QUEUE, *options)
    try:
        yield worker
    finally:
        worker.stop_worker()


def test_workers_decide_in_one_order_and_leave_nothing_but_what_they_pushed(
    remotes: Remotes, server: DeploymentServer, tmp_path: Path
) -> None:
    with (
        start_worker(server, tmp_path / "one", "--limit", "1") as one,
        start_worker(server, tmp_path / "two", "--limit", "1") as two,
    ):
        runs = [
            server.start_run("retrain/retrain-anywhere", overrides=OVERRIDES | {"train": {"seed": seed}})
            for seed in (1, 2)
        ]
        messages = [server.wait_until_completed(run) for run in runs]
        wait_until(lambda: not any(worker.read_worker_processes() for worker in (one, two)))
        wait_until(lambda: not any(find_clones(worker.folder) for worker in (one, two)))
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


def test_others_go_on_where_workers_die_in_training_and_before_the_push(
    remotes: Remotes, server: DeploymentServer, s3_server: S3, tmp_path: Path
) -> None:
    head, num_decisions = remotes.head, len(remotes.read_ledger(tmp_path))
    kept = {"checkpoint_url": f"s3://{BUCKET}/checkpoints", "checkpoint_interval_s": 0.0}
    overrides = OVERRIDES | {"train": {"seed": 3, "epochs": 20}}

    def start_run() -> str:
        return server.start_run(
            "retrain/retrain-anywhere", overrides=overrides | {"train": overrides["train"] | kept}
        )

    # In training. W&B is asked with the key, and cannot be reached.
    wandb = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    with start_worker(server, tmp_path / "one", **wandb) as lost:
        start_run()
        wait_until(lambda: s3_server.list_objects(BUCKET, "checkpoints/"))
        lost.kill_worker()
    assert remotes.head == head
    assert not [name for name in s3_server.list_objects(BUCKET, "checkpoints/") if "epoch-000020" in name]

    # After the decision.
    (tmp_path / "hooks").mkdir()
    hook, reached = tmp_path / "hooks/pre-push", tmp_path / "reached"
    hook.write_text(f"#!/bin/sh\nread line || exit 0\ntouch {reached}\nsleep 300\n")
    hook.chmod(0o755)
    config = tmp_path / "gitconfig"
    config.write_text(f"[core]\nhooksPath = {hook.parent}\n")
    with start_worker(server, tmp_path / "two", GIT_CONFIG_SYSTEM=str(config)) as second:
        run = start_run()
        wait_until(reached.exists)
        resumed = r"resuming from checkpoint after epoch \d"
        wait_until(lambda: re.search(resumed, server.read_log(run)) is not None)
        second.kill_worker()
    assert remotes.head == head
    assert not s3_server.list_objects(BUCKET, "checkpoints/")

    with start_worker(server, tmp_path / "three"):
        run = start_run()
        server.wait_until_completed(run)
    entries = remotes.read_ledger(tmp_path)
    assert len(entries) == num_decisions + 1
    assert entries[-1].flow_run_id == run
    # What the others had trained is not trained again. Lines of the log reach the server later than states.
    restored = r"Restored\('from the DVC cache \(params train\."
    wait_until(lambda: re.search(restored, server.read_log(run)) is not None)
    assert read_locked_md5(remotes) == train_here(remotes, tmp_path, overrides)

    # In all that the runs left, killed ones included, there is no secret.
    places = {
        "Git": read_objects(remotes.repository),
        "S3": b"".join(s3_server.read_object(BUCKET, name) for name in s3_server.list_objects(BUCKET)),
        "server": read_files(server.home),
        **{name: read_files(tmp_path / name) for name in ("one", "two", "three")},
        **{f"clone {i}": read_objects(clone) for i, clone in enumerate(find_clones(tmp_path))},
    }
    assert {"clone 0", "clone 1"} <= places.keys()
    assert not [
        name for name, content in places.items() if b"cifarflow" not in content
    ]  # what is there is found
    secrets = [*BLOCKS.values(), *KEYS.values()]
    assert not [(name, secret) for name in places for secret in secrets if secret.encode() in places[name]]


def read_locked_md5(remotes: Remotes) -> str:
    """Of the weights, at the branch's head."""
    lock = YAML(typ="safe").load(git(remotes.repository, "show", "main:dvc.lock"))
    return next(
        str(out["md5"])
        for out in lock["stages"]["train"]["outs"]
        if out["path"] == "artifacts/model.safetensors"
    )


def train_here(remotes: Remotes, folder: Path, overrides: dict[str, Any]) -> str:
    """The MD5 of the weights of a training without interruption."""
    project = remotes.folder / "project"
    params = with_overrides(read_params(project / "params.yaml"), Overrides.model_validate(overrides))
    weights = folder / "model.safetensors"
    train(
        project / params.paths.splits, weights, folder / "history.csv", params.train, progress=lambda *_: None
    )
    return hashlib.md5(weights.read_bytes(), usedforsecurity=False).hexdigest()


def test_question_of_one_worker_is_answered_on_another(
    remotes: Remotes, server: DeploymentServer, tmp_path: Path
) -> None:
    """The clone in which a run was suspended is gone when a person answers, as its worker is."""
    first = git(remotes.repository, "rev-list", "--max-parents=0", "main")
    git(remotes.repository, "branch", "approval", first)
    with start_worker(server, tmp_path / "one") as worker:
        run = server.start_run("retrain/retrain-anywhere", branch="approval", approve=True)
        wait_until(lambda: server.read_state(run)[0] == "Suspended")
        wait_until(lambda: not find_clones(worker.folder))
    (question,) = remotes.read_ledger(tmp_path, "approval")
    assert question.decision == "pending_approval"
    page, head = f"approval:{question.page}", git(remotes.repository, "rev-parse", "approval")
    assert '<p class="status">Waiting for an answer</p>' in git(remotes.repository, "show", page)
    keys = server.request(f"flow_runs/{run}")["state"]["state_details"]["run_input_keyset"]
    shown = server.request(f"flow_runs/{run}/input/{keys['description']}")
    assert f"{question.page} at the commit {head} of the branch approval" in shown

    answer = {"approve": True, "reason": "it is the first", "person": "ada"}
    with start_worker(server, tmp_path / "two"):
        server.request(f"flow_runs/{run}/resume", {"run_input": answer})
        message = server.wait_until_completed(run)
    assert message == "promoted: the first model, approved by ada: it is the first"
    entries = remotes.read_ledger(tmp_path, "approval")
    assert [entry.decision for entry in entries] == ["pending_approval", "promoted"]
    assert entries[1].model_md5 == question.model_md5
    assert "<b>ada</b> approved: “it is the first”" in git(remotes.repository, "show", page)
    pointer = git(remotes.repository, "show", "approval:registry/champion.onnx.dvc")
    assert question.model_md5 in pointer
