import logging
import sys

import httpx
import pytest

from flows.run.logs import (
    drop_duplicate_failure,
    drop_known_traceback,
    drop_undelivered_event,
    warn_once,
)
from tasks.workspace.errors import InputError


def make_record(message: str, error: Exception | None = None) -> logging.LogRecord:
    exc_info = None
    if error is not None:
        try:
            raise error
        except type(error):
            exc_info = sys.exc_info()
    return logging.LogRecord("prefect", logging.ERROR, "", 0, message, None, exc_info)


def test_drop_duplicate_failure_drops_only_the_duplicate() -> None:
    assert not drop_duplicate_failure(make_record("Task run failed with state Failed('x')"))
    assert drop_duplicate_failure(make_record("Finished in state Failed('x')"))


def test_drop_known_traceback_keeps_those_of_unknown_errors() -> None:
    assert not drop_known_traceback(make_record("x", InputError("known")))
    unknown = make_record("x", KeyError("unknown"))
    assert drop_known_traceback(unknown)
    assert unknown.exc_info is not None


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ReadTimeout("hung")])
def test_drop_known_traceback_of_a_lost_connection_keeps_the_line(error: Exception) -> None:
    record = make_record("lost", error)
    assert drop_known_traceback(record)
    assert record.exc_info is None


def test_warn_once_lets_each_message_pass_once() -> None:
    assert [warn_once(make_record(message)) for message in ("one", "one", "two")] == [True, False, True]


def test_drop_undelivered_event_drops_only_those() -> None:
    assert not drop_undelivered_event(make_record("Service %r failed to process item %r"))
    assert drop_undelivered_event(make_record("Service %r failed"))
