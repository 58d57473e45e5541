"""Collect what `cifarflow status` shows: champion, runs, decisions, what waits, what is overdue."""

import datetime as dt
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from configparser import ConfigParser
from configparser import Error as ConfigError
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.incoming.pending import ACCEPTED_DIR, INTAKES, list_pending
from tasks.registry.ledger import CHAMPION, LedgerEntry, current_champion, parse_time, read_ledger
from tasks.registry.questions import deadline, find_open_questions
from tasks.registry.serving_model import require_known_champion, resolve_serving_model
from tasks.status.run_log import RunRecord, read_runs
from tasks.status.schedules import TOLERANCE, Schedule, read_schedules, started_since
from tasks.validation import load_yaml
from tasks.workspace.errors import InputError, RunError

PARAMS = Path("params.yaml")
SCHEMA = 1
MIN_FREE_BYTES = 1_000_000_000
"""less free disk than a run may need"""
MEASURE_TIMEOUT_S = 0.2
"""time to add up the sizes of each folder: a status is wanted in a second"""
RETRAINING = "retrain"
AGE = re.compile(r"(\d+)([mhdw])")
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True)
class Size:
    """The size of a folder's files."""

    size_bytes: int
    is_complete: bool
    """False where there was no time to look at all of them"""


@dataclass(frozen=True)
class Running:
    """The run that works in this directory."""

    holder: str
    since: dt.datetime


@dataclass
class Status:
    """What a person has to know about the project at a moment."""

    time: dt.datetime
    champion: LedgerEntry | None = None
    running: Running | None = None
    runs: list[RunRecord] = field(default_factory=list)
    """all recorded runs, the newest last"""
    decisions: list[LedgerEntry] = field(default_factory=list)
    """all decisions, the newest last"""
    questions: list[LedgerEntry] = field(default_factory=list)
    """questions to a person that are open"""
    waiting_images: int = 0
    drift: dict[str, Any] | None = None
    """the test of the images that were ingested last; None if none were"""
    report: Path = Path("reports/index.html")
    """the report, beside which the status has its page"""
    free_bytes: int = 0
    sizes: dict[str, Size] = field(default_factory=dict)
    """sizes of the folders that grow, by name"""
    schedules: list[Schedule] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """what a person should look at, a sentence each"""

    def as_dict(self) -> dict[str, Any]:
        """Return what `cifarflow status --json` prints."""
        return {
            "schema": SCHEMA,
            "time": _format(self.time),
            "problems": self.problems,
            "champion": _describe_entry(self.champion, self.time) if self.champion else None,
            "running": self.running and {"holder": self.running.holder, "since": _format(self.running.since)},
            "runs": [vars(run) for run in self.recent_runs()],
            "decisions": [_describe_entry(entry, self.time) for entry in self.decisions[-3:]],
            "questions": [
                _describe_entry(entry, self.time) | {"deadline": _format(deadline(entry))}
                for entry in self.questions
            ],
            "waiting_images": self.waiting_images,
            "drift": self.drift,
            "free_bytes": self.free_bytes,
            "sizes": {name: vars(size) for name, size in self.sizes.items()},
            "schedules": [
                {"deployment": each.deployment, "flow": each.flow, "schedule": str(each), "next": each_next}
                for each in self.schedules
                for each_next in [_format(each.find_next(self.time))]
            ],
        }

    def recent_runs(self, count: int = 5) -> list[RunRecord]:
        """Return the newest runs, without those of `watch` that saw no change."""
        runs = [run for run in self.runs if (run.flow, run.state) != ("watch", "Skipped")]
        return runs[-count:]


def read_status(now: dt.datetime, running: Running | None = None, killed: str = "") -> Status:
    """Collect the status of the project in the current directory at the time `now`.

    `killed` names a process that was killed in its run. What cannot be read is a problem; the rest is shown.
    """
    status = Status(now, running=running)
    for step in (_read_ledger, _read_run_log, _read_schedules, _read_incoming, _measure_disk):
        try:
            step(status)
        except RunError as error:
            status.problems.append(str(error))
    if killed:
        status.problems.append(f"{killed} was killed in its run; the next run resumes from its checkpoint")
    return status


def _read_ledger(status: Status) -> None:
    require_known_champion()
    status.decisions = read_ledger()
    status.champion = current_champion(status.decisions)
    if status.champion is not None:
        _check_champion_file(status)
    status.questions = find_open_questions(status.decisions)
    for question in status.questions:
        if deadline(question) < status.time:
            status.problems.append(
                f"nobody answered the question of version {question.version} until "
                f"{deadline(question):%Y-%m-%d %H:%M} UTC; the next retraining rejects its model"
            )


def _check_champion_file(status: Status) -> None:
    try:
        resolve_serving_model(CHAMPION)
    except RunError as error:
        status.problems.append(f"predictions fail: {error}")


def _read_run_log(status: Status) -> None:
    status.runs = read_runs()
    latest = {run.flow: run for run in status.runs}
    for run in latest.values():
        if run.end_time > status.time + TOLERANCE:
            status.problems.append(
                f"the last run of {run.flow} ended at {run.ended}, still to come: is the clock right?"
            )
        if run.ended_badly:
            reason = f": {run.message}" if run.message else ""
            status.problems.append(f"the last run of {run.flow} ({run.run}) is {run.state}{reason}")


def _read_schedules(status: Status) -> None:
    status.schedules = read_schedules()
    for schedule in status.schedules:
        missed = schedule.find_missed(status.runs, status.time)
        if missed is None or (status.running and started_since(status.running.since, missed)):
            continue
        status.problems.append(
            f"{schedule.flow} was due at {missed:%Y-%m-%d %H:%M} {missed.tzname()} and has not run since"
        )


def _read_incoming(status: Status) -> None:
    params = load_yaml(PARAMS)  # To check all of it takes longer than all the rest.
    try:
        incoming, status.report = Path(params["ingest"]["folder"]), Path(params["paths"]["page"])
    except (KeyError, TypeError):
        raise InputError(f"{PARAMS} is not complete; cifarflow doctor says what is wrong") from None
    status.waiting_images = len(list_pending(incoming))
    intakes = incoming / ACCEPTED_DIR / INTAKES
    try:
        lines = intakes.read_text(encoding="utf-8").splitlines() if intakes.is_file() else []
        last = json.loads(lines[-1]) if lines else None
        if last is not None:
            status.drift = {key: last[key] for key in ("time", "images", "drifted", "summary")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"cannot read {intakes}: {error}") from None


def describe_low_disk(free_bytes: int) -> str:
    """Say that the next run may lack disk; return an empty text where it has enough."""
    if free_bytes >= MIN_FREE_BYTES:
        return ""
    return f"only {free_bytes / 1e9:.1f} GB of disk is free; cifarflow prune says what can go"


def _measure_disk(status: Status) -> None:
    status.free_bytes = shutil.disk_usage(Path()).free
    if problem := describe_low_disk(status.free_bytes):
        status.problems.append(problem)
    folders = {name: Path(name) for name in ("artifacts", "wandb")}
    for name, folder in (folders | {"DVC cache": find_cache()}).items():
        if folder.is_dir():
            status.sizes[name] = measure_folder(folder)


def find_cache(dvc: Path = Path(".dvc")) -> Path:
    """Return the folder of DVC's cache, as the project's own settings say, without DVC."""
    config = ConfigParser(interpolation=None, strict=False)
    try:
        config.read([dvc / "config", dvc / "config.local"], encoding="utf-8")
        return dvc / config.get("cache", "dir", fallback="cache")
    except (ConfigError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {dvc}/config: {' '.join(str(error).split())}") from None


def measure_folder(folder: Path, timeout_s: float = MEASURE_TIMEOUT_S) -> Size:
    """Add up the sizes of the folder's files, as far as the time allows."""
    end = time.monotonic() + timeout_s
    total = 0
    for size_bytes in _list_sizes(folder):
        total += size_bytes
        if time.monotonic() > end:
            return Size(total, is_complete=False)
    return Size(total, is_complete=True)


def _list_sizes(folder: Path) -> Iterator[int]:
    """Yield the size of each file below the folder, and 0 for each folder. A file that is gone counts 0."""
    for path, _, names in os.walk(folder):
        yield 0
        for name in names:
            try:
                yield os.lstat(os.path.join(path, name)).st_size  # noqa: PTH118 - three times as fast
            except FileNotFoundError:
                yield 0


def parse_age(text: str) -> dt.timedelta:
    """Parse an age such as `8d`, `36h`, `90m` or `2w`; `InputError` for anything else."""
    match = AGE.fullmatch(text.strip())
    try:
        if match is not None:
            return dt.timedelta(**{UNITS[match[2]]: int(match[1])})
    except OverflowError:
        pass
    raise InputError(f"{text!r} is no age; write minutes, hours, days or weeks, such as 90m, 36h, 8d or 2w")


def find_too_old(runs: Sequence[RunRecord], now: dt.datetime, max_age: dt.timedelta) -> str:
    """Say why the last retraining that ended well is too old; return an empty text if it is not.

    A run that found nothing to do counts: it has looked. One that ended in the future says that a clock is
    wrong, so it does not count.
    """
    last = next((run for run in reversed(runs) if run.flow == RETRAINING and run.ended_well), None)
    if last is None:
        return "no retraining that ended well is recorded here"
    age = now - last.end_time
    if age < -TOLERANCE:
        return f"the last retraining that ended well did so at {last.ended}, which is still to come"
    return f"the last retraining that ended well did so {describe_age(age)} ago" if age > max_age else ""


def describe_age(age: dt.timedelta) -> str:
    """Describe an age in its largest unit, such as `3 days`."""
    seconds = max(0, round(age.total_seconds()))
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = seconds // length
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"


def _describe_entry(entry: LedgerEntry, now: dt.datetime) -> dict[str, Any]:
    keys = ("version", "decision", "time", "reason", "model_md5", "flow_run_name")
    age = now - parse_time(entry.time, entry)
    return {key: getattr(entry, key) for key in keys} | {"age_s": round(age.total_seconds())}


def _format(time_: dt.datetime | None) -> str | None:
    return None if time_ is None else time_.isoformat(timespec="seconds")
