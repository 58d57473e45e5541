"""Filters for Prefect's log."""

import logging


def drop_duplicate_failure(record: logging.LogRecord) -> bool:
    """A logging filter: Prefect reports a failed task twice, the second time with the reason."""
    return not record.getMessage().startswith("Task run failed with state")
