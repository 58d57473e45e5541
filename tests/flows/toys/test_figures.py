"""The toys' pictures in a browser: nothing cut off, no text on another; those in Git are the present ones."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.toys.catalog import TOYS, load_flow
from tests.conftest import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


# Other values than the defaults, for what a picture has to bear.
OTHERS: dict[str, dict[str, Any]] = {
    "neuron": {"w1": -123.456, "w0": 1000.0, "activation": "relu"},
    "layers": {"shape": "rings", "epochs": 5},
    "loss": {"w0": 4.0, "b0": 5.0, "good_value": 7.5, "bad_value": -20.0},
    "gradient_descent": {"seed": 0, "max_steps": 5},
    "backprop": {"activation": "sigmoid", "x1": -0.123456},
    "training_cycle": {"points": 2, "epochs": 1},
    "fit": {"noise": 0.0, "max_degree": 2},
    "discounted_return": {"rewards": [-12.5], "gammas": [0.123]},
}

MEASURED = """
() => {
  const paper = document.querySelector('svg').getBoundingClientRect();
  const boxes = [...document.querySelectorAll('text')].map(text => {
    const box = text.getBoundingClientRect();
    return [text.textContent, box.left - paper.left, box.top - paper.top,
            box.right - paper.left, box.bottom - paper.top];
  });
  return [paper.width, paper.height, boxes];
}
"""


@pytest.fixture(scope="module")
def page(browser: "Browser") -> Iterator["Page"]:
    opened = browser.new_page()
    yield opened
    opened.close()


@pytest.mark.parametrize("others", [False, True], ids=["defaults", "others"])
@pytest.mark.parametrize("name", TOYS)
def test_texts_are_whole_and_apart(
    name: str, others: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: "Page"
) -> None:
    monkeypatch.chdir(tmp_path)
    load_flow(name).fn(**(OTHERS[name] if others else {}))
    page.set_content(f"<body>{Path(f'reports/toys/{name}.svg').read_text(encoding='utf-8')}</body>")
    width, height, boxes = page.evaluate(MEASURED)
    assert boxes
    for text, left, top, right, bottom in boxes:
        assert left >= -1, text
        assert top >= -2, text
        assert right <= width + 1, text
        assert bottom <= height + 2, text
    for number, (text, left, top, right, bottom) in enumerate(boxes):
        for other, left2, top2, right2, bottom2 in boxes[number + 1 :]:
            across = min(right, right2) - max(left, left2)
            down = min(bottom, bottom2) - max(top, top2)
            assert across < 2 or down < 6, f"{text!r} stands on {other!r}"


@pytest.mark.parametrize("name", TOYS)
def test_pictures_in_git_are_the_present_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their texts, numbers among them; lines may differ in their last digits from machine to machine."""
    monkeypatch.chdir(tmp_path)
    load_flow(name).fn()
    assert texts(Path("reports/toys") / f"{name}.svg") == texts(ROOT / "reports" / "toys" / f"{name}.svg")


def texts(svg: Path) -> list[str]:
    tree = ET.parse(svg)
    return ["".join(text.itertext()).strip() for text in tree.iter("{http://www.w3.org/2000/svg}text")]
