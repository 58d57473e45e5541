"""Retraining and rollback that publish to a branch, in clones with an empty cache: push, races, faults."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State

import flows.rollback
from flows.champion.results_branch import publish_decision
from flows.rollback import rollback
from flows.versions.git_branch import RemoteBranch
from tasks.registry import ledger
from tasks.registry.compare import compare
from tasks.registry.ledger import CHAMPION, LEDGER
from tests.flows.conftest import IMPROVE, read_task_states, run_pipeline, run_retrain
from tests.flows.git_clones import Remotes, git, make_remotes

pytestmark = [pytest.mark.server, pytest.mark.distributed, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture(scope="session")
def template(once: Callable[[str, Callable[[Path], None]], Path], champion_workspace: Path) -> Path:
    def make(folder: Path) -> None:
        make_remotes(folder, champion_workspace)

    return once("remotes", make)


@pytest.fixture
def remotes(template: Path, tmp_path: Path) -> Remotes:
    """Remotes of the test's own. The clones' DVC remote is the absolute path in their configuration."""
    remotes = Remotes(
        shutil.copytree(template, tmp_path / "remotes", ignore=shutil.ignore_patterns("laptop"))
    )
    first = remotes.clone(tmp_path / "configure")
    config = first / ".dvc/config"
    config.write_text(config.read_text().replace(str(template), str(remotes.folder)))
    git(
        first, "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "--quiet", "-am", "its remote"
    )
    git(first, "push", "--quiet", "origin", "main")
    return remotes


@pytest.fixture
def worker(remotes: Remotes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone, which is the current folder."""
    monkeypatch.chdir(remotes.clone(tmp_path / "worker"))
    return Path.cwd()


def retrain_on_main(*assignments: str) -> State[Any]:
    return run_retrain(*assignments, branch="main")


def push_decision(folder: Path, remotes: Remotes, model_md5: str) -> None:
    """Another machine's decision: a promotion of the model."""
    clone = remotes.clone(folder)
    file = clone / LEDGER
    champion = ledger.current_champion(ledger.read_ledger(file))
    assert champion is not None
    ledger.append(
        dataclasses.replace(champion, model_md5=model_md5, reason="elsewhere", flow_run_id="other"), file
    )
    git(clone, "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "--quiet", "-am", "elsewhere")
    git(clone, "push", "--quiet", "origin", "main")


def test_retrain_with_nothing_to_do_pulls_no_data_and_pushes_nothing(remotes: Remotes, worker: Path) -> None:
    head = remotes.head
    state = retrain_on_main()
    assert (state.name, remotes.head) == ("Skipped", head), state.message
    assert read_task_states(state)["download"].name == "Cached"
    assert not [path for path in ("data", "artifacts", ".dvc/cache/files", CHAMPION) if Path(path).exists()]


def test_retrain_publishes_one_commit_from_which_any_machine_goes_on(
    remotes: Remotes, worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = remotes.head
    state = retrain_on_main(*IMPROVE)
    assert str(state.message).startswith("promoted: +"), state.message
    assert read_task_states(state)["split"].name == "Cached"
    assert not Path("data").exists()
    assert git(remotes.repository, "rev-parse", "main^") == before
    changed = set(git(remotes.repository, "diff", "--name-only", "main^", "main").splitlines())
    assert {"dvc.lock", "params.yaml", "registry/ledger.jsonl", "registry/champion.onnx.dvc"} <= changed
    assert {"reports/metrics.json", "reports/history.csv"} <= changed
    assert [entry.version for entry in remotes.read_ledger(tmp_path)] == [1, 2]
    model = CHAMPION.read_bytes()

    monkeypatch.chdir(remotes.clone(tmp_path / "second"))
    assert retrain_on_main().name == "Skipped"
    # What another machine made is restored where it is not the last run's either.
    git(Path(), "checkout", "--quiet", "-b", "earlier")
    git(Path(), "fetch", "--quiet", "--unshallow")
    git(Path(), "checkout", "--quiet", before, "--", "dvc.lock", "params.yaml", "reports")
    git(Path(), "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "back")
    again = run_pipeline(*IMPROVE, branch="earlier")
    assert again.is_completed(), again.message
    assert {read_task_states(again)[stage].name for stage in ("train", "evaluate", "export")} == {"Restored"}

    monkeypatch.chdir(remotes.clone(tmp_path / "laptop"))
    assert rollback(restore=True, return_state=True).is_completed()
    assert CHAMPION.read_bytes() == model


def test_retrain_decides_again_with_the_champion_that_came_between(
    remotes: Remotes, worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = RemoteBranch.push
    calls: list[str | None] = []

    def record(*arguments: Any, **keywords: Any) -> Any:
        champion = ledger.current_champion(ledger.read_ledger())
        calls.append(champion.flow_run_id if champion else None)
        return compare(*arguments, **keywords)

    def push_second(self: RemoteBranch, commit: str) -> bool:
        if len(calls) == 1:
            md5 = remotes.read_ledger(tmp_path)[0].model_md5
            push_decision(tmp_path / "other", remotes, md5)
        return push(self, commit)

    monkeypatch.setattr(RemoteBranch, "push", push_second)
    monkeypatch.setattr("flows.champion.decide.compare", record)
    state = retrain_on_main(*IMPROVE)
    assert state.is_completed(), state.message
    entries = remotes.read_ledger(tmp_path)
    assert [(entry.version, entry.reason) for entry in entries[:2]] == [
        (1, "the first model"),
        (2, "elsewhere"),
    ]
    assert [entry.version for entry in entries] == [1, 2, 3]
    assert entries[2].flow_run_id == str(state.state_details.flow_run_id)
    assert calls == [entries[0].flow_run_id, "other"]


def test_retrain_whose_answer_got_lost_is_decided_once(
    remotes: Remotes, worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = RemoteBranch.push
    answers = iter([False])
    monkeypatch.setattr(
        RemoteBranch, "push", lambda self, commit: next(answers, True) if push(self, commit) else False
    )
    state = retrain_on_main(*IMPROVE)
    assert state.is_completed(), state.message
    assert [entry.version for entry in remotes.read_ledger(tmp_path)] == [1, 2]


@pytest.mark.parametrize("fault", ["git", "dvc", "disk"])
def test_retrain_that_cannot_publish_changes_nothing(
    remotes: Remotes, worker: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    head = remotes.head
    if fault == "git":
        hook = remotes.repository / "hooks/pre-receive"
        hook.write_text("#!/bin/sh\nexit 1\n")
        hook.chmod(0o755)
    elif fault == "dvc":
        monkeypatch.setattr("dvc.data_cloud.DataCloud.push", _refuse)
    else:
        replace = Path.replace

        def replace_unless_ledger(self: Path, target: Path) -> Path:
            return _refuse() if target == LEDGER else replace(self, target)

        monkeypatch.setattr(Path, "replace", replace_unless_ledger)
    state = retrain_on_main(*IMPROVE)
    assert state.is_failed()
    expected = "pre-receive hook declined" if fault == "git" else "No space left on device"
    assert expected in str(state.message)
    assert len(str(state.message).splitlines()) == 1
    assert remotes.head == head


def _refuse(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_retrain_without_a_dvc_remote_fails_before_it_trains(remotes: Remotes, worker: Path) -> None:
    Path(".dvc/config").write_text("[core]\n")
    git(Path(), "update-index", "--assume-unchanged", ".dvc/config")
    state = retrain_on_main()
    assert state.is_failed()
    assert "dvc remote add -d" in str(state.message)
    assert not read_task_states(state)


def test_retrain_in_a_changed_checkout_is_refused(remotes: Remotes, worker: Path) -> None:
    params = Path("params.yaml").read_text() + "# mine\n"
    Path("params.yaml").write_text(params)
    state = retrain_on_main(*IMPROVE)
    assert state.is_failed()
    assert "uncommitted changes" in str(state.message)
    assert Path("params.yaml").read_text() == params


def test_rollback_publishes_and_refuses_a_champion_that_it_did_not_mean(
    remotes: Remotes, worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = remotes.read_ledger(tmp_path)[0].model_md5
    assert str(retrain_on_main(*IMPROVE).message).startswith("promoted: +")
    monkeypatch.chdir(remotes.clone(tmp_path / "second"))
    assert rollback(branch="main", return_state=True).is_completed()
    entries = remotes.read_ledger(tmp_path)
    assert [entry.decision for entry in entries] == ["promoted", "promoted", "rolled_back"]
    assert entries[2].model_md5 == first
    pointer = git(remotes.repository, "show", "main:registry/champion.onnx.dvc")
    assert first in pointer

    publish = publish_decision

    def publish_late(*arguments: Any) -> Any:
        push_decision(tmp_path / "other", remotes, entries[1].model_md5)
        return publish(*arguments)

    monkeypatch.chdir(remotes.clone(tmp_path / "third"))
    monkeypatch.setattr(flows.rollback, "publish_decision", publish_late)
    state = rollback(branch="main", return_state=True)
    assert state.is_failed()
    assert "nothing was rolled back: champion 4 (" in str(state.message)
    assert [json.loads(line)["version"] for line in LEDGER.read_text().splitlines()] == [1, 2, 3, 4]
