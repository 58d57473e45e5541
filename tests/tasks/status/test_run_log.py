import json
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.status.run_log import KEPT_PER_FLOW, RUN_LOG, RunRecord, append_run, read_runs
from tasks.workspace.errors import RunError

RUN = RunRecord(
    "retrain",
    "quick-fox",
    "2026-11-30T02:00:00+00:00",
    "2026-11-30T02:07:00+00:00",
    "Skipped",
    "COMPLETED",
    "nothing changed since champion 2",
)


@pytest.fixture(autouse=True)
def _enter_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_runs_are_read_in_the_order_in_which_they_ended() -> None:
    assert read_runs() == []
    other = replace(
        RUN, flow="pipeline", state="Failed", state_type="FAILED", message="line 1\nline 2 \udc80"
    )
    append_run(RUN)
    append_run(other)
    assert read_runs() == [RUN, other]
    assert (RUN.ended_well, RUN.ended_badly, other.ended_well, other.ended_badly) == (
        True,
        False,
        False,
        True,
    )
    assert json.loads(RUN_LOG.read_text().splitlines()[0]) == {"schema": 1, **vars(RUN)}


@pytest.mark.parametrize(
    "damage", [b'{"schema": 1, "flow": "retr', b"[1]", b"{}", b"\xff", b'{"schema": 1, "started": "now"}']
)
def test_damaged_line_is_lost_alone(damage: bytes) -> None:
    append_run(RUN)
    with RUN_LOG.open("ab") as log:
        log.write(damage)
    append_run(replace(RUN, run="next"))
    assert [run.run for run in read_runs()] == ["quick-fox", "next"]


def test_time_without_time_zone_is_damage() -> None:
    append_run(replace(RUN, started="2026-11-30T02:00:00"))
    assert read_runs() == []


def test_file_of_a_newer_version_is_refused_in_one_line() -> None:
    RUN_LOG.write_text('{"schema": 2}\n')
    with pytest.raises(
        RunError, match=r"^\.cifarflow-runs\.jsonl was written by a newer version .*; upgrade$"
    ):
        read_runs()


def test_frequent_flow_does_not_push_out_a_rare_one(monkeypatch: pytest.MonkeyPatch) -> None:
    append_run(RUN)
    look = replace(RUN, flow="watch", message="")
    line = json.dumps({"schema": 1, **vars(look)}) + "\n"
    with RUN_LOG.open("a") as log:
        log.write(line * 1000)
    monkeypatch.setattr("tasks.status.run_log.MAX_BYTES", 1000 * len(line))
    append_run(look)
    assert read_runs() == [RUN, *[look] * (KEPT_PER_FLOW + 1)]
