"""Git, as the user has it installed."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tasks.workspace.errors import RunError

IDENTITY = ("cifarflow", "cifarflow@localhost")
"""of commits on a machine where Git knows no user"""


def run_git(
    *arguments: str, env: dict[str, str] | None = None, check: bool = True, folder: Path | None = None
) -> str:
    """Git's output, stripped. `RunError` with the line that says why if it fails and `check` is set."""
    done = subprocess.run(  # noqa: S603
        ["git", *arguments],  # noqa: S607 - the user's own Git
        env=os.environ | {"GIT_TERMINAL_PROMPT": "0"} | (env or {}),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        reasons = [line.strip() for line in lines if line.lstrip().startswith(("fatal:", "!"))]
        raise RunError(f"git {arguments[0]} failed: {hide_credentials((reasons or lines)[-1])}")
    return done.stdout.strip()


def has_commits() -> bool:
    """Whether the workspace is in a Git repository with commits."""
    return shutil.which("git") is not None and bool(
        run_git("rev-parse", "--quiet", "--verify", "HEAD", check=False)
    )


def hide_credentials(text: str) -> str:
    """The text without what stands before the host in its URLs: a password or a token."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def write_commit(parent: str, files: Iterable[Path], message: str) -> str | None:
    """A commit on top of `parent` with the workspace's files; None where they are what `parent` has.

    Uses an index of its own: what is staged and what is checked out stay as they are.
    """
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        run_git("read-tree", parent, env=index)
        run_git("add", "--force", "--", *(str(file) for file in files if file.exists()), env=index)
        tree = run_git("write-tree", env=index)
    if tree == run_git("rev-parse", f"{parent}^{{tree}}"):
        return None
    return run_git("commit-tree", tree, "-p", parent, "-m", message, env=_identity())


def _identity() -> dict[str, str]:
    if run_git("var", "GIT_COMMITTER_IDENT", check=False):
        return {}
    name, email = IDENTITY
    return {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", name), ("EMAIL", email))
    }
