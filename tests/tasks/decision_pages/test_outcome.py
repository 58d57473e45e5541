"""What became of a model is added to the page of its comparison, wherever the ledger is read."""

import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.decision_pages.changes import CodeChange
from tasks.decision_pages.index import write_index
from tasks.decision_pages.outcome import find_page
from tasks.decision_pages.page import write_page
from tasks.params import Paths, read_params
from tasks.registry import ledger, questions
from tasks.registry.ledger import LedgerEntry
from tests.shipped_params import PARAMS_FILE
from tests.tasks.decision_pages.comparisons import build_entry, compare_random_models, name_page

SOON = dt.timedelta(hours=1)


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.chdir(tmp_path)
    return read_params(PARAMS_FILE).paths


def ask_about_random_models() -> tuple[LedgerEntry, Path]:
    """Write the question into the ledger in the place of the decision, and its page."""
    entry, models = compare_random_models(60)
    assert models.champion is not None
    ledger.LEDGER.write_bytes(b"".join(ledger.LEDGER.read_bytes().splitlines(keepends=True)[:-1]))
    question = ledger.append(questions.ask(entry, models.champion, dt.datetime.now(dt.UTC) + SOON))
    return question, write_page(question, ledger.read_ledger(), models, CodeChange(), 0.95)


def test_answer_adds_a_block_to_the_page_of_its_question(paths: Paths) -> None:
    question, page = ask_about_random_models()
    asked = page.read_text()
    assert "Waiting for an answer" in asked
    assert f"cifarflow promote {question.version} --reason" in asked
    write_index(paths)
    assert page.read_text() == asked, "nothing has happened since"

    answer = questions.answer(question, approved=True, person="ada </div>", reason="it <i>knows</i> my cat")
    answer = ledger.append(answer)
    assert write_index(paths) == [Path(paths.decisions), page]
    answered = page.read_text()
    assert '<p class="status">Promoted</p>' in answered
    assert "<b>ada &lt;/div&gt;</b> approved: “it &lt;i&gt;knows&lt;/i&gt; my cat”" in answered
    begin, end = '<div class="outcome">', "<!-- end of the outcome -->"
    for part, marker in ((0, begin), (2, end)):
        assert asked.partition(marker)[part] == answered.partition(marker)[part], "the rest stays as it was"
    index = Path(paths.decisions).read_text()
    for version in (question.version, answer.version):
        assert f'<a href="{page.name}">{version}</a>' in index

    ledger.append(replace(ledger.read_ledger()[0], decision="rolled_back", reason="it was the camera"))
    write_index(paths)
    assert '<p class="status">Rolled back</p>' in page.read_text()
    assert "it was the camera" in page.read_text()


def test_silence_and_a_person_who_promotes_nevertheless(paths: Paths) -> None:
    question, page = ask_about_random_models()
    silence = questions.answer(question, approved=False, person="", reason="no answer by noon")
    ledger.append(silence)
    write_index(paths)
    assert '<p class="status">Rejected</p>' in page.read_text()
    assert "Rejected, since nobody answered: no answer by noon." in page.read_text()
    ledger.append(replace(question, decision="overridden", reason="better on my photos", approval=None))
    write_index(paths)
    assert '<p class="status">Promoted by a person</p>' in page.read_text()
    assert "better on my photos" in page.read_text()


def test_page_of_another_model_with_the_same_number_is_left_alone(paths: Paths) -> None:
    """Two branches were merged that both had a decision of this number."""
    entry, page = ask_about_random_models()
    ledger.append(replace(entry, model_md5="d" * 32))
    before = page.read_bytes()
    write_index(paths)
    assert page.read_bytes() == before
    assert f">{entry.version + 1}</a>" not in Path(paths.decisions).read_text()


@pytest.mark.parametrize(
    "name", ["../index.html", "reports/index.html", "/etc/1.html", "reports/decisions/x.html"]
)
def test_only_pages_of_decisions_are_written(name: str, paths: Paths) -> None:
    """A line of the ledger may come from another machine."""
    entry, page = ask_about_random_models()
    target = page.parent / name
    if target.is_relative_to(Path.cwd()) or not target.is_absolute():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(page.read_bytes())
    assert find_page(entry, Path(paths.decisions)) == page
    assert find_page(replace(entry, page=name), Path(paths.decisions)) is None


def test_decision_of_an_earlier_version_has_no_page(paths: Paths) -> None:
    ledger.append(build_entry("promoted", "a", "the first model", {}))
    missing = ledger.append(build_entry("rejected", "b", "no gain", {}, page=name_page()))
    assert write_index(paths) == [Path(paths.decisions)]
    assert missing.page == "reports/decisions/2.html"
    assert "<td>1</td>" in Path(paths.decisions).read_text()
