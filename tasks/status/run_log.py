"""Keep a line about each flow run in a file beside the workspace's lock, for whoever asks without a server.

A line is a JSON object with the keys of `RunRecord` and the version of this format. A line that a crash has
cut short is lost, but not the lines after it. The file is bounded: where it grows beyond `MAX_BYTES`, the
newest lines of each flow stay, so that a flow that runs every few minutes does not push out the others.
"""

import datetime as dt
import json
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

from filelock import FileLock

from tasks.workspace.errors import RunError
from tasks.workspace.files import atomic_write

RUN_LOG = Path(".cifarflow-runs.jsonl")
SCHEMA = 1
MAX_BYTES = 1 << 20
KEPT_PER_FLOW = 200
LOCK_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class RunRecord:
    """How a flow run ended."""

    flow: str
    run: str
    """the name that Prefect gave it"""
    started: str
    """time, ISO 8601, UTC"""
    ended: str
    state: str
    """the name of its last state, such as `Skipped`"""
    state_type: str
    """that state's type, as Prefect spells it: COMPLETED, FAILED, CANCELLED, CRASHED, PAUSED or SCHEDULED"""
    message: str = ""

    @property
    def start_time(self) -> dt.datetime:
        return dt.datetime.fromisoformat(self.started)

    @property
    def end_time(self) -> dt.datetime:
        return dt.datetime.fromisoformat(self.ended)

    @property
    def ended_well(self) -> bool:
        return self.state_type == "COMPLETED"

    @property
    def ended_badly(self) -> bool:
        """Return whether somebody should look at it. A run that was called off is no failure."""
        return self.state_type in {"FAILED", "CRASHED"}


KEYS = {field.name for field in fields(RunRecord)}


def append_run(record: RunRecord, file: Path = RUN_LOG) -> None:
    """Append a line, which is on disk when this returns. `OSError` or `RunError` if it cannot be written."""
    file.parent.stat()  # The lock would create a folder that is missing.
    with FileLock(file.with_name(f"{file.name}.lock"), timeout=LOCK_TIMEOUT_S):
        content = file.read_bytes() if file.is_file() else b""
        if len(content) > MAX_BYTES:
            content = b"".join(line + b"\n" for line in _select_newest(content.split(b"\n")))
            with atomic_write(file) as temp_path:
                temp_path.write_bytes(content)
        # Where a crash has cut the last line short, the new one starts on a line of its own.
        start = b"" if content.endswith(b"\n") or not content else b"\n"
        line = json.dumps({"schema": SCHEMA, **vars(record)}).encode()
        with file.open("ab") as log:
            log.write(start + line + b"\n")


def read_runs(file: Path = RUN_LOG) -> list[RunRecord]:
    """Return the runs, in the order in which they ended. `RunError` where a newer version wrote the file."""
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"cannot read {file}: {error.strerror or error}") from error
    return [record for record in (_parse(line, file) for line in lines) if record is not None]


def _parse(line: bytes, file: Path) -> RunRecord | None:
    """Return the line's run; None for a line that a crash has cut short."""
    try:
        values = json.loads(line)
        schema = int(values["schema"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if schema > SCHEMA:
        raise RunError(f"{file} was written by a newer version of cifarflow (schema {schema}); upgrade")
    try:
        record = RunRecord(**{key: str(value) for key, value in values.items() if key in KEYS})
        is_aware = record.start_time.tzinfo and record.end_time.tzinfo
    except (ValueError, TypeError):
        return None
    return record if is_aware else None


def _select_newest(lines: list[bytes]) -> list[bytes]:
    """Return the last lines of each flow, in their order."""
    kept: list[bytes] = []
    count: Counter[str] = Counter()
    for line in reversed(lines):
        record = _parse(line, RUN_LOG)
        if record is not None and count[record.flow] < KEPT_PER_FLOW:
            count[record.flow] += 1
            kept.append(line)
    return kept[::-1]
