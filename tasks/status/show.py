"""Show a status on one screen, and on the page `reports/status.html`."""

from pathlib import Path

from tasks.registry.ledger import LedgerEntry, parse_time
from tasks.registry.questions import deadline
from tasks.reporting.page import render_page
from tasks.status.run_log import RunRecord
from tasks.status.status import Size, Status, describe_age
from tasks.workspace.errors import escape_unprintable
from tasks.workspace.files import write_text

PAGE = "status.html"
"""file name of the page, which is written beside the report"""
TEMPLATE = Path(__file__).with_name("page.html")
MAX_WIDTH = 100
"""characters of a run's message and of a decision's reason that a line shows"""

Row = tuple[str, str]


def format_rows(status: Status) -> list[Row]:
    """Return the lines of the status, each with the subject that it is about."""
    now = status.time
    rows: list[Row] = [("champion", _describe_champion(status))]
    if status.running is not None:
        age = describe_age(now - status.running.since)
        rows.append(("running", f"{status.running.holder}, since {age}"))
    rows += [("run", _describe_run(run)) for run in reversed(status.recent_runs())]
    if not status.runs:
        rows.append(("run", "none is recorded yet"))
    rows += [("decision", _describe_decision(entry)) for entry in reversed(status.decisions[-3:])]
    for question in status.questions:
        until = f"{deadline(question):%Y-%m-%d %H:%M} UTC"
        rows.append(("question", f"version {question.version}, open until {until}: {question.reason}"))
    rows.append(("images", f"{status.waiting_images:,} wait to be ingested"))
    if status.drift is not None:
        rows.append(("drift", f"{status.drift['time'][:10]}, {status.drift['summary']}"))
    sizes = [f"{name} {_describe_size(size)}" for name, size in status.sizes.items()]
    rows.append(("disk", ", ".join([f"{status.free_bytes / 1e9:.1f} GB free", *sizes])))
    for schedule in status.schedules:
        due = schedule.find_next(now)
        following = f", next {due:%a %Y-%m-%d %H:%M %Z}" if due else ""
        rows.append(("schedule", f"{schedule.flow}: {schedule}{following}"))
    rows += [("problem", problem) for problem in status.problems]
    return [(subject, _shorten(text) if subject != "problem" else _clean(text)) for subject, text in rows]


def write_status_page(status: Status) -> Path:
    """Write the page beside the report, and return its path. `RunError` if it cannot be written."""
    page = status.report.with_name(PAGE)
    values = {
        "rows": [row for row in format_rows(status) if row[0] != "problem"],
        "problems": [_clean(problem) for problem in status.problems],
        "report": status.report.name,
        "time": f"{status.time:%Y-%m-%d %H:%M} UTC",
    }
    write_text(page, render_page(values, TEMPLATE))
    return page


def _describe_champion(status: Status) -> str:
    champion = status.champion
    if champion is None:
        return "none has been promoted yet"
    age = describe_age(status.time - parse_time(champion.time, champion))
    return f"version {champion.version} ({champion.model_md5[:8]}), {champion.decision} {age} ago"


def _describe_run(run: RunRecord) -> str:
    message = f": {run.message}" if run.message else ""
    return f"{run.end_time:%Y-%m-%d %H:%M} UTC {run.flow} {run.run} {run.state}{message}"


def _describe_decision(entry: LedgerEntry) -> str:
    time = f"{parse_time(entry.time, entry):%Y-%m-%d %H:%M} UTC"
    return f"{time} version {entry.version} {entry.decision}: {entry.reason}"


def _describe_size(size: Size) -> str:
    at_least = "" if size.is_complete else "more than "
    return f"{at_least}{size.size_bytes / 1e9:.1f} GB"


def _clean(text: str) -> str:
    return escape_unprintable(" ".join(text.split()))


def _shorten(text: str) -> str:
    text = _clean(text)
    return text if len(text) <= MAX_WIDTH else f"{text[: MAX_WIDTH - 1]}…"
