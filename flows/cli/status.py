"""The command `cifarflow status` shows the state of the project. It asks no server and loads no PyTorch."""

import datetime as dt
import json
import sys

import click

from flows.cli.project import enter_project
from flows.run.lock import read_lock
from tasks.status.status import Running, Status, find_too_old, parse_age, read_status
from tasks.workspace.errors import RunError


@click.command()
@click.option(
    "--max-age",
    metavar="AGE",
    help="Exit with 1 unless a retraining has ended well within AGE, such as 36h or 8d.",
)
@click.option("--check", is_flag=True, help="Exit with 1 if there is something to look at.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(*, max_age: str | None, check: bool, as_json: bool) -> int:
    """Show champion, runs, decisions, questions, disk and schedule, and what is overdue, without a server.

    The same stands in reports/status.html. Schedules are those of prefect.yaml.

    \b
    Examples:
      cifarflow status
      cifarflow status --max-age 8d || mail -s "no retraining" ada@example.org
    """
    age = parse_age(max_age) if max_age is not None else None
    enter_project()
    lock, now = read_lock(), dt.datetime.now(dt.UTC)
    running = Running(lock.holder, lock.since) if lock.is_held and lock.since else None
    found = read_status(now, running, killed=lock.holder if lock.killed else "")
    too_old = find_too_old(found.runs, now, age) if age is not None else ""
    if too_old:
        found.problems.append(too_old)
    _show(found, as_json=as_json)
    return 1 if too_old or (check and found.problems) else 0


def _show(found: Status, *, as_json: bool) -> None:
    """Print the status and write its page; where that cannot be written, a line says so."""
    from tasks.status.show import format_rows, write_status_page

    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        for subject, text in format_rows(found):
            print(f"{subject:<9} {text}")
    try:
        write_status_page(found)
    except RunError as error:
        print(error, file=sys.stderr)
