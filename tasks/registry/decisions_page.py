"""Write the page of all decisions, `reports/decisions/index.html`.

It is written after each decision. It is no output of a stage, so that a decision makes no stage run again.
"""

import os
from pathlib import Path

from tasks.params import Paths
from tasks.registry.ledger import (
    current_champion,
    describe_detectable_gain,
    describe_test,
    read_ledger,
)
from tasks.reporting.page import render_page
from tasks.workspace.files import write_text

TEMPLATE = Path(__file__).with_name("decisions.html")


def write_decisions_page(paths: Paths) -> None:
    """Write the page from the ledger. `RunError` if the ledger is corrupt or the page cannot be written."""
    entries = read_ledger()
    page = Path(paths.decisions)
    values = {
        "decisions": entries[::-1],
        "champion": current_champion(entries),
        "describe_test": describe_test,
        "describe_detectable_gain": describe_detectable_gain,
        "report": Path(os.path.relpath(paths.page, page.parent)).as_posix(),
    }
    write_text(page, render_page(values, TEMPLATE))
