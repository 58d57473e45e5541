import re
from pathlib import Path

import pytest

from tasks.decision_pages.index import write_index
from tasks.params import Paths, read_params
from tasks.registry.ledger import LedgerEntry, append
from tests.shipped_params import PARAMS_FILE


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.chdir(tmp_path)
    return read_params(PARAMS_FILE).paths


def test_page_without_decisions_says_so_and_links_to_the_report(paths: Paths) -> None:
    write_index(paths)
    html = Path(paths.decisions).read_text(encoding="utf-8")
    assert "No retraining has decided anything yet" in html
    (link,) = re.findall(r'<a href="(.+?)">The report', html)
    assert (Path(paths.decisions).parent / link).resolve() == Path(paths.page).resolve()


def test_page_shows_and_escapes_every_decision_and_names_the_champion(paths: Paths) -> None:
    evidence = {"p_value": 0.2, "look": 3, "threshold": 0.002, "error_spent": 0.01}
    append(LedgerEntry("promoted", "the first model", "b" * 32, 1, "owl", "id", {}, {}))
    rejected = append(LedgerEntry("rejected", "no <b>gain</b>", "a" * 32, 1, "otter", "id", {}, evidence))
    write_index(paths)
    html = Path(paths.decisions).read_text(encoding="utf-8")
    assert "<b>version 1</b>, promoted" in html
    assert rejected.time in html
    assert "no &lt;b&gt;gain&lt;/b&gt;" in html
    assert "p = 0.2, required: 0.002, look 3 of a year, error spent: 1.00%" in html
    assert html.index("no &lt;b&gt;") < html.index("the first model"), "the newest comes first"
