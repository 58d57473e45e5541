"""Write the page of a comparison, with the commits that Git has between the two models' code."""

from pathlib import Path

from flows.reproduce.record import CODE, DIRTY
from flows.versions.git import run_git
from tasks.decision_pages.changes import CodeChange
from tasks.decision_pages.page import ComparedModels, write_page
from tasks.params import Params
from tasks.registry import ledger
from tasks.registry.ledger import LedgerEntry
from tasks.workspace.errors import RunError


def find_code_change(entry: LedgerEntry, champion: LedgerEntry | None) -> CodeChange:
    """List the commits that changed the code between the champion's commit and the challenger's."""
    commit = entry.provenance.get("commit", "")
    champion_commit = champion.provenance.get("commit", "") if champion else ""
    if not commit or not champion_commit:
        return CodeChange(commit, champion_commit, note="Which commits changed it was not recorded.")
    bounds = f"{champion_commit.removesuffix(DIRTY)}..{commit.removesuffix(DIRTY)}"
    try:
        log = run_git("log", "--format=%h %s", bounds, "--", *CODE)
    except RunError:  # A shallow clone has not all commits, and a rebase may have removed one.
        return CodeChange(commit, champion_commit, note="This clone does not have all commits between them.")
    return CodeChange(commit, champion_commit, log.splitlines(), note="No commit between them changed it.")


def show_comparison(entry: LedgerEntry, models: ComparedModels, params: Params) -> None:
    """Write the page of a comparison. The decision stands already: if that fails, a line says so."""
    try:
        code = find_code_change(entry, models.champion)
        write_page(entry, ledger.read_ledger(), models, code, params.compare.confidence, params.project.name)
    except RunError as error:
        print(f"the page {entry.page} was not written: {error}")


def name_next_page(params: Params) -> str:
    """Return the path of the page of the next decision."""
    return Path(params.paths.decisions).with_name(f"{ledger.next_version()}.html").as_posix()
