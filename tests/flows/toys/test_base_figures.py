"""The toys' figures: nothing cut off, no label on another, and the committed ones up to date."""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.toys.base import format_number
from flows.toys.catalog import TOYS, load_flow
from tests.conftest import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

RunToy = Callable[..., Path]

# Values other than the defaults that a figure has to cope with.
EXTREME_PARAMETERS: dict[str, dict[str, Any]] = {
    "neuron": {"w1": -123.456, "w0": 1000.0, "activation": "relu"},
    "layers": {"shape": "rings", "epochs": 5},
    "loss": {"w0": 4.0, "b0": 5.0, "good_value": 7.5, "bad_value": -20.0},
    "gradient_descent": {"seed": 0, "max_steps": 5},
    "backprop": {"activation": "sigmoid", "x1": -0.123456},
    "training_cycle": {"points": 2, "epochs": 1},
    "fit": {"noise": 0.0, "max_degree": 2},
    "regression": {"learning_rate": 0.05, "steps": 30},
    "softmax": {"logits": [-90.0, 100.0], "label": 0},
    "convolution": {"picture": "bars", "pattern": "blur", "bias": -123.456},
    "pooling": {"kind": "mean", "shift": 3, "seed": 5},
    "composition": {"picture": "cross"},
    "features": {"message": "word", "steps": 1},
    "clustering": {"clusters": 5, "spread": 2.0, "count": 200},
    "dimension_reduction": {"count": 10, "noise": 100.0},
    "discounted_return": {"rewards": [-12.5], "gammas": [0.123]},
}

MEASURE_TEXTS = """
() => {
  const svg = document.querySelector('svg').getBoundingClientRect();
  const boxes = [...document.querySelectorAll('text')].map(text => {
    const box = text.getBoundingClientRect();
    return [text.textContent, box.left - svg.left, box.top - svg.top,
            box.right - svg.left, box.bottom - svg.top];
  });
  return [svg.width, svg.height, boxes];
}
"""


@pytest.fixture(scope="module")
def run_toy(tmp_path_factory: pytest.TempPathFactory) -> RunToy:
    """Gives `run_toy(name, **parameters)`: the toy's figure. With default parameters a toy runs only once."""
    defaults: dict[str, Path] = {}

    def run(name: str, **parameters: Any) -> Path:
        if not parameters and name in defaults:
            return defaults[name]
        with pytest.MonkeyPatch.context() as patch:
            folder = tmp_path_factory.mktemp(name)
            patch.chdir(folder)
            load_flow(name).fn(**parameters)
        figure = folder / "reports" / "toys" / f"{name}.svg"
        if not parameters:
            defaults[name] = figure
        return figure

    return run


@pytest.fixture(scope="module")
def page(browser: "Browser") -> Iterator["Page"]:
    page = browser.new_page()
    yield page
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "parameters"),
    [*((name, {}) for name in TOYS), *EXTREME_PARAMETERS.items()],
    ids=[*TOYS, *(f"{name}-extreme" for name in EXTREME_PARAMETERS)],
)
def test_figure_texts_are_inside_and_do_not_overlap(
    name: str, parameters: dict[str, Any], run_toy: RunToy, page: "Page"
) -> None:
    page.set_content(f"<body>{run_toy(name, **parameters).read_text(encoding='utf-8')}</body>")
    width, height, boxes = page.evaluate(MEASURE_TEXTS)
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


@pytest.mark.parametrize("name", [file.stem for file in sorted((ROOT / "reports" / "toys").glob("*.svg"))])
def test_committed_figure_is_up_to_date(name: str, run_toy: RunToy) -> None:
    """By its texts, numbers among them; lines may differ in their last digits from machine to machine."""
    assert read_texts(run_toy(name)) == read_texts(ROOT / "reports" / "toys" / f"{name}.svg")


def read_texts(svg: Path) -> list[str]:
    tree = ET.parse(svg)
    return ["".join(text.itertext()).strip() for text in tree.iter("{http://www.w3.org/2000/svg}text")]


def test_format_number_rounds_and_sets_a_typographic_minus() -> None:
    assert [format_number(value) for value in (-123.456, 0.0, 1000.0)] == ["−123", "0", "1e+03"]
