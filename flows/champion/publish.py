"""Publish a retraining by an event, pages, a DVC experiment, pushes and a commit on a branch."""

import contextlib
import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dvc.config import NoRemoteError
from dvc.exceptions import DvcException
from dvc.scm import SCMError
from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event

from flows.run import markdown
from flows.run.lineage import record_champion
from flows.versions.dvc_data import DATA
from flows.versions.dvc_repro import load_repo, open_repo
from flows.versions.git import find_problem, hide_credentials, run_git, try_commit, write_commit
from tasks.decision_pages.index import list_pages, write_index
from tasks.params import PARAMS, Params
from tasks.registry.ledger import CHAMPION_DVC_FILE, LEDGER, LedgerEntry
from tasks.registry.wandb_champion import alias_champion
from tasks.workspace.errors import InputError, RunError, describe_os_error, escape_unprintable
from tasks.workspace.files import atomic_write

if TYPE_CHECKING:
    from tasks.drift.check import DriftCheck  # This import is slow, since it brings SciPy's statistics.

MODEL_RESOURCE_ID = "cifarflow.model.image-classifier"
DATA_RESOURCE_ID = "cifarflow.data.images"
REPORTS_DIR = "reports"
NO_REMOTE = "no DVC remote to push to; add one: dvc remote add -d NAME URL"


def show_decision(entry: LedgerEntry, params: Params) -> None:
    """Show the decision where people look: on its page, at Prefect and in W&B.

    The decision stands already. Prefect gets an artifact, an event and the lineage.
    """
    update_decision_pages(params)
    page = entry.page if Path(entry.page).is_file() else ""
    create_markdown_artifact(markdown.decision_markdown(entry, page), key="decision")
    _emit_decision_event(entry)
    if entry.is_promotion:
        record_champion(entry, params.paths.onnx_model)
        alias_champion(entry.model_md5, params.tracking)


def update_decision_pages(params: Params) -> list[Path]:
    """Renew the pages of decisions from the ledger and return their paths. If that fails, a line says so."""
    try:
        return write_index(params.paths)
    except RunError as error:
        print(f"the pages of decisions are not up to date: {error}")
    return [Path(params.paths.decisions)]


def _emit_decision_event(entry: LedgerEntry) -> None:
    """Emit `cifarflow.model.DECISION`, with the ledger's word for the decision, for automations to act on."""
    emit_event(
        event=f"cifarflow.model.{entry.decision}",
        resource={"prefect.resource.id": MODEL_RESOURCE_ID, "prefect.resource.name": "image classifier"},
        related=[
            {
                "prefect.resource.id": f"prefect.flow-run.{entry.flow_run_id}",
                "prefect.resource.role": "flow-run",
            }
        ],
        payload={
            "version": entry.version,
            "reason": entry.reason,
            "model_md5": entry.model_md5,
            "evidence": dict(entry.evidence),
        },
    )


def emit_drift_event(check: "DriftCheck", flow: str) -> None:
    """Emit `cifarflow.data.drifted`. Labels of its resource name the kinds of shift, and who noticed."""
    emit_event(
        event="cifarflow.data.drifted",
        resource={
            "prefect.resource.id": DATA_RESOURCE_ID,
            "prefect.resource.name": escape_unprintable(str(check.source)),
            "cifarflow.shift": " ".join(test.shift for test in check.result.shifts),
            "cifarflow.flow": flow,
        },
        payload=check.as_dict(),
    )


def save_experiment(entry: LedgerEntry, params: Params, *, push: bool, commit: bool) -> None:
    """Save the run as a DVC experiment that is named after the flow run; commit and push if asked for.

    The decision stands already. Each step is tried even if another fails; `RunError` then names the failures.
    """
    errors = []
    saved = False
    if problem := find_problem():
        print(f"{problem.text}: skipping the DVC experiment")
        if commit:
            errors.append(f"cannot commit: {problem.text}")
    else:
        try:
            files = [LEDGER, CHAMPION_DVC_FILE, *list_pages(params.paths)]
            # DVC itself locks the repository, here and in a push.
            with _preserve_git_index(), load_repo() as repo:
                repo.experiments.save(
                    name=entry.flow_run_name,
                    force=True,
                    include_untracked=[str(file) for file in files if file.is_file()],
                )
            saved = True
        except OSError as error:
            errors.append(f"the DVC experiment could not be saved: {describe_os_error(error)}")
        except (DvcException, SCMError, RunError) as error:
            errors.append(f"the DVC experiment could not be saved: {error}")
        if commit:
            try:
                print(f"committed to the branch {commit_to_branch(entry, params)}")
            except RunError as error:
                errors.append(str(error))
    if push:
        errors += _push(entry, experiment=saved)
    if errors:
        raise RunError(f"{entry.decision} ({entry.reason}), but " + "; ".join(errors))


def _push(entry: LedgerEntry, *, experiment: bool) -> list[str]:
    """Push to the DVC remote, and the experiment to the Git remote; return what failed."""
    errors = []
    try:
        with load_repo() as repo:
            print(f"pushed {repo.push()} files to the DVC remote")
        if experiment:
            _push_experiment(entry.flow_run_name)
    except NoRemoteError:
        errors.append(NO_REMOTE)
    except (DvcException, SCMError, OSError) as error:
        errors.append(f"the push failed: {hide_credentials(str(error).splitlines()[0])}")
    except RunError as error:
        errors.append(f"the push failed: {error}")
    return errors


def _push_experiment(name: str) -> None:
    """Push the experiment's Git reference to the first Git remote, if there is one."""
    remotes = run_git("remote").splitlines()
    if not remotes:
        return
    references = run_git("for-each-ref", "--format=%(refname)", "refs/exps").splitlines()
    own = [reference for reference in references if reference.endswith(f"/{name}")]
    run_git("push", "--quiet", remotes[0], *own)
    print(f"pushed the experiment {name} to {remotes[0]}")


def check_publish(*, push: bool, commit: bool) -> None:
    """Raise `InputError` where the run could not push or commit its decision at its end."""
    if push:
        with open_repo() as repo:
            try:
                repo.cloud.get_remote()
            except NoRemoteError:
                raise InputError(NO_REMOTE) from None
    problem = find_problem()
    if problem and not commit:
        print(f"{problem.text}: there will be no DVC experiment")
    elif problem:
        raise InputError(f"cannot commit: {problem.text}; to change that: {problem.fix}")
    elif commit:
        _require_other_branch(name_branch(dt.datetime.now(dt.UTC).date().isoformat()))
        try_commit()


def commit_to_branch(entry: LedgerEntry, params: Params) -> str:
    """Commit ledger, lock and reports to `retrain/DATE`, on top of it or of HEAD; return the branch's name.

    The user's staged changes and the branch that is checked out stay as they are.
    """
    branch = name_branch(entry.time[:10])
    _require_other_branch(branch)
    ref = f"refs/heads/{branch}"
    files = [LEDGER, CHAMPION_DVC_FILE, PARAMS, Path("dvc.lock"), Path(DATA), *report_paths(params)]
    files += list_pages(params.paths)
    parent = run_git("rev-parse", "--quiet", "--verify", ref, check=False) or run_git("rev-parse", "HEAD")
    commit = write_commit(parent, files, decision_message(entry))
    if commit is not None:
        run_git("update-ref", ref, commit)
    return branch


def name_branch(date: str) -> str:
    """Return the branch for the decisions of a day."""
    return f"retrain/{date}"


def _require_other_branch(branch: str) -> None:
    if run_git("symbolic-ref", "--quiet", "--short", "HEAD", check=False) == branch:
        raise RunError(f"the branch {branch} is checked out; refusing to commit to it")


def decision_message(entry: LedgerEntry) -> str:
    """Write the message of the commit that holds a decision."""
    return f"Retrain: {entry.decision}\n\n{entry.reason}\nFlow run {entry.flow_run_name}"


def report_paths(params: Params) -> list[Path]:
    """List what the stages write to reports/. No stage writes the pages of decisions."""
    paths = [Path(path) for name, path in params.paths if name != "decisions"]
    return [path for path in paths if path.is_relative_to(REPORTS_DIR)]


@contextlib.contextmanager
def _preserve_git_index() -> Iterator[None]:
    """Restore the Git index afterwards: saving a DVC experiment unstages what the user has staged."""
    index = Path(run_git("rev-parse", "--git-path", "index"))
    before = index.read_bytes() if index.is_file() else None
    try:
        yield
    finally:
        if before is not None:
            with atomic_write(index) as temp_path:
                temp_path.write_bytes(before)
