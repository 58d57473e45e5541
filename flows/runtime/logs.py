"""Filters for Prefect's log."""

import logging

from tasks.workspace.errors import RunError


def drop_duplicate_failure(record: logging.LogRecord) -> bool:
    """A logging filter: Prefect reports a failed task twice, the second time with the reason."""
    return not record.getMessage().startswith("Task run failed with state")


def drop_known_traceback(record: logging.LogRecord) -> bool:
    """A logging filter: the final state, logged before, has said what a `RunError` says."""
    return not (record.exc_info and isinstance(record.exc_info[1], RunError))
