"""What a retraining could not publish at its end is said before it trains."""

import datetime as dt
import os
import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.champion.publish import check_publish
from tasks.workspace.errors import InputError, RunError
from tests.conftest import ROOT
from tests.flows.git_clones import git
from tests.shipped_params import PARAMS_FILE


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository in a Git repository with a commit, and without a DVC remote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    for file in (ROOT / "dvc.yaml", PARAMS_FILE):
        shutil.copy(file, ".")
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    with Repo.init():
        pass
    git(tmp_path, "add", "--all")
    git(tmp_path, "-c", "user.name=T", "-c", "user.email=t@e.org", "commit", "--quiet", "--message=first")
    return tmp_path


def test_what_can_be_published_passes(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Repo() as repo, repo.config.edit() as config:
        config["remote"]["r"] = {"url": str(workspace / "store")}
        config["core"]["remote"] = "r"
    head = git(workspace, "rev-parse", "HEAD")
    check_publish(push=True, commit=True)
    assert git(workspace, "rev-parse", "HEAD") == head
    assert git(workspace, "for-each-ref", "--format=%(refname)") == "refs/heads/main"
    assert capsys.readouterr().out == ""


def test_push_without_a_remote_is_refused(workspace: Path) -> None:
    with pytest.raises(InputError, match="no DVC remote to push to; add one"):
        check_publish(push=True, commit=False)


def test_commit_to_the_branch_that_is_checked_out_is_refused(workspace: Path) -> None:
    branch = f"retrain/{dt.datetime.now(dt.UTC):%Y-%m-%d}"
    git(workspace, "checkout", "--quiet", "-b", branch)
    with pytest.raises(RunError, match=f"the branch {branch} is checked out"):
        check_publish(push=False, commit=True)


def test_commit_that_cannot_be_signed_is_refused(workspace: Path) -> None:
    git(workspace, "config", "commit.gpgsign", "true")
    git(workspace, "config", "gpg.program", "false")
    with pytest.raises(RunError, match="could not sign a commit"):
        check_publish(push=False, commit=True)


def test_repository_of_another_user_is_refused(
    workspace: Path, other_uid: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (workspace, workspace / ".git"):
        os.chown(path, other_uid, other_uid)
    fix = f"git config --global --add safe.directory {workspace}"
    with pytest.raises(InputError, match=f"another user owns the repository; to change that: {fix}"):
        check_publish(push=False, commit=True)
    check_publish(push=False, commit=False)
    assert capsys.readouterr().out == "another user owns the repository: there will be no DVC experiment\n"


def test_folder_without_git_gets_no_experiment(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(".git")
    check_publish(push=False, commit=False)
    with pytest.raises(InputError, match="cannot commit: not a Git repository with commits"):
        check_publish(push=False, commit=True)
    assert "there will be no DVC experiment" in capsys.readouterr().out
