"""Names in figures are text, whatever they look like."""

import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pytest

from tasks.drift.check import plot_distributions, plot_effects
from tasks.reporting.charts import plot_confusion_matrix, plot_precision_and_recall
from tasks.reporting.svg import LIGHT, make_standalone

NAMES = [
    "$HOME $(id)",
    r"$\frac$",
    "a $5$ b",
    "_hidden",
    "<script>alert(1)</script> & ]]> --",
    LIGHT["ink"],
    "größe 猫",
    "x id=\"text_1\" 'DejaVu Sans'",
]
NOT_IN_XML = "\x00\x01\x1b\x7f\ufffe"
HALF = np.full(2, 0.5)
PLOTS: dict[str, Callable[[list[str]], str]] = {
    "confusion": lambda names: plot_confusion_matrix(np.eye(2, dtype=np.int64), names),
    "classes": lambda names: plot_precision_and_recall(names, [0.5, 0.6], [0.7, 0.8]),
    "effects": lambda names: plot_effects(names, HALF, 0.3),
    "distributions": lambda names: plot_distributions(names[0], HALF.astype(np.float32), HALF, HALF),
}


def find_texts(svg: str) -> str:
    return "\n".join(ET.fromstring(make_standalone(svg)).itertext())


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
@pytest.mark.parametrize("name", NAMES)
def test_figures_show_a_name_as_it_is(name: str, plot: Callable[[list[str]], str]) -> None:
    assert name in find_texts(plot([name, "cat"]))


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_figures_are_well_formed_whatever_the_name(plot: Callable[[list[str]], str]) -> None:
    texts = find_texts(plot([f"tab{NOT_IN_XML}ular", "cat"]))
    assert "tab\N{REPLACEMENT CHARACTER}" in texts
    assert "ular" in texts
