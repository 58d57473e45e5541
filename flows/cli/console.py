"""What a person at a terminal sees while Prefect is at work: its lines, shortened, and what is under way."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

# The default lines begin with 60 characters that say the same each time. Whoever sets these is left alone.
PREFECT_ENV = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s | %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s | %(task_run_name)-9s | %(message)s",
    # Not how its temporary server starts and stops.
    "PREFECT_LOGGING_LOGGERS_PREFECT_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
    # Nothing is reported to anyone unless asked for; a server of one's own has its own settings.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


@contextmanager
def prefect_console() -> Iterator[Callable[[str], None]]:
    """Import Prefect and run flows inside: on a terminal a line below the log says what is under way.

    Gives the function that changes that line; the pipeline's stages change it themselves. Prefect takes its
    settings when it is imported, and the stream of its log with them.
    """
    for name, value in PREFECT_ENV.items():
        os.environ.setdefault(name, value)
    console = Console(stderr=True)
    if not console.is_terminal:
        print("starting Prefect", flush=True)
        yield lambda _: None
        return
    with console.status("starting Prefect, some 10 s") as status:
        shown = _StatusHandler(status)
        stages = logging.getLogger("cifarflow.status")  # flows/runtime/flow_run.py
        stages.setLevel(logging.INFO)
        stages.propagate = False
        stages.addHandler(shown)
        try:
            yield status.update
        finally:
            stages.removeHandler(shown)


class _StatusHandler(logging.Handler):
    """Shows the last message as what is under way."""

    def __init__(self, status: Status) -> None:
        super().__init__()
        self.status = status

    def emit(self, record: logging.LogRecord) -> None:
        self.status.update(record.getMessage())
