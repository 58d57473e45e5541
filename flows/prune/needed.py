"""Find the hashes that have to stay: of decisions, of their data, and of what branches and tags name.

A decision is kept if its model may serve again or be asked about: all promotions, since a rollback may return
to any of them, open questions, and the last models whatever was decided. The ledgers of all branches count.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dvc.repo import Repo
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flows.reproduce.record import read_data_file
from flows.versions.dvc_data import DATA
from flows.versions.git import has_commits, run_git
from tasks.registry.ledger import LEDGER, LedgerEntry, parse_content, read_ledger
from tasks.registry.questions import find_open_questions
from tasks.workspace.errors import InputError, RunError

FETCHED = "refs/cifarflow/prune"
"""where branches and tags of Git's remotes stand while they are read, apart from the user's own"""
LOCK = "dvc.lock"
MD5 = re.compile(r"\bmd5: ([0-9a-f]{32}(?:\.dir)?)\b")


@dataclass(frozen=True)
class Needed:
    """What has to stay."""

    hashes: set[str]
    """MD5s of files and, with `.dir`, of folders, whose files have to stay as well"""
    keep_folders: bool
    """whether all folders stay, since nothing says which data a kept decision was made from"""
    decisions: int
    """number of the decisions that are kept"""


def fetch_refs() -> None:
    """Fetch all branches and tags of all Git remotes; `RunError` where one cannot be reached."""
    remotes = run_git("remote").splitlines() if has_commits() else []
    if not remotes:
        raise InputError(
            "there is no Git remote, so nobody knows which branches need what is in the DVC remote; "
            "add it: git remote add origin URL"
        )
    for remote in remotes:
        refs = [f"+refs/{kind}/*:{FETCHED}/{remote}/{kind}/*" for kind in ("heads", "tags")]
        run_git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--prune", remote, *refs)


def forget_fetched_refs() -> None:
    """Remove the references of `fetch_refs`."""
    for ref in run_git("for-each-ref", "--format=%(refname)", FETCHED, check=False).splitlines():
        run_git("update-ref", "-d", ref, check=False)


def find_needed(repo: Repo, num_models: int) -> Needed:
    """Return what has to stay. `RunError` where a branch, a tag or a ledger cannot be read."""
    commits = _list_commits()
    used = repo.used_objs(revs=commits) if commits else repo.used_objs()
    hashes = {str(info.value) for infos in used.values() for info in infos}
    locks = [Path(LOCK).read_text(encoding="utf-8")] if Path(LOCK).is_file() else []
    decisions = _select_decisions(read_ledger(), num_models)
    for commit in commits:
        locks.append(run_git("show", f"{commit}:{LOCK}", check=False))
        if text := run_git("show", f"{commit}:{LEDGER.as_posix()}", check=False):
            decisions += _select_decisions(
                parse_content(text.encode(errors="surrogateescape")).entries, num_models
            )
    models = {md5 for entry in decisions for md5 in (entry.model_md5, entry.int8_md5) if md5}
    recorded = {entry.model_md5: find_hashes([read_data_file(entry)]) for entry in decisions}
    data = {model: found for model, found in recorded.items() if found}
    data |= _find_data({entry.model_md5 for entry in decisions} - data.keys())
    is_unknown = any(entry.model_md5 not in data for entry in decisions)
    hashes |= find_hashes(locks)  # DVC names outputs alone, but what they were made from has to stay as well.
    return Needed(hashes.union(models, *data.values()), is_unknown, len(models))


def _list_commits() -> list[str]:
    """Return the commits of all branches and tags, also of those at the remotes."""
    if not has_commits():
        return []
    kinds = ("--branches", "--tags", "--remotes", f"--glob={FETCHED}/*")
    return run_git("rev-list", "--no-walk", *kinds).splitlines()


def _select_decisions(entries: list[LedgerEntry], num_models: int) -> list[LedgerEntry]:
    last = entries[-num_models:] if num_models else []
    promotions = [entry for entry in entries if entry.is_promotion]
    return [*promotions, *find_open_questions(entries), *last]


def _find_data(models: set[str]) -> dict[str, set[str]]:
    """Return the hashes of the data from which models of earlier versions were made, by the model's hash.

    They stand in each dvc.lock that names the model: of the workspace, and in Git, where each retraining is
    also an experiment.
    """
    texts = [Path(LOCK).read_text(encoding="utf-8")] if Path(LOCK).is_file() else []
    if has_commits():
        log = run_git("log", "--all", "-m", "--raw", "--no-abbrev", "--format=", "--", LOCK)
        blobs = {line.split()[3] for line in log.splitlines() if line.startswith(":")}
        texts += [run_git("cat-file", "blob", blob) for blob in blobs if blob.strip("0")]
    found: dict[str, set[str]] = {}
    for text in texts:
        made = models.intersection(MD5.findall(text))
        data = _read_data_hashes(text) if made else set()
        for model in made:
            found.setdefault(model, set()).update(data)
    return {model: data for model, data in found.items() if data}


def _read_data_hashes(text: str) -> set[str]:
    try:
        stages = YAML(typ="safe").load(text)["stages"].values()
        deps = [dep for stage in stages for dep in stage.get("deps", [])]
        return {str(dep["md5"]) for dep in deps if dep["path"] == DATA.removesuffix(".dvc")}
    except (YAMLError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"a {LOCK} in Git cannot be read: {error!r}") from None


def find_hashes(texts: Iterable[str]) -> set[str]:
    """Return the hashes that entries of DVC's run cache name."""
    return {md5 for text in texts for md5 in MD5.findall(text)}
