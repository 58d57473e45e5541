"""Share results of stages by the DVC remote, with the run cache that finds them again on any machine.

DVC's own `push` and `fetch` of a run cache copy all that it ever recorded, and leave out the outputs that are
not in DVC's cache but in Git (`cache: false`), without which another machine cannot restore a stage. Here a
stage's entries are handled one by one, with all of its outputs.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from dvc.config import NoRemoteError
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage import PipelineStage, Stage
from dvc.stage.cache import _get_cache_hash
from dvc.stage.serialize import to_single_stage_lockfile
from dvc_data.hashfile.hash_info import HashInfo

from flows.versions.git import hide_credentials
from tasks.workspace.errors import InputError, RunError

CLIENTS = {"botocore", "google", "gcsfs", "azure", "asyncssh", "paramiko"}
"""the packages with the clients of DVC's remotes, whose errors DVC passes on"""


def describe_remote_error(error: Exception) -> str | None:
    """Describe the error in one line; None unless the client of a DVC remote raised it."""
    causes = [error, error.__cause__]
    if not any(type(cause).__module__.partition(".")[0] in CLIENTS for cause in causes):
        return None
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return f"the DVC remote cannot be used: {hide_credentials(reason)}"


def require_remote(repo: Repo) -> None:
    """Raise `InputError` where no DVC remote is configured."""
    try:
        repo.cloud.get_remote()
    except NoRemoteError:
        raise InputError(
            "a run that publishes to a branch needs a DVC remote: dvc remote add -d NAME URL, and commit that"
        ) from None


def find_lost_outputs(stage: Stage) -> list[str]:
    """Return the outputs that dvc.lock records, but neither the cache nor the remote has."""
    objects = {out.hash_info: out.def_path for out in stage.outs if out.use_cache and out.hash_info}
    absent = {info for info in objects if not stage.repo.cache.local.exists(info.value)}
    if not absent:
        return []
    missing = stage.repo.cloud.status(absent).missing
    return [objects[info] for info in objects if info in missing]


def fetch_run_cache(stage: PipelineStage) -> None:
    """Copy the remote's run cache entries for the stage, as its dependencies are now, into the cache."""
    repo = stage.repo
    # To save the dependencies of `stage` itself would hide what has changed.
    probe = repo.stage.load_one(name=stage.name)
    try:
        probe.save_deps()
    except DvcException:  # A dependency is missing, so there is no entry.
        return
    remote = repo.cloud.get_remote_odb(None, hash_name="md5-dos2unix")
    key = _hash_run(probe)
    folder = remote.fs.join(remote.path, "runs", key[:2], key)
    if not remote.fs.exists(folder):
        return
    for entry in remote.fs.find(folder):
        target = Path(repo.cache.legacy.path, "runs", key[:2], key, remote.fs.name(entry))
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            remote.fs.get_file(entry, str(target))


def push_stages(repo: Repo, stages: Iterable[PipelineStage]) -> None:
    """Push the stages' outputs, then their run cache entries, as far as the remote does not have them."""
    stages = [stage for stage in stages if all(dep.hash_info for dep in stage.deps)]
    entries = [(key, name) for stage in stages for key, name in _list_run_cache(stage)]
    used = [stage.get_used_objs() for stage in stages] + [repo.stage_cache.get_used_objs(entries)]
    push_objects(repo, {info for each in used for infos in each.values() for info in infos})
    remote = repo.cloud.get_remote_odb(None, hash_name="md5-dos2unix")
    for key, name in entries:
        source = Path(repo.cache.legacy.path, "runs", key[:2], key, name)
        target = remote.fs.join(remote.path, "runs", key[:2], key, name)
        if not remote.fs.exists(target):
            remote.fs.makedirs(remote.fs.parent(target), exist_ok=True)
            remote.fs.put_file(str(source), target)


def push_objects(repo: Repo, objects: Iterable[HashInfo]) -> None:
    """Push those of the objects that are in the cache. `RunError` where the remote does not take them."""
    present = {info for info in objects if repo.cache.local.exists(info.value)}
    logger = logging.getLogger("dvc_data.hashfile.transfer")
    errors: list[str] = []

    def keep_error(record: logging.LogRecord) -> bool:
        if record.exc_info:
            errors.append(str(record.exc_info[1]))
        return not record.exc_info

    logger.addFilter(keep_error)
    try:
        failed = repo.cloud.push(present).failed
    finally:
        logger.removeFilter(keep_error)
    if failed:
        reason = hide_credentials(errors[0].splitlines()[0]) if errors else "no reason given"
        raise RunError(f"the DVC remote did not take {len(failed)} of {len(present)} files: {reason}")


def pull_outputs(repo: Repo, paths: Iterable[str]) -> None:
    """Bring tracked files that the workspace lacks from the cache or the remote."""
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        repo.pull(missing)


def _hash_run(stage: Stage) -> str:
    """Return the key of the run cache: a hash of command, dependencies and the outputs' names."""
    return str(_get_cache_hash(to_single_stage_lockfile(stage), key=True))


def _list_run_cache(stage: PipelineStage) -> list[tuple[str, str]]:
    key = _hash_run(stage)
    folder = Path(stage.repo.cache.legacy.path, "runs", key[:2], key)
    return [(key, entry.name) for entry in folder.glob("*")]
