"""Commits of the template's files in a project's history say where the project comes from.

They are the ancestors that Git needs to merge a later version of the files with what the project has changed.
"""

import os
import tempfile
import tomllib
from pathlib import Path

from flows.versions.git import run_git
from tasks.workspace.errors import InputError, RunError

NOT_COPIED = (
    "CHANGELOG.md",
    "README.md",
    "SECURITY.md",
    "data.dvc",
    "docs/images",
    "dvc.lock",
    "registry",
    "reports",
)
"""What is about this project itself, and no part of the template."""
KEPT = "registry/.gitignore"
"""what is part of it all the same: it keeps the models, which DVC stores, out of Git"""
LICENSE, TEMPLATE_LICENSE = "LICENSE", "LICENSE-cifarflow"
"""The code's license gets a name of its own: what a project is licensed as is for its owner to say."""
TRAILER = "Template: cifarflow"
"""the beginning of the last line of the messages of these commits"""


def list_template(source: Path) -> list[str]:
    """List the files that Git tracks in the folder `source`, but for what is about that project itself.

    `InputError` where it holds no project, `RunError` where it is no Git checkout.
    """
    if not all((source / name).is_file() for name in ("params.yaml", "flows/cli/main.py")):
        raise InputError(f"{source} is no checkout of cifarflow with its code and its params.yaml")
    try:
        listed = run_git("ls-files", "-z", folder=source)
    except RunError as error:
        raise RunError(f"{source} is no Git checkout of cifarflow: {error}") from None
    excluded = [*NOT_COPIED, *([LICENSE] if (source / TEMPLATE_LICENSE).exists() else [])]
    return [
        name
        for name in filter(None, listed.split("\0"))
        if (name == KEPT or not any(name == each or name.startswith(f"{each}/") for each in excluded))
        and (source / name).is_file()
    ]


def commit_template(source: Path, project: Path, env: dict[str, str], parent: str = "") -> str:
    """Write a commit of the template in `source` into the repository of `project`, and return its hash.

    It belongs to no branch. Where `parent` has the same files, that is returned. `env` names the author if
    Git knows none.
    """
    files = list_template(source)
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder, "names")
        names.write_bytes(b"\0".join(os.fsencode(name) for name in files))
        index = {
            "GIT_DIR": run_git("rev-parse", "--absolute-git-dir", folder=project),
            "GIT_WORK_TREE": str(source),
            "GIT_INDEX_FILE": str(Path(folder, "index")),
        }
        run_git(
            "add",
            "--force",
            f"--pathspec-from-file={names}",
            "--pathspec-file-nul",
            env=index,
            folder=source,
        )
        if LICENSE in files:
            mode, blob, _ = run_git("ls-files", "--stage", LICENSE, env=index, folder=source).split(
                maxsplit=2
            )
            entry = f"{mode},{blob},{TEMPLATE_LICENSE}"
            run_git("update-index", "--force-remove", LICENSE, env=index, folder=source)
            run_git("update-index", "--add", "--cacheinfo", entry, env=index, folder=source)
        tree = run_git("write-tree", env=index, folder=source)
    if parent and tree == run_git("rev-parse", f"{parent}^{{tree}}", folder=project):
        return parent
    version = read_version(source)
    commit = run_git("rev-parse", "--short=12", "HEAD", check=False, folder=source)
    message = (
        f"cifarflow {version}\n\nThe files that the project is made from.\n\n{TRAILER} {version} {commit}"
    )
    parents = ["-p", parent] if parent else []
    return run_git("commit-tree", tree, *parents, "-m", message, env=env, folder=project)


def find_template(project: Path) -> str:
    """Return the hash of the last commit of the template in the project's history.

    `InputError` where there is none: the project was made by a version that kept no such history.
    """
    pattern = f"--grep=^{TRAILER} "
    commit = run_git("log", "-1", "--format=%H", pattern, "HEAD", check=False, folder=project)
    if not commit:
        raise InputError(
            "this project's history does not say which version it was made from, so it cannot be upgraded; "
            "make a new one with `cifarflow new`, and copy your changes"
        )
    return commit


def read_version(source: Path) -> str:
    """Return the version of cifarflow in the folder `source`."""
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])
