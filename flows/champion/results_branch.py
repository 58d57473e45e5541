"""Runs in a clone of their own, on any machine, pull what they need, and publish to a Git branch.

Files go to the DVC remote first; then one commit on the branch at the Git remote makes them count. A run that
dies before that has changed nothing for anyone.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.champion.model import find_outcome
from flows.champion.publish import decision_message, name_branch, report_paths, update_decision_pages
from flows.run.flow_run import workspace_task
from flows.run.killed_runs import clear_manifest_environment
from flows.versions.dvc_data import DATA, data_stage
from flows.versions.dvc_remote import pull_outputs, push_objects, push_stages, require_remote
from flows.versions.dvc_repro import open_repo, topological_stages
from flows.versions.git import run_git
from flows.versions.git_branch import RemoteBranch, RemoteUnavailableError
from tasks.overrides import Overrides, write_overrides
from tasks.params import PARAMS, Params, read_params
from tasks.registry import ledger
from tasks.registry.ledger import CHAMPION_DVC_FILE, LEDGER, LedgerEntry
from tasks.workspace.errors import InputError, RunError

LOCK = Path("dvc.lock")
DATA_FILE = Path(DATA)


class PublishBranch(RemoteBranch):
    """A branch with the results of earlier runs, on which this run builds and to which it publishes.

    A run replaces results: dvc.lock, reports, ledger, the champion's pointer. Its overrides it writes into
    the branch's params.yaml as that is then; data.dvc it publishes only if it has added images.
    """

    def __init__(self, name: str, overrides: Overrides | None) -> None:
        super().__init__(name)
        self._overrides = overrides
        self._params = self.hash_blob(PARAMS)
        self._data = ""
        self.num_decisions = 0
        """how many decisions the ledger had when the run started"""

    def checkout_results(self, params: Params) -> None:
        """Bring the branch's results into the workspace."""
        self.fetch()
        if self.head != run_git("rev-parse", "HEAD"):
            results = [LOCK, DATA_FILE, LEDGER, CHAMPION_DVC_FILE, Path(params.paths.decisions).parent]
            self.checkout(*results, *report_paths(params))
        self._data = self.hash_blob(DATA_FILE)
        self.num_decisions = len(ledger.read_ledger())

    def publish(self, files: list[Path], message: str) -> bool | None:
        """Push a commit with the files; False if another commit came first, None if nothing differs."""
        commit = self.commit([*files, *self._changed_sources()], message)
        return None if commit is None else self.push(commit)

    def _changed_sources(self) -> list[Path]:
        changed = []
        if self._overrides is not None:
            if self.hash_blob(PARAMS) != self._params:
                self.checkout(PARAMS)
                write_overrides(PARAMS, self._overrides)
            changed.append(PARAMS)
        ours = run_git("hash-object", f"--path={DATA}", DATA) if DATA_FILE.is_file() else ""
        if ours != self._data:
            if self.hash_blob(DATA_FILE) not in {self._data, ours}:
                raise RunError(
                    f"images were added both by this run and on {self.name}; nothing was published: run again"
                )
            changed.append(DATA_FILE)
        return changed


def open_branch(name: str, overrides: Overrides | None = None) -> PublishBranch:
    """Bring the branch's results into the workspace. Raise an error if the run could not publish later."""
    clear_manifest_environment()
    if run_git("status", "--porcelain", "--untracked-files=no"):
        raise InputError(
            "a run that publishes to a branch works in a clone of its own; this one has uncommitted changes"
        )
    with open_repo() as repo:
        require_remote(repo)
    branch = PublishBranch(name, overrides)
    branch.checkout_results(read_params(PARAMS))
    branch.check_push()
    return branch


def result_files(params: Params) -> list[Path]:
    """List the files in Git that hold the results of the pipeline."""
    return [LOCK, *report_paths(params)]


def pull_models(params: Params) -> None:
    """Bring those outputs of the pipeline into the workspace that a comparison needs."""
    with open_repo() as repo:
        pull_outputs(repo, [params.paths.splits, params.paths.onnx_model, params.paths.int8_model])


def push_stage(name: str) -> None:
    """Push right away what the stage made: if a later one fails, no machine has to run it again."""
    try:
        with open_repo() as repo:
            push_stages(repo, [stage for stage in topological_stages(repo) if stage.name == name])
    except RunError as error:  # The push before publishing tries again.
        print(f"{name} has not been pushed yet: {error}")


def push_results() -> None:
    """Push what the workspace has of data, artifacts and run cache to the DVC remote."""
    with open_repo() as repo:
        push_stages(repo, topological_stages(repo))
        data = data_stage(repo)
        if data is not None and data.outs[0].exists:
            push_objects(repo, {info for infos in data.get_used_objs().values() for info in infos})


def is_retryable(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, RemoteUnavailableError)


@dataclass(frozen=True)
class DecisionSettings:
    """How a retraining takes its decision and publishes it."""

    push: bool
    """whether data, models and the experiment are pushed to the remotes"""
    commit: bool
    """whether the decision and its results are committed to a branch of their own"""
    branch: PublishBranch | None
    """the branch of the Git remote whose ledger counts, if that is not the workspace's own"""
    approve_timeout: dt.timedelta | None
    """how long a person has time to answer before a model is promoted; None if nobody is asked"""


def locate_page(entry: LedgerEntry, settings: DecisionSettings) -> str:
    """Say where a person finds the page of a decision that has been published; empty where there is none."""
    if not Path(entry.page).is_file():
        return ""
    if settings.branch is not None:
        return f"{entry.page} at the commit {settings.branch.head} of the branch {settings.branch.name}"
    branch = name_branch(entry.time[:10])
    commit = settings.commit and run_git("rev-parse", "--quiet", "--verify", branch, check=False)
    if commit:
        return f"{entry.page} at the commit {commit} of the branch {branch}"
    return f"{entry.page} in {Path.cwd()}, in no commit yet"


REMOTE_RETRIES: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [10.0, 60.0],
    "retry_condition_fn": is_retryable,
}
"""the retries of a task that pushes to the Git remote"""


@workspace_task("publish", **REMOTE_RETRIES)
def publish_results(branch: PublishBranch) -> State[Any]:
    """Push a pipeline run's files to the DVC remote, and its dvc.lock and reports to the branch."""
    params = read_params(PARAMS)
    files = result_files(params)
    message = f"Pipeline run\n\nFlow run {flow_run.name}"
    push_results()
    while (published := branch.publish(files, message)) is False:
        print(f"{branch.name} has moved on; publishing on top of it")
    if published is None:
        return Completed(name="Cached", message=f"{branch.name} has these results already")
    return Completed(message=f"pushed to {branch.name}")


def publish_decision(
    branch: PublishBranch,
    files: list[Path],
    decide: Callable[[], LedgerEntry],
    find_accepted: Callable[[list[LedgerEntry]], LedgerEntry | None] | None = None,
) -> LedgerEntry:
    """Decide and push the decision; start anew from the branch's head for as long as another came first.

    `decide` decides from the ledger and the champion's pointer in the workspace, and appends to the ledger
    there. So each decision is made against the champion that stood when it was accepted, and its number is
    the next one. Returned is its entry, or one on the branch that `find_accepted` finds in its stead: by
    default this run's own, which was accepted already where the answer to a push got lost.
    """
    find_accepted = find_accepted or _find_own
    params = read_params(PARAMS)
    while True:
        branch.fetch()
        # Pages of decisions come along: another machine may have written one of the number that ours has.
        branch.checkout(LEDGER, CHAMPION_DVC_FILE, Path(params.paths.decisions).parent)
        entries = ledger.read_ledger()
        accepted = find_accepted(entries)
        if accepted is not None:
            return find_outcome(entries, accepted)
        entry = decide()
        pages = update_decision_pages(params)
        if branch.publish([*files, LEDGER, CHAMPION_DVC_FILE, *pages], decision_message(entry)):
            return entry
        print(f"{branch.name} has moved on; deciding again")


def _find_own(entries: list[LedgerEntry]) -> LedgerEntry | None:
    return next((entry for entry in entries if entry.flow_run_id == str(flow_run.id)), None)
