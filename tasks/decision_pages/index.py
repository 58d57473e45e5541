"""Write the page of all decisions, `reports/decisions/index.html`, and renew the pages that it links to.

It is written after each decision. It is no output of a stage, so that a decision makes no stage run again.
"""

import os
from pathlib import Path

from tasks.decision_pages.outcome import find_page, renew_outcome
from tasks.params import Paths
from tasks.registry.ledger import current_champion, describe_detectable_gain, describe_test, read_ledger
from tasks.reporting.page import render_page
from tasks.workspace.files import write_text

TEMPLATE = Path(__file__).with_name("index.html")


def list_pages(paths: Paths) -> list[Path]:
    """Return the page of all decisions and the pages that it links to, without renewing them."""
    index = Path(paths.decisions)
    pages = dict.fromkeys(find_page(entry, index) for entry in read_ledger())
    return [index, *(page for page in pages if page)]


def write_index(paths: Paths) -> list[Path]:
    """Write the page of all decisions from the ledger, and what became of each model on its own page.

    Return the pages. `RunError` if the ledger is corrupt or a page cannot be written.
    """
    entries = read_ledger()
    index = Path(paths.decisions)
    pages = {entry.version: find_page(entry, index) for entry in entries}
    values = {
        "decisions": entries[::-1],
        "pages": pages,
        "champion": current_champion(entries),
        "describe_test": describe_test,
        "describe_detectable_gain": describe_detectable_gain,
        "report": Path(os.path.relpath(paths.page, index.parent)).as_posix(),
    }
    write_text(index, render_page(values, TEMPLATE))
    found = {page: entry.model_md5 for entry in entries if (page := pages[entry.version])}
    for page, model_md5 in found.items():
        renew_outcome(page, entries, model_md5)
    return [index, *found]
