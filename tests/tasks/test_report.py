import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from tasks.params import Params
from tasks.registry.ledger import LedgerEntry, append
from tasks.reporting.benchmark import recommend_backends, recommend_int8
from tasks.reporting.diagnosis import bin_by_confidence, diagnose_fit
from tasks.reporting.gallery import select_gallery
from tasks.stages import run_stage
from tasks.workspace.errors import RunError

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


def test_one_page_and_its_figures(reported: Params) -> None:
    html = Path(reported.paths.page).read_text(encoding="utf-8")
    assert len(html.encode()) < 2_000_000
    assert "http://" not in html.replace("http://www.w3.org/", "")
    assert "https://" not in html
    assert {file.name for file in Path(reported.paths.figures).iterdir()} == FIGURES
    for file in Path(reported.paths.figures).glob("*.svg"):
        root = ET.fromstring(file.read_text(encoding="utf-8"))
        assert root.tag.endswith("svg")
        assert not {color for color in ("#000000", "fill: black") if color in file.read_text()}


def test_results_on_the_sample_say_so(reported: Params) -> None:
    assert "Not CIFAR-10." in Path(reported.paths.page).read_text(encoding="utf-8")


def test_numbers_are_those_of_the_files(reported: Params) -> None:
    html = Path(reported.paths.page).read_text(encoding="utf-8")
    test = json.loads(Path(reported.paths.metrics).read_text(encoding="utf-8"))["test"]
    assert f"{100 * test['accuracy']:.1f}\N{NARROW NO-BREAK SPACE}%" in html
    for name, values in test["per_class"].items():
        assert f"<td>{name}</td><td>{100 * values['precision']:.1f}\N{NARROW NO-BREAK SPACE}%</td>" in html


def test_same_files_same_bytes(reported: Params) -> None:
    files = [Path(reported.paths.page), *sorted(Path(reported.paths.figures).iterdir())]
    before = [file.read_bytes() for file in files]
    run_stage("report", reported)
    assert [file.read_bytes() for file in files] == before


def test_a_missing_file_is_named(small_run: Params, tmp_path: Path) -> None:
    values = small_run.model_dump()
    values["paths"]["metrics"] = str(tmp_path / "metrics.json")
    with pytest.raises(RunError, match=r"metrics\.json not found"):
        run_stage("report", Params.model_validate(values))


def epochs(train: list[float], val: list[float], val_loss: list[float]) -> list[dict[str, float]]:
    falling = np.linspace(2, 1, len(train)).tolist()
    return [
        {"train_accuracy": t, "val_accuracy": v, "val_loss": loss, "train_loss": fall}
        for t, v, loss, fall in zip(train, val, val_loss, falling, strict=True)
    ]


@pytest.mark.parametrize(
    ("history", "kept", "expected"),
    [
        (epochs([0.4, 0.5, 0.6], [0.4, 0.5, 0.6], [1.6, 1.4, 1.2]), 3, "Underfitting"),
        (epochs([0.6, 0.62, 0.625], [0.6, 0.61, 0.612], [1.2, 1.1, 1.1]), 3, "Sweet spot"),
        (
            epochs([0.5, 0.6, 0.7], [0.5, 0.58, 0.55], [1.3, 1.1, 1.3]),
            2,
            "Sweet spot, with overfitting after it",
        ),
        (epochs([0.5, 0.7, 0.95], [0.5, 0.6, 0.61], [1.3, 1.2, 1.9]), 3, "Overfitting"),
        (epochs([0.4], [0.4], [1.6]), 1, "Underfitting"),
    ],
)
def test_verdict(history: list[dict[str, float]], kept: int, expected: str) -> None:
    assert diagnose_fit(history, kept).name == expected


def predictions() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, 400)
    logits = generator.normal(size=(400, 10)) + 2 * np.eye(10)[labels]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return shares.astype(np.float32), labels


def test_calibration_bins_add_up_to_the_calibration_error() -> None:
    probabilities, labels = predictions()
    confidence, share, count = bin_by_confidence(probabilities, labels, 15)
    error = (np.abs(confidence - share) * count).sum() / count.sum()
    expected = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=10, n_bins=15
    )
    assert error == pytest.approx(expected.item(), abs=1e-6)
    assert count.sum() == 400


def test_galleries() -> None:
    probabilities, labels = predictions()
    mistakes, hits = select_gallery(probabilities, labels, 5)
    right = probabilities.argmax(1) == labels
    confidence = probabilities.max(1)
    assert confidence[mistakes].tolist() == sorted(confidence[~right], reverse=True)[:5]
    assert confidence[hits].tolist() == sorted(confidence[right])[:5]


def row(
    engine: str, batch_size: int, p50: float, images_per_second: float, accuracy: float
) -> dict[str, Any]:
    return {
        "backend": engine,
        "batch_size": batch_size,
        "latency_ms": {"p50": p50},
        "images_per_second": images_per_second,
        "accuracy": accuracy,
    }


def test_the_engine_to_use_is_fast_and_not_worse() -> None:
    rows = [
        row("exact", 1, 1.0, 1000, 0.650),
        row("exact", 64, 8.0, 8000, 0.650),
        row("careless", 1, 0.1, 9000, 0.600),
        row("close", 1, 2.0, 500, 0.648),
        row("close", 64, 4.0, 16000, 0.648),
    ]
    best = recommend_backends(rows)
    assert best["lowest_latency"]["backend"] == "exact"
    assert (best["highest_throughput"]["backend"], best["highest_throughput"]["batch_size"]) == ("close", 64)


def engine_rows(fp32: tuple[float, float], int8: tuple[float, float], lost: float) -> list[dict[str, Any]]:
    """Of ONNX Runtime in both precisions, with these pictures a second in batches of 1 and of 256."""
    return [
        {
            "backend": "onnxruntime",
            "provider": "CPUExecutionProvider",
            "precision": precision,
            "batch_size": size,
            "images_per_second": speed,
            "accuracy": 0.63 - (lost if precision == "int8" else 0),
        }
        for precision, speeds in (("fp32", fp32), ("int8", int8))
        for size, speed in zip((1, 256), speeds, strict=True)
    ]


@pytest.mark.parametrize(
    ("int8", "lost", "says"),
    [
        ((200.0, 300.0), 0.001, "loses 0.10 points of accuracy and is 2.00 times .*recommended for both"),
        ((50.0, 300.0), 0.0, "loses no accuracy .*, 3.00 times for many: it is recommended only for many"),
        ((50.0, 90.0), 0.001, "0.50 times as fast .* 0.90 times for many: it is not recommended"),
        ((200.0, 300.0), 0.006, "the loss is too large to recommend it"),
    ],
)
def test_int8_is_recommended_only_where_it_is_faster(
    int8: tuple[float, float], lost: float, says: str
) -> None:
    assert re.search(says, recommend_int8(engine_rows((100.0, 100.0), int8, lost)) or "")


def test_nothing_is_said_of_int8_where_it_was_skipped() -> None:
    assert recommend_int8(engine_rows((1.0, 1.0), (1.0, 1.0), 0.0)[:2]) is None


def test_champion_and_history_where_there_is_a_registry(
    reported: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 'id="registry"' not in Path(reported.paths.page).read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    entry = append(LedgerEntry("rejected", "no <b>gain</b>", "a" * 32, 1, "otter", "id", {}, {}))
    values = reported.model_dump()
    values["paths"] |= {"page": str(tmp_path / "index.html"), "figures": str(tmp_path / "figures")}
    run_stage("report", Params.model_validate(values))
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert entry.time in html
    assert "no &lt;b&gt;gain&lt;/b&gt;" in html


@pytest.fixture(params=[(1200, "light"), (1200, "dark"), (390, "light"), (390, "dark")], ids=str)
def opened(
    reported: Params, browser: "Browser", request: pytest.FixtureRequest
) -> Iterator[tuple["Page", list[str]]]:
    """The page in a browser, and what went wrong while it was opened."""
    width, theme = request.param
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=theme)
    page, wrong = context.new_page(), []
    url = Path(reported.paths.page).as_uri()
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if not _own(asked.url, url) else None)
    page.goto(url)
    yield page, wrong
    context.close()


def _own(asked: str, url: str) -> bool:
    return asked == url or asked.startswith("data:")


def test_in_a_browser(opened: tuple["Page", list[str]]) -> None:
    page, wrong = opened
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert wrong == []
    unloaded = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
    assert page.evaluate("document.images.length") > 40
    assert page.evaluate(unloaded) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRAST) == [], "text too faint to read"
    missing = "[...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.hash)).length"
    assert page.evaluate(missing) == 0


def test_figures_of_their_own_follow_the_theme(reported: Params, browser: "Browser") -> None:
    grounds = set()
    for theme in ("light", "dark"):
        page = browser.new_page(color_scheme=theme)
        page.goto((Path(reported.paths.figures) / "loss.svg").as_uri())
        grounds.add(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        page.close()
    assert len(grounds) == 2
