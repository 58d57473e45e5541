"""A branch at a Git remote: fetch, commit, push if nothing came between."""

import subprocess
from pathlib import Path

import pytest

from flows.versions.git import hide_credentials, run_git
from flows.versions.git_branch import RemoteBranch, RemoteUnavailableError
from tasks.workspace.errors import InputError, RunError
from tests.flows.git_clones import git

FILE = Path("file")


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A bare repository with one commit on `main`."""
    origin, first = tmp_path / "origin.git", tmp_path / "first"
    git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(origin))
    git(tmp_path, "clone", "--quiet", str(origin), str(first))
    (first / FILE).write_text("first\n")
    git(first, "add", "--all")
    git(first, "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "first")
    git(first, "push", "--quiet", "origin", "HEAD:main")
    return origin


def clone(origin: Path, name: str) -> Path:
    folder = origin.with_name(name)
    git(origin.parent, "clone", "--quiet", "--depth", "1", f"file://{origin}", str(folder))
    return folder


def publish(branch: RemoteBranch, text: str) -> bool:
    FILE.write_text(text)
    commit = branch.commit([FILE], "published")
    assert commit is not None
    return branch.push(commit)


def test_push_is_accepted_only_on_top_of_the_head(origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    branches = []
    for name in ("one", "two"):
        monkeypatch.chdir(clone(origin, name))
        branches.append(RemoteBranch("main"))
        branches[-1].fetch()
    monkeypatch.chdir(origin.with_name("one"))
    assert publish(branches[0], "one\n")
    monkeypatch.chdir(origin.with_name("two"))
    assert not publish(branches[1], "two\n")
    assert git(origin, "show", "main:file") == "one"
    branches[1].checkout(FILE)
    assert FILE.read_text() == "one\n"
    assert publish(branches[1], "one\ntwo\n")
    assert git(origin, "log", "--format=%s", "main").splitlines() == ["published", "published", "first"]


def test_push_creates_a_missing_branch_once(origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = []
    for name in ("one", "two"):
        monkeypatch.chdir(clone(origin, name))
        branch = RemoteBranch("retrain")
        if name == "one":
            branch.fetch()
        pushed.append(publish(branch, f"{name}\n"))
    assert pushed == [True, False]
    assert git(origin, "show", "retrain:file") == "one"


def test_push_that_a_hook_declines_says_so(origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = origin / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho not on a Friday >&2\nexit 1\n")
    hook.chmod(0o755)
    monkeypatch.chdir(clone(origin, "one"))
    branch = RemoteBranch("main")
    branch.fetch()
    branch.check_push()
    with pytest.raises(RunError, match="pre-receive hook declined") as caught:
        publish(branch, "one\n")
    assert not isinstance(caught.value, RemoteUnavailableError)
    assert git(origin, "show", "main:file") == "first"


def test_remote_that_is_gone_is_unavailable(origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone(origin, "one"))
    branch = RemoteBranch("main")
    origin.rename(origin.with_name("moved"))
    with pytest.raises(RemoteUnavailableError):
        branch.fetch()
    with pytest.raises(RemoteUnavailableError):
        publish(branch, "one\n")


def test_commit_without_a_difference_is_none_and_needs_no_user(
    origin: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(clone(origin, "one"))
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    git(Path(), "config", "user.useConfigOnly", "true")
    branch = RemoteBranch("main")
    assert branch.commit([FILE], "nothing") is None
    assert publish(branch, "changed\n")
    assert git(origin, "log", "-1", "--format=%an", "main") == "cifarflow"


def test_checkout_deletes_what_the_head_does_not_have(origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone(origin, "one"))
    Path("new").write_text("new")
    FILE.write_text("changed")
    RemoteBranch("main").checkout(FILE, Path("new"), Path("never"))
    assert (FILE.read_text(), Path("new").exists()) == ("first\n", False)


@pytest.mark.parametrize("name", ["a..b", "-x", "", "a b"])
def test_branch_with_an_invalid_name_is_rejected(
    origin: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(clone(origin, "one"))
    with pytest.raises(InputError, match="not a name for a Git branch"):
        RemoteBranch(name)


def test_folder_without_a_remote_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    with pytest.raises(InputError, match="remote origin"):
        RemoteBranch("main")


def test_errors_of_git_show_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError) as caught:
        run_git("ls-remote", "http://user:planted-secret@127.0.0.1:9/repository.git")
    assert "127.0.0.1" in str(caught.value)
    assert "planted-secret" not in str(caught.value)
    assert hide_credentials("push to https://token@host/a failed") == "push to https://***@host/a failed"
