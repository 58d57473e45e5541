"""Show on the page of a comparison what became of the model: promoted, rejected, approved, rolled back.

The rest of such a page is written once, by the machine that compares. What became of the model stands between
two markers, so that any machine can renew it from the ledger, without the models and the images.
"""

import datetime as dt
import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from tasks.decision_pages.summary import describe_result
from tasks.registry.earlier_models import find_rollback
from tasks.registry.ledger import LedgerEntry, current_champion, parse_time
from tasks.registry.questions import deadline
from tasks.reporting.page import render_page
from tasks.workspace.files import write_text

TEMPLATE = Path(__file__).with_name("outcome.html")
END = Markup("<!-- end of the outcome -->")
PAGE_NAME = re.compile(r"[0-9]+\.html")


def begin_marker(model_md5: str) -> Markup:
    """Return the marker before the outcome. It names the model, so that a page is known by its model."""
    return Markup("<!-- outcome of the model {} -->").format(model_md5)


def find_page(entry: LedgerEntry, index: Path) -> Path | None:
    """Return the file of the entry's page, beside `index`; None where there is none.

    After a merge of two branches, a file may show another decision of the same number, which is no page of
    this entry.
    """
    file = index.parent / Path(entry.page).name
    if Path(entry.page) != file or not PAGE_NAME.fullmatch(file.name) or not file.is_file():
        return None
    is_own = begin_marker(entry.model_md5) in file.read_text(encoding="utf-8", errors="replace")
    return file if is_own else None


def renew_outcome(file: Path, entries: list[LedgerEntry], model_md5: str) -> None:
    """Write anew what became of the model on its page, where that has changed. `RunError` if it cannot."""
    html = file.read_text(encoding="utf-8", errors="replace")
    begin = begin_marker(model_md5)
    before, _, rest = html.partition(begin)
    after = rest.partition(END)[2]
    renewed = f"{before}{begin}\n{render_outcome(entries, file, model_md5)}{END}{after}"
    if renewed != html:
        write_text(file, renewed)


def render_outcome(entries: list[LedgerEntry], page: Path, model_md5: str) -> Markup:
    """Render what the ledger says about the comparison that the page shows, the oldest entry first."""
    own = [entry for entry in entries if Path(entry.page) == page and entry.model_md5 == model_md5]
    rollback = find_rollback(entries, own[0])
    values = {
        "first": own[0],
        "later": own[1:],
        "rollback": rollback,
        "status": describe_status(own, rollback),
        "result": describe_result(own[0], current_champion(entries[: entries.index(own[0])])),
        "format_time": format_time,
        "deadline": deadline,
    }
    return Markup(render_page(values, TEMPLATE))  # noqa: S704 - The template escapes all values.


def describe_status(own: Sequence[LedgerEntry], rollback: LedgerEntry | None) -> str:
    """Say in a word or two what has become of the model, by the entries about its comparison."""
    if rollback is not None and own[-1].is_promotion:
        return "Rolled back"
    words = {
        "promoted": "Promoted",
        "rejected": "Rejected",
        "rolled_back": "Promoted again",
        "overridden": "Promoted by a person",
        "pending_approval": "Waiting for an answer",
    }
    return words[own[-1].decision]


def format_time(time: dt.datetime | str, entry: LedgerEntry) -> str:
    """Write a time in UTC, to the minute."""
    parsed = parse_time(time, entry) if isinstance(time, str) else time
    return f"{parsed.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC"
