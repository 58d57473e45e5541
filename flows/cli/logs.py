"""What Prefect logs, less what says nothing."""

import logging


def drop_duplicate_failure(record: logging.LogRecord) -> bool:
    """Prefect reports a task that ends in a failed state twice; the state's own line says what was wrong."""
    return not record.getMessage().startswith("Task run failed with state")
