"""Git, as the user has it installed."""

import os
import subprocess
from pathlib import Path

from tasks.workspace.errors import RunError


def run_git(
    *arguments: str, env: dict[str, str] | None = None, check: bool = True, folder: Path | None = None
) -> str:
    """Git's output, stripped. `RunError` with the last line of its errors if it fails and `check` is set."""
    done = subprocess.run(  # noqa: S603
        ["git", *arguments],  # noqa: S607 - the user's own Git
        env=os.environ | (env or {}),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise RunError(f"git {arguments[0]} failed: {reason}")
    return done.stdout.strip()
