"""The artifacts of the flows: what comes from outside is text in them."""

from collections import Counter

from markdown_it import MarkdownIt

from flows.run.markdown import TaskRunSummary, decision_markdown, ingest_markdown, tabulate_runs
from tasks.incoming.ingest import ClassGrowth, IngestResult
from tasks.registry.ledger import LedgerEntry

HOSTILE = "bad|\n[l](javascript:alert(8)) <img src=http://page.example/x.png>`$x$`"
PLAIN = "paragraph_open heading_open table_open thead_open tbody_open tr_open th_open td_open inline text"
PLAIN += " text_special strong_open code_inline softbreak"  # the flows' own
ENTRY = LedgerEntry(
    decision="rejected",
    reason=HOSTILE,
    evidence={
        "drift": [{"time": "2026-01-02T03:04:05+00:00", "summary": HOSTILE}],
        "uneven_classes": {HOSTILE: (0.1, 0.2)},
    },
    model_md5="0" * 32,
    model_bytes=1,
    flow_run_name="bold-fox",
    flow_run_id="none",
    provenance={},
)


def find_markup(text: str) -> set[str]:
    """What a renderer of Markdown finds that is not the artifact's own."""
    tokens = MarkdownIt("js-default", {"html": True}).parse(text)
    kinds = {each.type for token in tokens for each in (token, *(token.children or ()))}
    return {kind for kind in kinds if not kind.endswith("_close")} - set(PLAIN.split())


def count_columns(text: str) -> set[int]:
    """The numbers of cells in the rows of the tables."""
    tokens = MarkdownIt("js-default").parse(text)
    rows = "".join(token.type[0:2] for token in tokens if token.type in {"tr_open", "td_open", "th_open"})
    return {len(row) // 2 for row in rows.split("tr")[1:]}


def test_ingest_markdown_shows_names_as_they_are() -> None:
    rejected = {HOSTILE: f"not in a class directory; classes: {HOSTILE}"}
    result = IngestResult(Counter({HOSTILE: 1}), rejected, {HOSTILE: ClassGrowth(10, 1, 0)})
    doubted = [{"name": HOSTILE, "actual": HOSTILE, "predicted": HOSTILE, "confidence": 0.9}]
    text = ingest_markdown(result, doubted)
    assert find_markup(text) == set()
    assert count_columns(text) == {5, 3, 2}


def test_ingest_markdown_of_many_rejected_files_is_short() -> None:
    rejected = {f"cat/{i}|.png": "why" for i in range(30)}
    lines = ingest_markdown(IngestResult(Counter(), rejected)).splitlines()
    assert lines[5] == r"| cat/0\|.png | why |"
    assert "10 more" in lines[-1]
    assert len(lines) == 26
    assert "rejected |" not in ingest_markdown(IngestResult(Counter(), {}))


def test_decision_markdown_shows_its_reason_as_it_is() -> None:
    text = decision_markdown(ENTRY)
    assert find_markup(text) == set()
    assert count_columns(text) == {3}, "the notes below are no rows of the table"


def test_tabulate_runs_shows_messages_as_they_are() -> None:
    run = TaskRunSummary("train", "Failed", 1.0, "[/bold] :smile:")
    assert "[/bold] :smile:" in tabulate_runs([run]).as_text()
