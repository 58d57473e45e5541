"""Run Git, as the user has it installed."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.processes import REPOSITORY_VARIABLES
from tasks.workspace.errors import RunError

IDENTITY = ("cifarflow", "cifarflow@localhost")
"""the author of commits on a machine where Git knows no user"""
TIMEOUT_S = 120.0
"""the time for a command of Git, after which a remote that never answers is given up"""
TERMINATION_TIMEOUT_S = 5.0
_TRUST = "git config --global --add safe.directory"
SKIPPED_HOOKS = ("pre-commit", "prepare-commit-msg", "commit-msg", "post-commit")


def run_git(
    *arguments: str, env: dict[str, str] | None = None, check: bool = True, folder: Path | None = None
) -> str:
    """Return Git's output, stripped. `RunError` says why it fails, if `check` is set.

    Git asks nothing: it has neither standard input nor a terminal, so that ssh asks for no password either;
    keys of an agent and credential helpers work. `RunError` if it has not ended after `TIMEOUT_S`.
    """
    code, output, errors = _call_git(arguments, env or {}, folder)
    if check and code:
        raise RunError(f"git {arguments[0]} failed: {_describe_failure(errors, code)}")
    return output.strip()


def _call_git(arguments: tuple[str, ...], env: dict[str, str], folder: Path | None) -> tuple[int, str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in REPOSITORY_VARIABLES}
    # Messages are read in English, and paths are the names of files, not patterns.
    ours = {"GIT_TERMINAL_PROMPT": "0", "GIT_LITERAL_PATHSPECS": "1", "LANGUAGE": "en"}
    if shutil.which("git") is None:
        raise RunError("Git is not installed, or not on the PATH")
    with subprocess.Popen(  # noqa: S603
        ["git", *arguments],  # noqa: S607 - the user's own Git
        env=inherited | ours | env,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogateescape",  # The names of files need not be UTF-8.
        start_new_session=True,  # Git has no terminal, and its children are ended with it.
    ) as process:
        try:
            output, errors = process.communicate(timeout=TIMEOUT_S)
        except BaseException as error:
            _end_session(process)
            if isinstance(error, subprocess.TimeoutExpired):
                text = f"git {arguments[0]} was given up after {TIMEOUT_S:.0f} s without an end"
                raise RunError(text) from None
            raise
    return process.returncode, output, errors


def _end_session(process: subprocess.Popen[str]) -> None:
    """End Git, which removes its lock files first, and what it has started, such as ssh."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(TERMINATION_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _describe_failure(errors: str, code: int) -> str:
    errors = errors.encode(errors="surrogateescape").decode(errors="replace")
    if owned := re.search(r"dubious ownership in repository at '(.+)'", errors):
        return f"another user owns the repository; if you trust it: {_TRUST} {shlex.quote(owned[1])}"
    lines = errors.strip().splitlines() or [f"exit code {code}"]
    reasons = [line.strip() for line in lines if line.lstrip().startswith(("fatal:", "!"))]
    return hide_credentials((reasons or lines)[-1])


@dataclass(frozen=True)
class GitProblem:
    """The reason why nothing can be committed in the workspace."""

    text: str
    fix: str
    """a command"""
    is_refused: bool = False
    """There is a repository, and Git does not use it."""


def find_problem() -> GitProblem | None:
    """Say why nothing can be committed in the workspace; None where Git has commits there."""
    if shutil.which("git") is None:
        return GitProblem("Git is not installed", "apt-get install git")
    code, _, errors = _call_git(("rev-parse", "--git-dir"), {}, None)
    if code and "not a git repository" not in errors:
        reason, _, fix = _describe_failure(errors, code).partition("; if you trust it: ")
        return GitProblem(reason, fix, is_refused=True)
    if code or not run_git("rev-parse", "--quiet", "--verify", "HEAD", check=False):
        return GitProblem("not a Git repository with commits", "git init && git add --all && git commit")
    # The project's own sample lies in such a directory. This command of Git takes no literal paths.
    code, _, _ = _call_git(("check-ignore", "--quiet", "."), {"GIT_LITERAL_PATHSPECS": "0"}, None)
    if code == 0:
        return GitProblem("Git ignores this directory", "git init && git add --all && git commit")
    return None


def has_commits() -> bool:
    """Return whether the workspace is in a Git repository with commits."""
    return find_problem() is None


def hide_credentials(text: str) -> str:
    """Hide what URLs in the text keep secret: what stands before the host, tokens and signatures."""
    text = re.sub(r"://(?:[^\s:/@]+:(?!\d+/)\S*|[^/\s]*)@", "://***@", text)
    return re.sub(
        r"(?i)([?&][^=&\s]*(?:token|key|secret|sig|pass|credential)[^=&\s]*=)[^&\s]+", r"\1***", text
    )


def write_commit(parent: str, files: Iterable[Path], message: str) -> str | None:
    """Write a commit on top of `parent` with the workspace's files; None if `parent` has the same.

    Uses an index of its own: what is staged and what is checked out stay as they are.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        run_git("read-tree", parent, env=index)
        run_git("add", "--force", "--", *(str(file) for file in files if file.exists()), env=index)
        tree = run_git("write-tree", env=index)
    if tree == run_git("rev-parse", f"{parent}^{{tree}}"):
        return None
    if hooks := _find_hooks():
        print(f"Git's hooks for the working tree do not run for this commit: {', '.join(hooks)}")
    return _commit_tree(tree, parent, message)


def try_commit() -> None:
    """Raise `RunError` where Git could write no commit, for example for lack of space or of a key to sign it.

    What it writes belongs to no branch, and Git's next clean-up removes it.
    """
    _commit_tree("HEAD^{tree}", "HEAD", "Nothing: can a commit be written?")


def _commit_tree(tree: str, parent: str, message: str) -> str:
    """Write a commit, signed where `commit.gpgsign` asks for it."""
    sign = run_git("config", "--type=bool", "--get", "commit.gpgsign", check=False) == "true"
    arguments = ("commit-tree", *(["-S"] if sign else []), tree, "-p", parent, "-m", message)
    code, output, errors = _call_git(arguments, fallback_identity(), None)
    if code and sign:
        reason = " ".join(hide_credentials(errors).split())
        raise RunError(f"Git could not sign a commit, as commit.gpgsign asks: {reason:.200}")
    if code:
        raise RunError(f"git commit-tree failed: {_describe_failure(errors, code)}")
    return output.strip()


def _find_hooks() -> list[str]:
    """Return the hooks that `git commit` would run. They may change the working tree."""
    folder = Path(run_git("rev-parse", "--git-path", "hooks"))
    return [name for name in SKIPPED_HOOKS if os.access(folder / name, os.X_OK)]


def fallback_identity(folder: Path | None = None) -> dict[str, str]:
    """Return the variables that name author and committer where Git knows no user in the folder."""
    roles = ("AUTHOR", "COMMITTER")
    if all(run_git("var", f"GIT_{role}_IDENT", check=False, folder=folder) for role in roles):
        return {}
    name, email = IDENTITY
    return {f"GIT_{role}_{key}": value for role in roles for key, value in (("NAME", name), ("EMAIL", email))}
