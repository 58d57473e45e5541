"""Reproduce in a tiny project whose stages copy files instead of training; Git and DVC are real."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from flows.cli.main import run_command
from flows.reproduce.record import _hash_outputs, read_commit
from flows.run.lock import workspace_lock
from flows.versions.dvc_repro import open_repo
from tasks.registry import ledger
from tasks.registry.ledger import LedgerEntry
from tasks.workspace.files import hash_file
from tests.flows.git_clones import git
from tests.shipped_params import PARAMS_FILE

DVC_YAML = """\
stages:
  split:
    cmd: cat data/* > artifacts/images.txt
    deps: [data]
    outs: [artifacts/images.txt]
  export:
    cmd: sed s/image/model/ artifacts/images.txt > artifacts/model.onnx
    deps: [artifacts/images.txt]
    outs: [artifacts/model.onnx]
  benchmark:
    cmd: date +%N > reports/benchmark.json
    deps: [artifacts/model.onnx]
    metrics: [{reports/benchmark.json: {cache: false}}]
  report:
    cmd: cp reports/benchmark.json reports/index.html
    deps: [reports/benchmark.json]
    outs: [{reports/index.html: {cache: false}}]
"""
IGNORED = "artifacts/\nreports/\n/data\n.cifarflow*\n.dvc/cache\n.dvc/tmp\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a project in a folder of it, which has a champion."""
    repository = tmp_path_factory.mktemp("made") / "repository"
    folder = repository / "project"
    (folder / ".dvc").mkdir(parents=True)
    git(repository, "init", "--quiet", "--initial-branch=main")
    for name in ("user.name", "user.email"):
        git(folder, "config", name, "ada@localhost")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copy(PARAMS_FILE, ".")
        Path("dvc.yaml").write_text(DVC_YAML)
        for keep in ("artifacts", "reports"):
            Path(keep).mkdir()
            Path(keep, ".gitkeep").touch()
        Path(".gitignore").write_text(IGNORED)
        Path(".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
        set_data("image 1\n")
        git(folder, "add", "--all")
        git(folder, "add", "--force", "artifacts/.gitkeep", "reports/.gitkeep")
        git(folder, "commit", "--quiet", "--message=x")
        promote()
    return repository


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project; it is the current folder, and what is temporary stands beside it."""
    monkeypatch.setenv("CIFARFLOW_CACHE", str(tmp_path / "home-cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = shutil.copytree(made, tmp_path / "repository") / "project"
    monkeypatch.chdir(folder)
    return folder


def set_data(content: str) -> None:
    Path("data").mkdir(exist_ok=True)
    Path("data/images").write_text(content)
    with Repo() as repo:
        repo.add("data")


def promote(**changes: Any) -> LedgerEntry:
    """Run the stages, and decide."""
    with Repo() as repo:
        repo.reproduce()
    with open_repo() as repo:
        outputs = _hash_outputs(repo, "reports/benchmark.json")
    assert list(outputs) == ["split", "export"], "what holds times is not recorded"
    record = {
        "params": YAML(typ="safe").load(Path("params.yaml")),
        "data_dvc": Path("data.dvc").read_text(),
        "outputs": outputs,
        "machine": {},
    }
    model = hash_file(Path("artifacts/model.onnx"), "md5")
    fields: dict[str, Any] = {"provenance": read_commit(), "reproduction": record} | changes
    return ledger.append(LedgerEntry("promoted", "better", model, 5, "owl", "id", evidence={}, **fields))


@pytest.fixture
def errors(capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Gives the last line of standard error."""
    return lambda: capfd.readouterr().err.splitlines()[-1]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_earlier_version_is_made_again_beside_a_run(
    project: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    set_data("image 2\n")
    Path("dvc.yaml").write_text(DVC_YAML.replace("model", "network"))
    git(project, "commit", "--quiet", "--all", "--message=y")
    Path("params.yaml").write_text("dataset: none\n")
    shutil.rmtree("data")
    before = snapshot(project)
    with workspace_lock(), open_repo():
        before = snapshot(project)
        assert run_command(["reproduce", "1"]) == 0
        assert snapshot(project) == before
    out = capfd.readouterr().out
    assert out.startswith("champion 1 reproduced, bit for bit, in ")
    assert not [*tmp_path.glob("cifarflow-reproduce-*")], "the clone is gone"


def test_keep_leaves_the_clone_where_the_user_stands(
    project: Path, errors: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Path("deep").mkdir()
    monkeypatch.chdir("deep")
    assert run_command(["reproduce", "--keep", "kept"]) == 0
    made = Path("kept/project/artifacts/model.onnx")
    assert made.read_text() == "model 1\n"
    assert git(made.parent, "status", "--porcelain", "--", "../dvc.yaml") == ""
    assert run_command(["reproduce", "--keep", "kept"]) == 2
    assert errors().endswith("deep/kept is not empty; name another folder for the clone")


def test_other_data_are_found_at_the_stage_that_reads_them(project: Path, errors: Callable[[], str]) -> None:
    (first,) = ledger.read_ledger()
    set_data("image two\n")
    record = {**(first.reproduction or {}), "data_dvc": Path("data.dvc").read_text()}
    ledger.append(replace(first, decision="rejected", reproduction=record))
    assert run_command(["reproduce", "2"]) == 1
    assert errors() == (
        "cifarflow: version 2 was not reproduced: the stage split has made another "
        "artifacts/images.txt: it has 10 bytes, and had 8"
    )


def test_commit_and_data_come_from_the_remotes(project: Path, tmp_path: Path) -> None:
    """As on a machine that has cloned the last commit only, and never had the data."""
    remote = tmp_path / "origin.git"
    git(project, "clone", "--quiet", "--bare", str(project.parent), str(remote))
    Path(".dvc/config").write_text(f"[core]\nremote = store\n['remote \"store\"']\nurl = {tmp_path}/store\n")
    with Repo() as repo:
        repo.push()
    commit = promote().provenance["commit"]
    text = Path("registry/ledger.jsonl").read_bytes()
    shutil.rmtree(".dvc/cache")
    git(project, "checkout", "--quiet", "--orphan", "later")
    git(project, "commit", "--quiet", "--message=z")
    git(project, "remote", "add", "origin", str(remote))
    git(project, "branch", "-D", "main")
    git(project, "reflog", "expire", "--expire=now", "--all")
    git(project, "gc", "--quiet", "--prune=now")
    with pytest.raises(AssertionError):
        git(project, "cat-file", "-e", commit)
    Path("registry/ledger.jsonl").write_bytes(text)
    assert run_command(["reproduce"]) == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reproduction": None},
         "its line is of an earlier version, which did not record parameters and data"),
        ({"provenance": {"commit": "a" * 40 + "-dirty"}},
         "its code differed from the commit aaaaaaaaaaaa, and is in no commit"),
        ({"provenance": {}}, "it was made outside of Git, so its code is in no commit"),
        ({"provenance": {"commit": "--upload-pack=touch /tmp/x"}},
         "it was made outside of Git, so its code is in no commit"),
        ({"provenance": {"commit": "a" * 40}},
         "neither this repository nor a remote has the commit aaaaaaaaaaaa of its code"),
    ],
)  # fmt: skip
def test_version_that_cannot_be_made_again_is_refused(
    project: Path, errors: Callable[[], str], changes: dict[str, Any], reason: str
) -> None:
    promote(**changes)
    assert run_command(["reproduce"]) == 2
    assert errors() == f"cifarflow: champion 2 cannot be reproduced: {reason}"


@pytest.mark.parametrize("path", ["../outside", "/tmp/outside"])
def test_path_outside_of_the_clone_is_refused(project: Path, errors: Callable[[], str], path: str) -> None:
    (first,) = ledger.read_ledger()
    record = dict(first.reproduction or {})
    params = {**record["params"], "paths": {**record["params"]["paths"], "weights": path}}
    promote(reproduction=record | {"params": params})
    assert run_command(["reproduce"]) == 2
    assert errors().endswith(f"its parameters name a path outside of the project: {path}")
    promote(reproduction=record | {"data_dvc": record["data_dvc"].replace("path: data", f"path: {path}")})
    assert run_command(["reproduce"]) == 2
    assert errors().endswith("its data.dvc is not one of this project")


def test_data_that_are_gone_are_named(project: Path, errors: Callable[[], str]) -> None:
    md5 = YAML(typ="safe").load(Path("data.dvc"))["outs"][0]["md5"]
    image = hash_file(Path("data/images"), "md5")
    Path(f".dvc/cache/files/md5/{image[:2]}/{image[2:]}").unlink()
    assert run_command(["reproduce"]) == 2
    assert errors() == (
        "cifarflow: champion 1 cannot be reproduced: neither the DVC cache nor a remote has its data "
        f"({md5}) any more; they were pruned, or never pushed"
    )


def test_version_that_is_not_there_is_refused(project: Path, errors: Callable[[], str]) -> None:
    assert run_command(["reproduce", "7"]) == 2
    assert errors() == "cifarflow: the ledger has no version 7"
    ledger.LEDGER.unlink()
    assert run_command(["reproduce"]) == 2
    assert errors().startswith("cifarflow: no model has been promoted yet")
