"""When a flow is due and overdue; all times are passed in."""

import asyncio
import datetime as dt
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tasks.status.run_log import RunRecord
from tasks.status.schedules import Schedule, read_schedules
from tasks.workspace.errors import InputError
from tests.conftest import ROOT

BERLIN = ZoneInfo("Europe/Berlin")
WEEKLY = Schedule("retrain", "retrain", "0 3 * * 1", BERLIN)


def at(text: str) -> dt.datetime:
    """In Berlin's time, unless an offset is given."""
    time = dt.datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=BERLIN)


def run_at(text: str, flow: str = "retrain", state_type: str = "COMPLETED") -> RunRecord:
    utc = at(text).astimezone(dt.UTC).isoformat()
    return RunRecord(flow, "fox", utc, utc, state_type.title(), state_type)


def find_missed(schedule: Schedule, last: str, now: str) -> str:
    missed = schedule.find_missed([run_at(last)], at(now))
    return missed.isoformat() if missed else ""


def test_active_schedules_that_run_here_are_read() -> None:
    assert read_schedules(ROOT / "prefect.yaml") == [WEEKLY]


def test_run_is_missed_after_an_hour_of_grace() -> None:
    assert WEEKLY.find_next(at("2026-11-30T03:00")) == at("2026-12-07T03:00")
    assert find_missed(WEEKLY, "2026-11-23T03:00:02", "2026-11-30T03:59:59") == ""
    assert find_missed(WEEKLY, "2026-11-23T03:00:02", "2026-11-30T04:00:00") == "2026-11-30T03:00:00+01:00"
    assert find_missed(WEEKLY, "2026-11-30T03:00:02", "2026-12-07T03:59") == ""
    assert find_missed(WEEKLY, "2026-11-30T02:57", "2026-12-07T03:59") == "", "the clocks differ a little"


@pytest.mark.parametrize(
    ("runs", "is_missed"),
    [
        ([], False),
        ([run_at("2026-11-23T03:00"), run_at("2026-11-30T03:00", "pipeline")], True),
        ([run_at("2026-11-23T03:00"), run_at("2026-11-30T03:00", state_type="CANCELLED")], True),
        ([run_at("2026-11-23T03:00"), run_at("2026-11-30T03:00", state_type="FAILED")], False),
        ([run_at("2026-11-30T03:00", state_type="CANCELLED")], False),
    ],
)
def test_only_runs_of_the_flow_that_were_not_called_off_count(runs: list[RunRecord], is_missed: bool) -> None:
    assert (WEEKLY.find_missed(runs, at("2026-12-01T12:00")) is not None) == is_missed


def test_schedule_keeps_its_hour_when_the_clocks_change() -> None:
    for change in ("2026-03-30", "2026-10-26"):  # the Mondays after
        due = at(f"{change}T03:00")
        assert WEEKLY.find_next(due - dt.timedelta(days=2)) == due
        before = (due - dt.timedelta(days=7)).isoformat()
        assert find_missed(WEEKLY, before, f"{change}T03:30") == ""
        assert find_missed(WEEKLY, before, f"{change}T04:00") == due.isoformat()


def test_hour_that_does_not_exist_is_due_at_its_end() -> None:
    daily = Schedule("retrain", "retrain", "30 2 * * *", BERLIN)
    missed = find_missed(daily, "2026-03-28T02:30", "2026-03-29T12:00")
    assert missed == "2026-03-29T03:00:00+02:00"
    assert find_missed(daily, "2026-03-29T03:30", "2026-03-29T12:00") == ""


@pytest.mark.parametrize("cron", ["30 2 * * *", "0 3 * * *", "0 3 * * 0", "59 1 * * *", "0 */6 * * *"])
@pytest.mark.parametrize("change", ["2026-03-29", "2026-10-25"])
def test_what_prefect_starts_around_a_change_of_the_clocks_is_not_missed(cron: str, change: str) -> None:
    """Each of its runs is the one that was due, and without it, something is missed."""
    from prefect.server.schemas.schedules import CronSchedule

    own = Schedule("retrain", "retrain", cron, BERLIN)
    first = at(f"{change}T00:00") - dt.timedelta(days=1)
    theirs = CronSchedule(cron=cron, timezone="Europe/Berlin")
    texts = [start.isoformat() for start in asyncio.run(theirs.get_dates(8, first))]
    starts = [dt.datetime.fromisoformat(text).astimezone(dt.UTC) for text in texts]
    for before, start in pairwise(starts):
        looked_at = start + dt.timedelta(hours=2, minutes=59)
        assert own.find_missed([run_at(start.isoformat())], looked_at) is None, start
        assert own.find_missed([run_at(before.isoformat())], looked_at) is not None, start


def test_hour_that_comes_twice_is_due_once() -> None:
    daily = Schedule("retrain", "retrain", "30 2 * * *", BERLIN)
    for first in ("2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"):
        assert find_missed(daily, first, "2026-10-25T12:00") == ""
    assert find_missed(daily, "2026-10-24T02:30", "2026-10-25T12:00") == "2026-10-25T02:30:00+02:00"


@pytest.mark.parametrize("days", [1, 365])
def test_clock_that_was_set_back_makes_nothing_overdue(days: int) -> None:
    now = at("2026-12-02T12:00") - dt.timedelta(days=days)
    assert WEEKLY.find_missed([run_at("2026-11-30T03:00")], now) is None


def test_leap_day() -> None:
    leap = Schedule("retrain", "retrain", "0 3 29 2 *", BERLIN)
    assert leap.find_next(at("2027-01-01T00:00")) == at("2028-02-29T03:00")
    assert find_missed(leap, "2024-02-29T03:00", "2028-02-28T12:00") == ""
    assert find_missed(leap, "2024-02-29T03:00", "2028-03-01T12:00") == "2028-02-29T03:00:00+01:00"
    yearly = dt.timedelta(days=366)
    assert find_missed(WEEKLY, "2028-02-21T03:00", "2028-02-29T03:00") == "2028-02-28T03:00:00+01:00"
    assert at("2028-02-29T03:00") + yearly == at("2029-03-01T03:00")


def test_machine_that_slept_over_its_schedule_is_late_once_it_wakes() -> None:
    assert find_missed(WEEKLY, "2026-11-09T03:00", "2026-11-29T20:00") == "2026-11-23T03:00:00+01:00"
    assert find_missed(WEEKLY, "2026-11-29T20:01", "2026-11-29T23:00") == "", "it has made up for it"


def test_interval_is_counted_from_the_last_run() -> None:
    hourly = Schedule("watch", "watch", interval=dt.timedelta(hours=1))
    assert hourly.find_next(at("2026-11-30T03:00")) is None
    runs = [run_at("2026-11-30T03:00", "watch")]
    assert hourly.find_missed(runs, at("2026-11-30T05:00")) is None
    assert hourly.find_missed(runs, at("2026-11-30T05:00:01")) == at("2026-11-30T04:00")


DEPLOYMENT = "deployments:\n- name: a\n  entrypoint: flows/a_b.py:a_b\n  schedules:\n  - "


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("cron: 0 3 * *", "deployment a: the schedule is wrong: Wrong number of fields"),
        ("{cron: 0 3 * * 1, timezone: Europe/Nowhere}", "deployment a: the schedule is wrong: .*Nowhere"),
        ("interval: soon", "deployment a: the schedule is wrong: could not convert"),
        ("3", "is not a list of deployments"),
    ],
)
def test_wrong_schedule_is_one_line(tmp_path: Path, schedule: str, message: str) -> None:
    (tmp_path / "prefect.yaml").write_text(f"{DEPLOYMENT}{schedule}\n")
    with pytest.raises(InputError, match=rf"prefect\.yaml.*{message}[^\n]*$"):
        read_schedules(tmp_path / "prefect.yaml")


def test_schedule_without_a_time_zone_is_in_utc_and_one_alone_is_read(tmp_path: Path) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text(DEPLOYMENT.replace("schedules:\n  - ", "schedule:\n    ") + "interval: 300\n")
    (schedule,) = read_schedules(file)
    assert (schedule.flow, schedule.interval) == ("a-b", dt.timedelta(minutes=5))
    file.write_text(f"{DEPLOYMENT}cron: 0 3 * * *\n")
    (schedule,) = read_schedules(file)
    assert schedule.find_next(at("2026-11-30T03:00")) == at("2026-11-30T03:00:00+00:00")
    assert read_schedules(tmp_path / "none.yaml") == []
