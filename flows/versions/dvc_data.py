"""Bring the data into the workspace by DVC, and record them in data.dvc."""

from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage import Stage

from flows.versions.dvc_repro import change_reason, forget_graph, raise_failed_transfers, topological_stages
from tasks.dataset.folder import changed_since_recorded, not_recorded
from tasks.workspace.errors import RunError

DATA = "data.dvc"


def require_data(repo: Repo) -> bool:
    """Return whether a stage that reads the data has to run; outputs in the DVC remote need not be made."""
    stage = data_stage(repo)
    paths = {out.fs_path for out in stage.outs} if stage else set()
    readers = [reader for reader in topological_stages(repo) if paths & {dep.fs_path for dep in reader.deps}]
    return not readers or any(change_reason(reader, pull=True) for reader in readers)


def pull_data(repo: Repo) -> bool:
    """Check the tracked data out of DVC's cache or remote.

    Return False if the data are in the workspace already, or are not tracked, or neither cache nor remote has
    them.
    """
    stage = data_stage(repo)
    if stage is None or stage.outs[0].exists:
        return False
    remote = repo.config["core"].get("remote")
    if stage.outs[0].changed_cache():
        if not remote:
            return False
        try:
            repo.fetch([stage.path])
        except DvcException as error:
            print(f"the DVC remote {remote} does not have the data: {str(error).splitlines()[0]}")
            return False
    repo.checkout([stage.path])
    return True


def check_data_recorded(repo: Repo) -> None:
    """Raise `InputError` unless the data are what data.dvc records."""
    stage = data_stage(repo)
    data = Path(DATA).with_suffix("")
    if stage is None:
        raise not_recorded(data)
    if stage.status():
        raise changed_since_recorded(data)


def commit_data(repo: Repo) -> None:
    """Commit the data, verified before, to DVC's cache and data.dvc.

    `RunError` where data.dvc records more files than there are: added images must not vanish silently.
    """
    stage = data_stage(repo)
    if stage is None or not stage.status():
        return
    recorded = stage.outs[0].meta.nfiles or 0
    present = sum(1 for file in Path(stage.outs[0].fspath).rglob("*") if file.is_file())
    if present < recorded:
        raise RunError(
            f"{DATA} records {recorded} files, but only {present} exist; restore the missing ones: "
            f"dvc pull {DATA} && dvc checkout --force {DATA}; or accept the loss: dvc commit --force {DATA}"
        )
    with raise_failed_transfers():
        repo.commit(stage.path, force=True)
    forget_graph(repo)


def data_stage(repo: Repo) -> Stage | None:
    return next((stage for stage in repo.index.stages if stage.path_in_repo == DATA), None)
