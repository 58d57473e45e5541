"""Read the schedules of prefect.yaml: when a flow is due, and whether it should have run by now.

The server may have other schedules, or may have paused these. What stands in the file is what the project
promises, and can be read where no server runs.
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from tasks.status.run_log import RunRecord
from tasks.validation import load_yaml
from tasks.workspace.errors import InputError

DEPLOYMENTS = Path("prefect.yaml")
GRACE = dt.timedelta(hours=1)
"""how late a run may start; a worker may be busy, or its machine may start late"""
TOLERANCE = dt.timedelta(minutes=5)
"""how far the clocks of server and workspace may differ"""
SKIPPED = dt.timedelta(hours=1)
"""how far the clocks go forward in spring"""


@dataclass(frozen=True)
class Schedule:
    """A schedule of a deployment that runs in this directory."""

    deployment: str
    flow: str
    cron: str = ""
    timezone: dt.tzinfo = dt.UTC
    interval: dt.timedelta | None = None

    def __str__(self) -> str:
        if self.interval is not None:
            return f"every {self.interval}"
        return f"{self.cron} ({self.timezone})"

    def find_next(self, now: dt.datetime) -> dt.datetime | None:
        """Return the next time at which the flow is due; None where only the server knows it."""
        if self.interval is not None:
            return None
        return next(CronSim(self.cron, now.astimezone(self.timezone)), None)

    def find_missed(self, runs: Sequence[RunRecord], now: dt.datetime) -> dt.datetime | None:
        """Return the time at which the flow was due and did not start; None if it did, or is not late yet.

        A run that was called off, for example since another one held the lock, is none. Where no run was ever
        recorded, none is expected: the schedule may be served elsewhere, or not at all.
        """
        own = [run for run in runs if run.flow == self.flow and run.state_type != "CANCELLED"]
        if not own:
            return None
        last = own[-1].start_time
        if self.interval is not None:
            due = last + self.interval
            return due if due + GRACE < now else None
        # CronSim returns what lies before the given time, to the second.
        latest = (now - GRACE + dt.timedelta(seconds=1)).astimezone(self.timezone)
        missed = next(CronSim(self.cron, latest, reverse=True), None)
        return missed if missed is not None and not started_since(last, missed) else None


def started_since(start: dt.datetime, due: dt.datetime) -> bool:
    """Return whether a run that began at `start` is the one that was due, or a later one.

    Where the clocks go forward from 2:00 to 3:00, there is no 2:30. A run of that time is due at 3:00 for
    CronSim, and Prefect starts it at 1:30. So the skipped hour counts as a difference between clocks.
    """
    exact = due.astimezone(dt.UTC)  # In local time, 2:55 may not exist before 3:00.
    before = (exact - 2 * SKIPPED).astimezone(due.tzinfo)
    skipped = (due.utcoffset() or dt.timedelta()) - (before.utcoffset() or dt.timedelta())
    return start >= exact - TOLERANCE - min(max(skipped, dt.timedelta()), SKIPPED)


def read_schedules(file: Path = DEPLOYMENTS) -> list[Schedule]:
    """Return the active schedules of deployments that run here; `InputError` where one is wrong.

    A deployment with a `pull` of its own runs elsewhere, in a clone, so its runs are not recorded here.
    """
    if not file.is_file():
        return []
    schedules: list[Schedule] = []
    try:
        for deployment in load_yaml(file)["deployments"]:
            if "pull" not in deployment:
                schedules += _parse_schedules(deployment, file)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is not a list of deployments: {error!r}") from None
    return schedules


def _parse_schedules(deployment: dict[str, Any], file: Path) -> Iterator[Schedule]:
    name, flow = str(deployment["name"]), str(deployment["entrypoint"]).rpartition(":")[2]
    own = [deployment["schedule"]] if deployment.get("schedule") else deployment.get("schedules") or []
    for schedule in own:
        if not schedule.get("active", True):
            continue
        try:
            if "cron" in schedule:
                timezone = ZoneInfo(schedule.get("timezone") or "UTC")
                found = Schedule(name, flow.replace("_", "-"), str(schedule["cron"]), timezone)
                CronSim(found.cron, dt.datetime.now(dt.UTC))
            elif "interval" in schedule:
                interval = dt.timedelta(seconds=float(schedule["interval"]))
                found = Schedule(name, flow.replace("_", "-"), interval=interval)
            else:
                continue  # Prefect's rrule is not evaluated here.
        except (CronSimError, ZoneInfoNotFoundError, ValueError, OverflowError) as error:
            raise InputError(f"{file}, deployment {name}: the schedule is wrong: {error}") from None
        yield found
