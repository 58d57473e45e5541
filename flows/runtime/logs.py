"""Filters for Prefect's log."""

import logging

from tasks.workspace.errors import RunError


def drop_duplicate_failure(record: logging.LogRecord) -> bool:
    """A logging filter: Prefect reports a failed task twice, the second time with the reason."""
    return not record.getMessage().startswith("Task run failed with state")


def shorten_known_failure(record: logging.LogRecord) -> bool:
    """A logging filter: what a `RunError` says is all there is to say; its traceback is not logged."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, RunError):
        record.msg, record.args = "%s: %s", (record.getMessage(), error)
        record.exc_info = None
    return True
