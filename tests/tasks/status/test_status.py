"""What a status says of a project, at a time that is passed in."""

import datetime as dt
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.registry import ledger, questions
from tasks.registry.ledger import CHAMPION, LedgerEntry
from tasks.status.run_log import RUN_LOG, RunRecord, append_run
from tasks.status.status import (
    Running,
    describe_age,
    find_cache,
    find_too_old,
    measure_folder,
    parse_age,
    read_status,
)
from tasks.workspace.errors import InputError
from tasks.workspace.files import hash_file
from tests.conftest import ROOT
from tests.shipped_params import PARAMS_FILE

NOW = dt.datetime(2026, 12, 2, 12, tzinfo=dt.UTC)  # a Wednesday
MONDAY = "2026-11-30T02:00:00+00:00"
RUN = RunRecord("retrain", "fox", MONDAY, "2026-11-30T02:09:00+00:00", "Skipped", "COMPLETED", "nothing new")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a champion and a retraining on Monday, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMS_FILE, ".")
    shutil.copy(ROOT / "prefect.yaml", ".")
    CHAMPION.parent.mkdir()
    CHAMPION.write_bytes(b"model")
    ledger.append(make_entry())
    append_run(RUN)
    return tmp_path


def make_entry() -> LedgerEntry:
    return LedgerEntry("promoted", "because", hash_file(CHAMPION, "md5"), 5, "otter", "id", {}, {})


def test_status_of_a_project_in_which_all_is_well(project: Path) -> None:
    for folder, size in (("incoming/cat", 2), (".dvc/cache/files", 30), ("artifacts", 400)):
        Path(folder).mkdir(parents=True)
        Path(folder, "file").write_bytes(b"x" * size)
    intake = {"time": MONDAY, "images": 1, "drifted": False, "summary": "no drift", "tests": []}
    Path("incoming/accepted").mkdir()
    Path("incoming/accepted/drift.jsonl").write_text(json.dumps(intake) + "\n")
    status = read_status(NOW)
    assert status.problems == []
    assert status.champion is not None
    assert status.runs == [RUN]
    assert status.waiting_images == 1
    assert status.drift == {"time": MONDAY, "images": 1, "drifted": False, "summary": "no drift"}
    assert {name: size.size_bytes for name, size in status.sizes.items()} == {
        "DVC cache": 30,
        "artifacts": 400,
    }
    values = json.loads(json.dumps(status.as_dict()))
    assert values["schema"] == 1
    assert (values["champion"]["version"], values["runs"], values["running"]) == (1, [vars(RUN)], None)
    assert values["schedules"][0]["next"] == "2026-12-07T03:00:00+01:00"


def test_status_of_an_empty_folder_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_status(NOW).problems == ["cannot read params.yaml: No such file or directory"]


def test_missed_retraining_is_a_problem_unless_a_run_began_since(project: Path) -> None:
    later = NOW + dt.timedelta(days=7)
    (problem,) = read_status(later).problems
    assert problem == "retrain was due at 2026-12-07 03:00 CET and has not run since"
    assert read_status(later, Running("process 1", later)).problems == []
    assert read_status(later, Running("process 1", NOW)).problems == [problem]


def test_failed_run_is_a_problem_until_the_flow_ends_well(project: Path) -> None:
    failed = replace(RUN, state="Failed", state_type="FAILED", message="the disk is full")
    append_run(failed)
    append_run(replace(RUN, flow="pipeline"))
    assert read_status(NOW).problems == ["the last run of retrain (fox) is Failed: the disk is full"]
    append_run(RUN)
    assert read_status(NOW).problems == []


def test_question_past_its_deadline_is_a_problem(project: Path) -> None:
    entry = replace(make_entry(), model_md5="b" * 32)
    ledger.append(questions.ask(entry, None, NOW))
    assert (len(read_status(NOW).questions), read_status(NOW).problems) == (1, [])
    (problem,) = read_status(NOW + dt.timedelta(seconds=1)).problems
    assert problem.startswith("nobody answered the question of version 2 until 2026-12-02 12:00 UTC; ")


@pytest.mark.parametrize("days", [1, 365])
def test_clock_that_was_set_back_is_a_problem(project: Path, days: int) -> None:
    end = dt.datetime.fromisoformat(RUN.ended)
    (problem,) = read_status(end - dt.timedelta(days=days)).problems
    assert problem.endswith("ended at 2026-11-30T02:09:00+00:00, still to come: is the clock right?")


def test_each_file_that_cannot_be_read_is_a_problem_and_the_rest_is_shown(project: Path) -> None:
    CHAMPION.write_bytes(b"another")
    RUN_LOG.write_text('{"schema": 9}\n')
    Path("prefect.yaml").write_text("deployments: 3\n")
    Path("params.yaml").write_text("paths: 3\n")
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[cache\n")
    status = read_status(NOW, killed="process 7")
    subjects = [
        "does not match any",
        "newer version",
        "not a list of",
        "not complete",
        ".dvc/config",
        "process 7",
    ]
    assert len(status.problems) == len(subjects)
    for problem, subject in zip(status.problems, subjects, strict=True):
        assert subject in problem
    assert status.champion is not None
    Path("registry/ledger.jsonl").write_text("x\n{}\n")
    assert any("is corrupt" in problem for problem in read_status(NOW).problems)


def test_little_disk_is_a_problem_that_names_prune(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 5e8})
    monkeypatch.setattr("tasks.status.status.shutil.disk_usage", lambda _: usage)
    assert read_status(NOW).problems == ["only 0.5 GB of disk is free; cifarflow prune says what can go"]


def test_cache_is_where_the_settings_of_dvc_say(tmp_path: Path) -> None:
    assert find_cache(tmp_path) == tmp_path / "cache"
    (tmp_path / "config").write_text(
        "[core]\n    remote = s\n['remote \"s\"']\n    url = /%x\n[cache]\n    dir = a\n"
    )
    assert find_cache(tmp_path) == tmp_path / "a"
    (tmp_path / "config.local").write_text("[cache]\n    dir = /b\n")
    assert find_cache(tmp_path) == Path("/b")


def test_large_folder_is_measured_as_far_as_the_time_allows(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert vars(measure_folder(tmp_path)) == {"size_bytes": 5, "is_complete": True}
    assert not measure_folder(tmp_path, timeout_s=-1.0).is_complete


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("90m", dt.timedelta(minutes=90)),
        ("36h", dt.timedelta(hours=36)),
        (" 8d", dt.timedelta(days=8)),
        ("2w", dt.timedelta(days=14)),
    ],
)
def test_parse_age(text: str, age: dt.timedelta) -> None:
    assert parse_age(text) == age


@pytest.mark.parametrize("text", ["", "8", "d", "-8d", "8 days", "1.5h", "9" * 30 + "d", "٣d"])
def test_parse_age_of_something_else_raises(text: str) -> None:
    if text == "٣d":
        assert parse_age(text) == dt.timedelta(days=3)  # digits of any script
        return
    with pytest.raises(InputError, match="is no age; write"):
        parse_age(text)


def test_only_a_retraining_that_ended_well_is_young_enough() -> None:
    week = dt.timedelta(days=7)
    end = dt.datetime.fromisoformat(RUN.ended)
    assert find_too_old([RUN], end + week, week) == ""
    late = end + week + dt.timedelta(seconds=1)
    assert find_too_old([RUN], late, week).endswith("did so 7 days ago")
    failed = replace(RUN, state_type="FAILED", ended=late.isoformat())
    for others in ([failed], [replace(failed, flow="pipeline", state_type="COMPLETED")]):
        assert find_too_old([RUN, *others], late, week)
        assert find_too_old(others, late, week) == "no retraining that ended well is recorded here"
    assert "still to come" in find_too_old([RUN], end - dt.timedelta(days=365), week)


def test_describe_age() -> None:
    ages = {
        -5: "less than a minute",
        59: "less than a minute",
        60: "1 minute",
        7200: "2 hours",
        86400: "1 day",
    }
    assert {seconds: describe_age(dt.timedelta(seconds=seconds)) for seconds in ages} == ages
