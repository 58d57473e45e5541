import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tasks.params import Params
from tasks.registry.ledger import LedgerEntry, append
from tasks.stages import run_stage
from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_splits

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FIGURES = {f"{name}.svg" for name in ("loss", "accuracy", "confusion", "classes", "calibration")} | {
    "throughput.svg",
    "latency.svg",
    "filters.png",
}

CONTRAST = """
() => {
  const light = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    if (!walker.currentNode.textContent.trim() || element.closest('svg[aria-label^=Confusion]')) continue;
    const ink = light(element.closest('svg') ? style.fill : style.color);
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < 4.5) faint.push(element.outerHTML.slice(0, 120));
  }
  return faint;
}
"""


@pytest.fixture(scope="module")
def reported(small_run: Params) -> Params:
    run_stage("report", small_run)
    return small_run


def test_report_is_one_page_with_no_external_resource(reported: Params) -> None:
    html = Path(reported.paths.page).read_text(encoding="utf-8")
    assert len(html.encode()) < 2_000_000
    assert "http://" not in html.replace("http://www.w3.org/", "")
    assert "https://" not in html
    assert {file.name for file in Path(reported.paths.figures).iterdir()} == FIGURES
    for file in Path(reported.paths.figures).glob("*.svg"):
        root = ET.fromstring(file.read_text(encoding="utf-8"))
        assert root.tag.endswith("svg")
        assert not {color for color in ("#000000", "fill: black") if color in file.read_text()}


def test_report_on_the_sample_says_not_cifar10(reported: Params) -> None:
    assert "Not CIFAR-10." in Path(reported.paths.page).read_text(encoding="utf-8")


def test_report_shows_the_numbers_of_the_metrics_file(reported: Params) -> None:
    html = Path(reported.paths.page).read_text(encoding="utf-8")
    test = json.loads(Path(reported.paths.metrics).read_text(encoding="utf-8"))["test"]
    assert f"{100 * test['accuracy']:.1f}\N{NARROW NO-BREAK SPACE}%" in html
    for name, values in test["per_class"].items():
        assert f"<td>{name}</td><td>{100 * values['precision']:.1f}\N{NARROW NO-BREAK SPACE}%</td>" in html


def test_report_explains_errors_by_training_images_of_the_predicted_class(reported: Params) -> None:
    html = Path(reported.paths.page).read_text(encoding="utf-8")
    explained = re.findall(r"what speaks for (.+?): most of all its [a-z ]+ part(.*?)</div>", html, re.DOTALL)
    data = load_splits(Path(reported.paths.splits))
    num_errors = html.count("<b>✗")
    assert len(explained) == min(8, num_errors - len(explained)) > 0
    for predicted, neighbors in explained:
        found = re.findall(r'alt="training image (\d+), (.+?)"', neighbors)
        assert len(found) == 3
        for index, name in found:
            assert name == predicted == data.metadata["classes"][data.train.labels[int(index)]]


def test_report_shows_labels_in_doubt_of_validation_and_test_images(reported: Params) -> None:
    html = Path(reported.paths.page).read_text(encoding="utf-8")
    shown = re.findall(r'alt="(val|test) (\d+), labeled (.+?)"', html)
    data = load_splits(Path(reported.paths.splits))
    assert 0 < len(shown) <= reported.report.gallery_size
    for split, index, label in shown:
        assert data.metadata["classes"][getattr(data, split).labels[int(index)]] == label


def test_report_is_deterministic(reported: Params) -> None:
    files = [Path(reported.paths.page), *sorted(Path(reported.paths.figures).iterdir())]
    before = [file.read_bytes() for file in files]
    run_stage("report", reported)
    assert [file.read_bytes() for file in files] == before


def test_report_without_metrics_names_the_file(small_run: Params, tmp_path: Path) -> None:
    values = small_run.model_dump()
    values["paths"]["metrics"] = str(tmp_path / "metrics.json")
    with pytest.raises(RunError, match=r"metrics\.json not found"):
        run_stage("report", Params.model_validate(values))


def test_report_does_not_depend_on_decisions(
    reported: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Path(reported.paths.page).read_bytes()
    assert b'href="decisions/index.html"' in before
    monkeypatch.chdir(tmp_path)
    append(LedgerEntry("rejected", "no gain", "a" * 32, 1, "otter", "id", {}, {}))
    run_stage("report", reported)
    assert Path(reported.paths.page).read_bytes() == before


@pytest.fixture(params=[(1200, "light"), (1200, "dark"), (390, "light"), (390, "dark")], ids=str)
def opened_page(
    reported: Params, browser: "Browser", request: pytest.FixtureRequest
) -> Iterator[tuple["Page", list[str]]]:
    """The page in a browser, and what its console and network reported."""
    width, theme = request.param
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=theme)
    page, problems = context.new_page(), []
    url = Path(reported.paths.page).as_uri()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda asked: problems.append(asked.url) if not _own(asked.url, url) else None)
    page.goto(url)
    yield page, problems
    context.close()


def _own(asked: str, url: str) -> bool:
    return asked == url or asked.startswith("data:")


def test_report_in_a_browser_is_complete_and_readable(opened_page: tuple["Page", list[str]]) -> None:
    page, problems = opened_page
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert problems == []
    unloaded = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
    assert page.evaluate("document.images.length") > 40
    assert page.evaluate(unloaded) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRAST) == [], "text too faint to read"
    own_links = "[...document.querySelectorAll('nav a')].filter(a => a.hash)"
    missing = f"{own_links}.filter(a => !document.querySelector(a.hash)).length"
    assert page.evaluate(missing) == 0


def test_report_figures_follow_the_color_scheme(reported: Params, browser: "Browser") -> None:
    grounds = set()
    for theme in ("light", "dark"):
        page = browser.new_page(color_scheme=theme)
        page.goto((Path(reported.paths.figures) / "loss.svg").as_uri())
        grounds.add(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        page.close()
    assert len(grounds) == 2


def test_report_says_what_each_section_means_and_where_its_numbers_are(reported: Params) -> None:
    html = Path(reported.paths.page).read_text(encoding="utf-8")
    sections = re.findall(r'<section id="(\w+)">(.*?)</section>', html, re.DOTALL)
    assert len(sections) == 7
    for name, section in sections:
        lead = re.search(
            r'</h2>\s*<p class="lead">(.+?) <small>The numbers are in <code>(.+?)</code>', section
        )
        assert lead, name
        assert Path(lead[2]).name == "dvc.lock" or Path(lead[2]).is_file(), name


def test_report_texts_name_the_classes_of_its_own_data(reported: Params) -> None:
    html = Path(reported.paths.page).read_text(encoding="utf-8")
    assert "dogs and trucks" not in html
    assert not re.search(r"\b(dog|truck)s? ", re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL))


def test_report_links_to_the_page_of_the_network(reported: Params) -> None:
    html = Path(reported.paths.page).read_text(encoding="utf-8")
    (link,) = set(re.findall(r'href="([^"]+)">Inside the network', html))
    page = Path(reported.paths.page).parent / link
    assert page == Path(reported.paths.network_page)
    assert 'id="data"' in page.read_text(encoding="utf-8")
