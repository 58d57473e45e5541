"""The page of a decision in Chromium: wide and narrow, light and dark, without anything from outside."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.decision_pages.changes import CodeChange
from tasks.decision_pages.page import write_page
from tasks.registry import ledger
from tests.tasks.decision_pages.comparisons import compare_random_models
from tests.tasks.test_report import CONTRAST

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CODE = CodeChange("b" * 40 + "-dirty", "a" * 40, ["abc1234 A subject " + "that_has_no_end" * 20])


def test_page_is_complete_and_readable_at_any_width_and_theme(
    browser: "Browser", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entry, models = compare_random_models(500, added=100)
    url = write_page(entry, ledger.read_ledger(), models, CODE, 0.95).absolute().as_uri()
    sizes = 1280, 400
    papers = {check_page(browser, url, width, theme) for width in sizes for theme in ("light", "dark")}
    assert len(papers) == 2


def check_page(browser: "Browser", url: str, width: int, theme: Any) -> str:
    """Check the page at that width, and return the color of its background."""
    context = browser.new_context(viewport={"width": width, "height": 850}, color_scheme=theme)
    page, problems = context.new_page(), []
    page.on("console", lambda message: problems.append(message.text))
    page.on("request", lambda asked: problems.append(asked.url))
    page.goto(url)
    folded = page.locator("text=McNemar's exact test").first
    assert not folded.is_visible(), "statistics are folded"
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert folded.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRAST) == [], "text too faint to read"
    loaded = "[...document.images].filter(image => image.complete && image.naturalWidth == 32).length"
    assert page.evaluate(loaded) == 60
    assert {address for address in problems if not address.startswith("data:image/")} == {url}
    color = str(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    context.close()
    return color
