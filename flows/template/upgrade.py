"""Bring a later version of the code into a project of one's own, by a merge of Git's.

What is the project's is kept as it is: its results, decisions, README and recipes, and the values in its
params.yaml, which only gets the keys that are new. Where both sides changed the same lines of code, Git shows
a conflict, which a person resolves.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.run.lock import workspace_lock
from flows.template.history import commit_template, find_template, read_version
from flows.versions.dvc_repro import change_reason, open_repo, topological_stages
from flows.versions.git import fallback_identity, hide_credentials, run_git
from tasks.overrides import open_yaml
from tasks.params import PARAMS
from tasks.validation import load_yaml
from tasks.workspace.errors import InputError, RunError

OWN = (
    "README.md",
    "data.dvc",
    "dvc.lock",
    "params.yaml",
    "pretrained",
    "recipes",
    "registry",
    "reports",
)
"""what a project has of its own"""
PACKAGES = ("pyproject.toml", "requirements.lock")


def upgrade_project(source: str, ref: str = "") -> str:
    """Merge the version of cifarflow in `source` into the project, which is the current directory.

    `source` is a folder, whose tracked files are taken, or a Git URL, of which `ref` may name a branch or a
    tag. Return lines that say what has changed, which stages will run again and how to undo it. `InputError`
    if the project cannot be upgraded, `RunError` if a person has to resolve conflicts.
    """
    base = find_template(Path())
    with workspace_lock():
        _require_clean()
        before = run_git("rev-parse", "HEAD")
        with _open_source(source, ref) as folder:
            template = commit_template(folder, Path(), fallback_identity(), base)
            version = read_version(folder)
        if template == base:
            return f"up to date: the project has all of cifarflow {version} from {hide_credentials(source)}"
        undo = f"undo: git reset --keep {before[:12]}"
        _merge(base, template, f"Upgrade to cifarflow {version}")
        packages = run_git("diff", "--name-only", base, template, "--", *PACKAGES)
        lines = [f"upgraded to cifarflow {version}: {_count_files(before)}", *_list_stages()]
        lines += ["the packages have changed: make setup"] if "requirements.lock" in packages else []
        return "\n".join([*lines, undo])


def _require_clean() -> None:
    """Raise `InputError` if a file has changed since the last commit."""
    changed = run_git("status", "--porcelain").splitlines()
    if changed:
        more = f" and {len(changed) - 1:,} more" if len(changed) > 1 else ""
        name = changed[0].split(maxsplit=1)[1]
        raise InputError(
            f"{name}{more}: not committed yet; first: git add --all && git commit -m 'Before the upgrade'"
        )


@contextmanager
def _open_source(source: str, ref: str) -> Iterator[Path]:
    """Yield a folder with the files of the source, which is cloned unless it is a folder with them."""
    folder = Path(source)
    if not ref and (folder / PARAMS).is_file():
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory() as temporary:
        branch = ["--branch", ref] if ref else []
        try:
            run_git("clone", "--quiet", "--depth", "1", *branch, "--", source, temporary)
        except RunError as error:
            raise InputError(f"{hide_credentials(source)} cannot be cloned: {error}") from None
        yield Path(temporary)


def _merge(base: str, template: str, message: str) -> None:
    """Merge the commit `template`, but keep what is the project's own. A failure leaves all as it was."""
    try:
        run_git("merge", "--quiet", "--no-ff", "--no-commit", template, env=fallback_identity())
    except RunError:
        if not run_git("rev-parse", "--quiet", "--verify", "MERGE_HEAD", check=False):
            raise
    try:
        _keep_own(base, template)
        conflicts = run_git("diff", "--name-only", "--diff-filter=U").splitlines()
        if not conflicts:
            run_git("commit", "--quiet", "--message", message, env=fallback_identity())
    except BaseException:
        run_git("merge", "--abort")
        raise
    if conflicts:
        raise RunError(
            f"this version and you changed the same lines of {', '.join(conflicts)}; edit them, then: "
            "git add --all && git commit --no-edit; or undo: git merge --abort"
        )


def _keep_own(base: str, template: str) -> None:
    """Restore what the project has changed of its own files, and add new keys to its parameters."""
    changed = run_git("diff", "--name-only", "-z", base, "HEAD", "--", *OWN).split("\0")
    kept = set(run_git("ls-tree", "-r", "--name-only", "-z", "HEAD").split("\0"))
    for name in filter(None, changed):
        if name in kept:
            run_git("checkout", "HEAD", "--", name)
        else:
            run_git("rm", "--quiet", "--force", "--ignore-unmatch", "--", name)
    yaml = open_yaml()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, PARAMS.name)
        file.write_text(run_git("show", f"{template}:{PARAMS}"), encoding="utf-8")
        new = load_yaml(file, yaml)
    run_git("checkout", "HEAD", "--", str(PARAMS))
    own = load_yaml(PARAMS, yaml)
    if adopt_keys(own, new):
        with PARAMS.open("w", encoding="utf-8") as target:
            yaml.dump(own, target)
    run_git("add", "--", str(PARAMS))


def adopt_keys(own: Any, new: Any) -> bool:
    """Give the parameters `own` the keys of `new`, each behind its neighbor; return whether one has changed.

    A value that is there stays; a key that is no parameter any more goes. Both are as ruamel.yaml reads them.
    """
    is_changed = False
    for key in [key for key in own if key not in new]:
        del own[key]
        is_changed = True
    for position, (key, value) in enumerate(new.items()):
        if key not in own:
            own.insert(position, key, value)
            if key in new.ca.items:
                own.ca.items[key] = new.ca.items[key]
            is_changed = True
        elif isinstance(value, Mapping) and isinstance(own[key], Mapping):
            is_changed |= adopt_keys(own[key], value)
    return is_changed


def _count_files(before: str) -> str:
    return run_git("diff", "--shortstat", before, "HEAD").strip()


def _list_stages() -> list[str]:
    """Say which stages DVC will run again, and why."""
    with open_repo() as repo:
        reasons = {stage.name: change_reason(stage) for stage in topological_stages(repo)}
    lines = [f"  {name}: {reason}" for name, reason in reasons.items() if reason]
    if not lines:
        return ["no stage runs again: nothing that it needs has changed"]
    return ["these stages run again, and later ones if what they read changes:", *lines]
