"""What a terminal shows of a run: Prefect's log, shortened, and a status line."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

# Prefect's default lines begin with 60 constant characters. Existing settings are not overridden.
PREFECT_ENV = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s | %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s | %(task_run_name)-9s | %(message)s",
    # Without the start and stop of its temporary server.
    "PREFECT_LOGGING_LOGGERS_PREFECT_LEVEL": "WARNING",
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
    # automations.yaml declares a run without three of these crashed; Prefect's own default is 180.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # No telemetry unless asked for; a server that the user runs has its own settings.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


@contextmanager
def prefect_console() -> Iterator[Callable[[str], None]]:
    """Import Prefect and run flows inside this context; on a terminal a status line stands below the log.

    Yields the function that sets the status; the pipeline's stages set it themselves. Prefect reads its
    settings, and the stream it logs to, when it is imported.
    """
    for name, value in PREFECT_ENV.items():
        os.environ.setdefault(name, value)
    console = Console(stderr=True)
    if not console.is_terminal:
        print("starting Prefect", flush=True)
        yield lambda _: None
        return
    with console.status("starting Prefect (about 10 s)") as status:
        handler = _StatusHandler(status)
        stages = logging.getLogger("cifarflow.status")  # flows/run/flow_run.py
        stages.setLevel(logging.INFO)
        stages.propagate = False
        stages.addHandler(handler)
        try:
            yield status.update
        finally:
            stages.removeHandler(handler)


class _StatusHandler(logging.Handler):
    """Shows the last message as the status; an empty one takes the line away, for a question."""

    def __init__(self, status: Status) -> None:
        super().__init__()
        self.status = status

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if not message:
            self.status.stop()
            return
        self.status.update(message)
        self.status.start()
