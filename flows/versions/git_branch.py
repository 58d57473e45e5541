"""Push to a branch at the Git remote what runs on any machine made and decided.

The branch's head is the truth. A commit is made on top of the head that was fetched, and the remote accepts
it only if that still is its head (compare-and-swap): of several runs that push at once one succeeds, and the
others fetch and start anew from what is there. There is no other lock between machines.
"""

from collections.abc import Iterable
from pathlib import Path

from flows.versions.git import run_git, write_commit
from tasks.workspace.errors import InputError, RunError

REMOTE = "origin"


class RemoteUnavailableError(RunError):
    """The remote could not be reached; another attempt may succeed."""


class RemoteBranch:
    """A branch at the remote from which the workspace was cloned.

    Where the remote does not have it yet, the first push creates it on top of the commit that is checked out.
    """

    def __init__(self, name: str) -> None:
        if not run_git("check-ref-format", "--branch", name, check=False):
            raise InputError(f"{name!r} is not a name for a Git branch")
        if not run_git("remote", "get-url", REMOTE, check=False):
            raise InputError(
                f"a branch to publish to needs a clone with the Git remote {REMOTE}; {Path.cwd()} has none"
            )
        self.name = name
        self._ref = f"refs/heads/{name}"
        self.head = run_git("rev-parse", "HEAD")
        """the head at the remote when it was last asked"""

    def fetch(self) -> None:
        """Ask the remote for the branch's head."""
        try:
            listed = run_git("ls-remote", REMOTE, self._ref)
            if not listed:
                self.head = run_git("rev-parse", "HEAD")
                return
            tracking = f"refs/remotes/{REMOTE}/{self.name}"
            run_git("fetch", "--quiet", "--no-tags", REMOTE, f"+{self._ref}:{tracking}")
        except RunError as error:
            raise RemoteUnavailableError(str(error)) from error
        self.head = run_git("rev-parse", tracking)

    def checkout(self, *files: Path) -> None:
        """Make the workspace's files those of the head; what it does not have is deleted."""
        known = run_git("ls-tree", "-r", "-z", "--name-only", self.head, "--", *map(str, files)).split("\0")
        for file in files:
            if any(Path(name).is_relative_to(file) for name in known):
                run_git("restore", f"--source={self.head}", "--worktree", "--", str(file))
            elif file.is_file():
                file.unlink()

    def hash_blob(self, file: Path) -> str:
        """Return Git's hash of the file's content at the head; empty where it has no such file."""
        return run_git("rev-parse", "--quiet", "--verify", f"{self.head}:{file.as_posix()}", check=False)

    def commit(self, files: Iterable[Path], message: str) -> str | None:
        """Write a commit on top of the head with the workspace's files; None where nothing differs."""
        return write_commit(self.head, files, message)

    def check_push(self) -> None:
        """Raise `RunError` where nothing could be pushed, for lack of a permission for example."""
        self._push("--dry-run", self.head)

    def push(self, commit: str) -> bool:
        """Make the commit the branch's head; return False if the remote's head is another by now.

        `RunError` where the remote refuses it for another reason.
        """
        expected = self.head
        try:
            self._push(commit)
        except RunError:
            self.fetch()
            if self.head == expected:
                raise
            return False
        self.head = commit
        return True

    def _push(self, *arguments: str) -> None:
        *options, commit = arguments
        try:
            run_git("push", "--quiet", *options, REMOTE, f"{commit}:{self._ref}")
        except RunError as error:
            problem = f"the Git remote did not accept a push to {self.name}: {error}"
            raise (RunError if "! [" in str(error) else RemoteUnavailableError)(problem) from error
