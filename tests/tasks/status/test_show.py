import datetime as dt
from dataclasses import replace
from pathlib import Path

from tasks.registry import questions
from tasks.registry.ledger import LedgerEntry
from tasks.status.run_log import RunRecord
from tasks.status.schedules import read_schedules
from tasks.status.show import format_rows, write_status_page
from tasks.status.status import Running, Size, Status
from tests.conftest import ROOT

NOW = dt.datetime(2026, 12, 2, 12, tzinfo=dt.UTC)


def make_status() -> Status:
    """A status in which everything is to be shown."""
    monday = "2026-11-30T02:00:00+00:00"
    champion = LedgerEntry(
        "promoted", "<b>better</b>", "a" * 32, 5, "otter", "id", {}, {}, version=1, time=monday
    )
    asked = replace(questions.ask(champion, champion, NOW), version=2)
    run = RunRecord(
        "retrain", "fox", monday, monday, "Failed", "FAILED", "no\x1b[31m space\nleft " + "x" * 200
    )
    return Status(
        NOW,
        champion=champion,
        running=Running("process 7 (cifarflow)", NOW - dt.timedelta(hours=2)),
        runs=[replace(run, flow="watch", state="Skipped")] + [run] * 7,
        decisions=[champion] * 5 + [asked],
        questions=[asked],
        waiting_images=1234,
        drift={"time": monday, "images": 9, "drifted": True, "summary": "drift in 9 images"},
        free_bytes=12_300_000_000,
        sizes={"DVC cache": Size(1_200_000_000, is_complete=False), "wandb": Size(0, is_complete=True)},
        schedules=read_schedules(ROOT / "prefect.yaml"),
        problems=["<i>disk</i>\x1b[31m is full " + "x" * 200],
    )


def test_status_is_one_screen_of_single_lines() -> None:
    rows = format_rows(make_status())
    assert len(rows) <= 24
    assert all(text.isprintable() for _, text in rows)
    shown = dict(reversed(rows))  # the first of each subject
    assert shown["champion"] == "version 1 (aaaaaaaa), promoted 2 days ago"
    assert shown["running"] == "process 7 (cifarflow), since 2 hours"
    assert shown["run"].startswith("2026-11-30 02:00 UTC retrain fox Failed: no\\x1b[31m space left xxx")
    assert shown["run"].endswith("x…")
    assert shown["decision"] == "2026-11-30 02:00 UTC version 2 pending_approval: <b>better</b>"
    assert shown["question"] == "version 2, open until 2026-12-02 12:00 UTC: <b>better</b>"
    assert shown["images"] == "1,234 wait to be ingested"
    assert shown["drift"] == "2026-11-30, drift in 9 images"
    assert shown["disk"] == "12.3 GB free, DVC cache more than 1.2 GB, wandb 0.0 GB"
    assert shown["schedule"] == "retrain: 0 3 * * 1 (Europe/Berlin), next Mon 2026-12-07 03:00 CET"
    assert shown["problem"].endswith("x" * 200), "a problem is shown whole"


def test_empty_status_says_so() -> None:
    shown = dict(format_rows(Status(NOW)))
    assert (shown["champion"], shown["run"]) == ("none has been promoted yet", "none is recorded yet")


def test_page_shows_the_same_as_text(tmp_path: Path) -> None:
    status = make_status()
    status.report = tmp_path / "reports/index.html"
    page = write_status_page(status)
    assert page == tmp_path / "reports/status.html"
    html = page.read_text(encoding="utf-8")
    assert "<td>1,234 wait to be ingested</td>" in html
    assert "<b>better" not in html
    assert "&lt;i&gt;disk&lt;/i&gt;" in html
    assert '<a href="index.html">' in html
