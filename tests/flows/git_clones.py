"""For the tests of runs that publish: a bare Git repository, a DVC remote, clones."""

import contextlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tasks.registry.ledger import LEDGER, LedgerEntry, read_ledger
from tests.conftest import ROOT


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass(frozen=True)
class Remotes:
    """What machines share."""

    folder: Path

    @property
    def repository(self) -> Path:
        return self.folder / "origin.git"

    @property
    def url(self) -> str:
        return f"file://{self.repository}"

    @property
    def store(self) -> Path:
        """The DVC remote, where it is a folder."""
        return self.folder / "store"

    @property
    def head(self) -> str:
        return git(self.repository, "rev-parse", "main")

    def clone(self, folder: Path) -> Path:
        """As Prefect's step `git_clone` does."""
        git(self.folder, "clone", "--quiet", "--branch", "main", "--depth", "1", self.url, str(folder))
        return folder

    def read_ledger(self, folder: Path, branch: str = "main") -> list[LedgerEntry]:
        """The ledger at the branch's head, by way of a file in the folder."""
        file, name = folder / "ledger.jsonl", LEDGER.as_posix()
        if not git(self.repository, "ls-tree", branch, name):
            return []
        file.write_text(git(self.repository, "show", f"{branch}:{name}") + "\n")
        return read_ledger(file)


def make_remotes(folder: Path, workspace: Path, store_url: str | None = None) -> Remotes:
    """A bare repository with a copy of the workspace, and a DVC remote with what its dvc.lock names.

    `store_url` is the DVC remote's; without it, that is a folder.
    """
    remotes = Remotes(folder)
    laptop = shutil.copytree(workspace, folder / "laptop")
    shutil.rmtree(laptop / ".git", ignore_errors=True)
    (laptop / ".dvc/config").write_text(
        f"[core]\nremote = store\n['remote \"store\"']\nurl = {store_url or remotes.store}\n"
    )
    shutil.copy(ROOT / ".dvc/.gitignore", laptop / ".dvc")
    shutil.copy(ROOT / ".gitignore", laptop)
    (laptop / "registry").mkdir(exist_ok=True)
    shutil.copy(ROOT / "registry/.gitignore", laptop / "registry")
    git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(remotes.repository))
    git(laptop, "init", "--quiet", "--initial-branch=main")
    git(laptop, "config", "user.name", "T")
    git(laptop, "config", "user.email", "t@example.org")
    git(laptop, "add", "--all")
    git(laptop, "commit", "--quiet", "--message=A remote")
    git(laptop, "remote", "add", "origin", remotes.url)
    git(laptop, "push", "--quiet", "origin", "main")
    from flows.champion.results_branch import push_results  # takes seconds to import

    with contextlib.chdir(laptop):
        push_results()
    return remotes


def find_clones(folder: Path) -> list[Path]:
    """Of the project, anywhere below the folder."""
    return [Path(path) for path, _, names in os.walk(folder) if "dvc.yaml" in names]


def read_objects(repository: Path) -> bytes:
    """All of Git's objects, uncompressed."""
    command = ["git", "cat-file", "--batch-all-objects", "--batch"]
    return subprocess.run(command, cwd=repository, capture_output=True, check=True).stdout


def read_files(folder: Path) -> bytes:
    files = (Path(path, name) for path, _, names in os.walk(folder) for name in names)
    return b"".join(file.read_bytes() for file in files if file.is_file())
