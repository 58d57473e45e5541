"""How often and when a crashed run starts again."""

import datetime as dt

import pytest
from prefect.client.schemas.objects import State, StateType

from flows.run.attempts import find_crashes, find_start
from tasks.workspace.errors import RunError

START = dt.datetime(2026, 3, 29, 0, 30, tzinfo=dt.UTC)  # The clocks change half an hour later.


def at(minutes: int) -> dt.datetime:
    return START + dt.timedelta(minutes=minutes)


def build_history(*names: str) -> list[State]:
    """States, one per minute."""
    types = {"AwaitingRetry": StateType.SCHEDULED, "Suspended": StateType.PAUSED}
    return [
        State(type=types.get(name) or StateType(name.upper()), name=name, timestamp=at(minute))
        for minute, name in enumerate(names)
    ]


def test_run_that_never_crashed_has_no_crashes() -> None:
    assert find_crashes(build_history("Scheduled", "Pending", "Running", "Suspended", "Running")) == []


def test_crashes_are_found_in_their_order_whatever_the_order_of_the_states() -> None:
    history = build_history(
        "Running", "Crashed", "AwaitingRetry", "Running", "Crashed", "AwaitingRetry", "Running"
    )
    assert find_crashes(history[::-1]) == find_crashes(history) == [at(1), at(4)]


def test_crash_that_is_reported_twice_counts_once() -> None:
    history = build_history("Running", "Crashed", "AwaitingRetry", "Pending", "Crashed", "Pending", "Running")
    assert find_crashes(history) == [at(1)]


@pytest.mark.parametrize("end", ["Failed", "Completed", "Cancelled"])
def test_crashes_before_another_end_do_not_count(end: str) -> None:
    """Somebody has started the run again by hand."""
    history = build_history(
        "Running", "Crashed", "Running", end, "AwaitingRetry", "Running", "Crashed", "Running"
    )
    assert find_crashes(history) == [at(6)]


@pytest.mark.parametrize(
    ("crashes", "start"), [([at(5)], at(5)), ([at(5), at(9)], at(19)), ([at(5), at(9), at(20)], at(80))]
)
def test_pause_grows_with_the_crashes(crashes: list[dt.datetime], start: dt.datetime) -> None:
    assert find_start(crashes) == start


def test_fourth_crash_is_the_last() -> None:
    with pytest.raises(RunError) as caught:
        find_start([at(minute) for minute in (5, 9, 20, 40)])
    assert str(caught.value) == (
        "it has crashed 4 times since 2026-03-29 00:35 UTC, and is not started again; "
        "its log and docs/deployment.md say what to look at"
    )
