"""The flow `watch` emits the events on which the triggers in prefect.yaml start a retraining."""

import contextlib
import hashlib
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.runtime import deployment
from prefect.states import Completed
from prefect.variables import Variable

from flows.champion.publish import REPORTS_DIR
from flows.parameters import WatchParameters
from flows.run.flow_run import workspace_flow
from flows.run.logs import filter_prefect_logs
from flows.versions.dvc_data import DATA
from flows.versions.git import has_commits, run_git
from flows.versions.git_branch import RemoteBranch
from tasks.incoming.pending import list_pending
from tasks.params import PARAMS, read_params
from tasks.registry.ledger import LEDGER

LOCK = "dvc.lock"
NO_SOURCES = (DATA, LOCK, REPORTS_DIR, str(LEDGER.parent))
"""what is no source: what retrainings commit, and data.dvc, which has an event of its own"""


@dataclass(frozen=True)
class Snapshot:
    """What a look at the project sees. The next look compares with it."""

    images: int
    """how many images wait to be ingested; in what is saved, for how many of them an event was emitted"""
    data: str
    """the MD5 of the data in data.dvc; empty if there is none"""
    sources: str
    """a hash of the files in Git at the branch's head, without `NO_SOURCES`; empty without Git"""


@workspace_flow("watch")
def watch(parameters: WatchParameters) -> State[Any]:
    """Emit an event for what has changed since the last look: images waiting, data.dvc, the branch.

    The first look emits none for data.dvc and the branch. A Prefect variable keeps what the last one saw.
    """
    filter_prefect_logs()
    branch, min_images = parameters.branch, parameters.min_images
    variable = f"cifarflow_{deployment.name or 'watch'}"
    saved: Any = Variable.get(variable)
    with contextlib.chdir(parameters.workspace):
        head = _fetch_head(branch)
        lock = _read(LOCK, head if branch else "")
        now = Snapshot(
            images=len(list_pending(Path(read_params(PARAMS).ingest.folder))),
            data=_find_md5(_read(DATA, head if branch else "")),
            sources=_hash_sources(head),
        )
    last = Snapshot(**saved) if saved else replace(now, images=0)
    emitted = []
    announced = min(last.images, now.images)  # If fewer images wait, the others were ingested.
    if now.images - announced >= min_images:
        announced = now.images
        emitted.append(_emit("images.waiting", count=now.images))
    if now.data != last.data and now.data not in lock:  # A retraining that adds images trains on them itself.
        emitted.append(_emit("data.changed", md5=now.data, before=last.data))
    if now.sources != last.sources:
        emitted.append(_emit("branch.moved", head=head))
    Variable.set(variable, asdict(replace(now, images=announced)), overwrite=True)
    if not emitted:
        return Completed(name="Skipped", message="nothing has changed since the last look")
    return Completed(message=f"emitted: {', '.join(emitted)}")


def _emit(name: str, **payload: Any) -> str:
    event = f"cifarflow.{name}"
    emit_event(event, {"prefect.resource.id": event.rpartition(".")[0]}, payload=payload)
    return event


def _fetch_head(branch: str | None) -> str:
    """Return the commit at the remote branch's head, or the one that is checked out; empty without Git."""
    if branch:
        remote = RemoteBranch(branch)
        remote.fetch()
        return remote.head
    return run_git("rev-parse", "HEAD") if has_commits() else ""


def _read(file: str, commit: str) -> str:
    """Return the file's content at the commit, or in the workspace; empty if it is not there."""
    if commit:
        return run_git("show", f"{commit}:{file}", check=False)
    return Path(file).read_text(encoding="utf-8") if Path(file).is_file() else ""


def _find_md5(dvc_file: str) -> str:
    match = re.search(r"\bmd5: (\w+\.dir)", dvc_file)
    return match[1] if match else ""


def _hash_sources(commit: str) -> str:
    """Hash the tree at the commit, not its history, so that a clone of one commit is enough."""
    if not commit:
        return ""
    files = run_git("ls-tree", "-r", commit).splitlines()
    sources = [file for file in files if file.partition("\t")[2].split("/")[0] not in NO_SOURCES]
    return hashlib.sha256("\n".join(sources).encode()).hexdigest()
