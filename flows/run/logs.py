"""Filters for Prefect's log: a failure that is known is one line, and a lost server is one, too."""

import logging

import httpx

from tasks.workspace.errors import RunError


def filter_prefect_logs() -> None:
    """Install the filters. A second call changes nothing."""
    for logger, log_filter in (
        ("prefect.task_runs", drop_duplicate_failure),
        ("prefect.flow_runs", drop_known_traceback),
        ("prefect.events.clients", warn_once),
        ("prefect._internal.concurrency", drop_undelivered_event),
    ):
        logging.getLogger(logger).addFilter(log_filter)
    # While its server is lost, Prefect prints to standard error for every batch of log lines otherwise.
    logging.raiseExceptions = False


def drop_duplicate_failure(record: logging.LogRecord) -> bool:
    """Drop the first of two lines about a failed task: the second one has the reason."""
    return not record.getMessage().startswith("Task run failed with state")


def drop_known_traceback(record: logging.LogRecord) -> bool:
    """Drop what the final state has said already, and the traceback of a lost connection."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, httpx.HTTPError):
        record.exc_info = None
    return not isinstance(error, RunError)


_warned: set[str] = set()


def warn_once(record: logging.LogRecord) -> bool:
    """Drop a record whose message, whatever its arguments, has come before."""
    is_new = record.msg not in _warned
    _warned.add(record.msg)
    return is_new


def drop_undelivered_event(record: logging.LogRecord) -> bool:
    """Drop the full text of an event that cannot be sent: Prefect's client warns of it as well."""
    return "failed to process item" not in record.msg
