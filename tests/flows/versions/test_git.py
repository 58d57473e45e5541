"""Git as the project calls it: it asks nothing, it ends, and it means the repository of the folder."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import flows.versions.git
from flows.versions.git import GitProblem, find_problem, hide_credentials, run_git, try_commit, write_commit
from tasks.workspace.errors import RunError
from tests.conftest import ROOT
from tests.flows.git_clones import git

FILE = Path("file")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, which is the current folder; nothing of the user's configuration."""
    folder = tmp_path / "repository"
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(folder))
    for key, value in (("user.name", "T"), ("user.email", "t@example.org")):
        git(folder, "config", key, value)
    (folder / FILE).write_text("first\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=first")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def silent_server() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    "url", ["git://127.0.0.1:{port}/repository.git", "http://127.0.0.1:{port}/repository.git", "fd::0"]
)
def test_remote_that_never_answers_is_given_up(
    url: str, silent_server: int, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows.versions.git, "TIMEOUT_S", 1.0)
    with pytest.raises(RunError, match=r"^git ls-remote was given up after 1 s without an end$"):
        run_git("ls-remote", url.format(port=silent_server))
    assert not [child for child in psutil.Process().children(recursive=True) if "git" in child.name()]


ON_A_TERMINAL = """
import os, pty, sys
child, terminal = pty.fork()
if not child:
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
os.write(terminal, b"a line\\n")
try:
    while text := os.read(terminal, 1000):
        os.write(1, text)
except OSError:  # the terminal is closed
    os.waitpid(child, 0)
"""
ASK = """
from flows.versions.git import run_git
try:
    run_git("ls-remote", "ssh://host/repository")
except Exception as error:
    print(type(error).__name__, error)
"""


def test_git_has_neither_standard_input_nor_a_terminal(repository: Path, tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f"#!/bin/sh\n: < /dev/tty && touch {tmp_path}/asked\nexec >&2; echo fatal: ssh ran; exit 1\n"
    )
    ssh.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", ON_A_TERMINAL, ASK],
        env=os.environ | {"PYTHONPATH": str(ROOT), "GIT_SSH": str(ssh)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "RunError git ls-remote failed: fatal: Could not read" in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "asked").exists()


def test_variables_that_name_another_repository_mislead_nobody(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    git(tmp_path, "init", "--quiet", str(other))
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / "index"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other / ".git/objects"))
    monkeypatch.setenv("GIT_GLOB_PATHSPECS", "1")
    assert find_problem() is None
    FILE.write_text("second\n")
    commit = write_commit("HEAD", [FILE], "second")
    assert run_git("ls-tree", "--name-only", str(commit)) == "file"
    assert not (other / "index").exists()
    assert list((other / ".git/objects").rglob("??/*")) == []


def test_files_are_names_not_patterns(repository: Path) -> None:
    for name in ("*", "a", ":(top)b", "größe"):
        Path(name).write_text(name)
    commit = write_commit("HEAD", [Path("*"), Path(":(top)b"), Path("größe")], "odd")
    assert run_git("ls-tree", "-z", "--name-only", str(commit)).split("\0")[:-1] == [
        "*",
        ":(top)b",
        "file",
        "größe",
    ]


def test_name_that_is_not_utf8_is_read(repository: Path) -> None:
    Path(os.fsdecode(b"caf\xe9")).touch()
    git(repository, "add", "--all")
    assert os.fsdecode(b"caf\xe9") in run_git("ls-files", "-z").split("\0")
    with pytest.raises(RunError, match="pathspec 'x�' did not match"):
        run_git("add", os.fsdecode(b"x\xe9"))


@pytest.fixture
def signing_key(repository: Path, tmp_path: Path) -> Path:
    """An SSH key with which the repository's commits are to be signed."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh-keygen")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (tmp_path / "signers").write_text(f"t@example.org {key.with_suffix('.pub').read_text()}")
    for name, value in {
        "commit.gpgsign": "true",
        "gpg.format": "ssh",
        "user.signingkey": str(key.with_suffix(".pub")),
        "gpg.ssh.allowedSignersFile": str(tmp_path / "signers"),
    }.items():
        git(repository, "config", name, value)
    return key


def test_commit_is_signed_where_git_is_configured_so(signing_key: Path) -> None:
    FILE.write_text("second\n")
    commit = write_commit("HEAD", [FILE], "second")
    assert run_git("log", "-1", "--format=%G?", str(commit)) == "G"


def test_commit_that_cannot_be_signed_says_why(signing_key: Path) -> None:
    signing_key.unlink()
    with pytest.raises(RunError, match=r"could not sign a commit, as commit.gpgsign asks: .*key") as caught:
        try_commit()
    assert len(str(caught.value).splitlines()) == 1


def test_hooks_that_do_not_run_are_named(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pre-commit", "commit-msg", "post-commit"):
        hook = Path(".git/hooks", name)
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch ran-{name}\nexit 1\n")
        hook.chmod(0o755 if name != "post-commit" else 0o644)
    FILE.write_text("second\n")
    assert write_commit("HEAD", [FILE], "second")
    assert capsys.readouterr().out == (
        "Git's hooks for the working tree do not run for this commit: pre-commit, commit-msg\n"
    )
    assert not list(Path().glob("ran-*"))


def test_repository_of_another_user_is_a_problem_with_its_remedy(repository: Path, other_uid: int) -> None:
    for path in (repository, *repository.rglob("*")):
        os.chown(path, other_uid, other_uid)
    fix = f"git config --global --add safe.directory {repository}"
    assert find_problem() == GitProblem("another user owns the repository", fix, is_refused=True)
    with pytest.raises(RunError, match="rev-parse failed: another user owns the repository; if you trust it"):
        run_git("rev-parse", "HEAD")


def test_folder_that_its_repository_ignores_is_a_problem(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in it can be committed: the sample lies in such a folder of the project."""
    (repository / ".gitignore").write_text("/sample\n")
    (repository / "sample").mkdir()
    assert find_problem() is None
    monkeypatch.chdir(repository / "sample")
    problem = find_problem()
    assert problem is not None
    assert problem.text == "Git ignores this directory"
    run_git("init", "--quiet")
    identity = ("-c", "user.name=T", "-c", "user.email=t@example.org")
    git(repository / "sample", *identity, "commit", "--quiet", "--allow-empty", "--message=own")
    assert find_problem() is None


def test_folder_without_commits_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        problem = find_problem()
        assert problem is not None
        assert (problem.text, problem.is_refused) == ("not a Git repository with commits", False)
        run_git("init", "--quiet")
    monkeypatch.setenv("PATH", str(tmp_path))
    problem = find_problem()
    assert problem is not None
    assert problem.text == "Git is not installed"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:pa/ss@host/a", "https://***@host/a"),
        ("https://user:p@a/ss@host/a", "https://***@host/a"),
        ("https://token@host/a", "https://***@host/a"),
        ("https://host:8080/a?x=1&access_token=abc&y=2", "https://host:8080/a?x=1&access_token=***&y=2"),
        ("https://host/a?X-Amz-Signature=abc", "https://host/a?X-Amz-Signature=***"),
        ("https://host:8080/a@v1, git@host:a", "https://host:8080/a@v1, git@host:a"),
    ],
)
def test_credentials_in_urls_are_hidden(text: str, shown: str) -> None:
    assert hide_credentials(text) == shown
