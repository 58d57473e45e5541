"""What counts as a look when the clock is wrong; all times are passed in."""

import datetime as dt

import pytest

from tasks.registry.significance import allocate_look

MONDAY = dt.datetime(2028, 2, 28, 2, tzinfo=dt.UTC)
WEEK = dt.timedelta(days=7)


@pytest.mark.parametrize("days", [1, 365])
def test_clock_that_is_set_back_gains_no_error(days: int) -> None:
    """Looks that a wrong clock puts into the future count, then and when the clock is right again."""
    weekly = [MONDAY - WEEK * i for i in range(10)]
    right = allocate_look(weekly, MONDAY + WEEK, 0.95)
    wrong_now = MONDAY + WEEK - dt.timedelta(days=days)
    wrong = allocate_look(weekly, wrong_now, 0.95)
    assert wrong.number == right.number == 11
    assert wrong.error <= right.error
    assert wrong.error_spent <= 0.05
    again = allocate_look([*weekly, wrong_now], MONDAY + 2 * WEEK, 0.95)
    assert again.error_spent <= 0.05
    assert again.number == 12 - (days == 365), "the ledger says a year ago, so that look has had its year"


def test_clock_that_is_set_forward_loses_looks_of_the_year_but_no_error() -> None:
    weekly = [MONDAY - WEEK * i for i in range(10)]
    ahead = MONDAY + dt.timedelta(days=400)
    assert allocate_look(weekly, ahead, 0.95).number == 1
    after = allocate_look([*weekly, ahead], MONDAY + WEEK, 0.95)
    assert after.number == 12
    assert after.error_spent <= 0.05


def test_a_year_of_looks_has_365_days_in_a_leap_year_as_well() -> None:
    leap_day = dt.datetime(2028, 2, 29, 2, tzinfo=dt.UTC)
    first = leap_day - dt.timedelta(days=365)
    assert first == dt.datetime(2027, 3, 1, 2, tzinfo=dt.UTC)
    assert allocate_look([first], leap_day, 0.95).number == 1
    assert allocate_look([first], leap_day - dt.timedelta(seconds=1), 0.95).number == 2


def test_time_zone_of_a_look_does_not_matter() -> None:
    """Ledgers that were merged may have times of machines with other offsets."""
    summer = dt.timezone(dt.timedelta(hours=2))
    looks = [MONDAY - WEEK, MONDAY - 2 * WEEK]
    assert allocate_look([look.astimezone(summer) for look in looks], MONDAY, 0.95) == allocate_look(
        looks, MONDAY, 0.95
    )
