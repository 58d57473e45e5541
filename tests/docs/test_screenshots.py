"""The pictures of README and docs show what their commands make now: their texts are compared, not pixels."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from tasks.params import read_params
from tasks.stages import STAGES
from tests.conftest import ROOT
from tests.shipped_params import PARAMS_FILE

IMAGES = ROOT / "docs" / "images"
MADE_BY = {
    "report.png": "docs/screenshots.py",
    "flow.png": "docs/screenshots.py",
    "recipes.svg": "benchmarks/recipes.py",
    "search.svg": "docs/training.md",  # the command stands above the picture
    "search_net76.svg": "docs/training.md",
}
RENEW = "the picture is of an earlier page; run: python docs/screenshots.py"


class Texts(HTMLParser):
    """The texts of a page's header, and its labels, which do not depend on results."""

    def __init__(self) -> None:
        super().__init__()
        self.path: list[str] = []
        self.header: list[str] = []
        self.labels: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.path.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.path and self.path.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        text = " ".join(data.split())
        if text and "header" in self.path:
            self.header.append(text)
            if self.path[-1] == "dt" or "nav" in self.path:
                self.labels.append(text)


def read_picture(name: str) -> list[str]:
    """The texts in a screenshot, which docs/screenshots.py has put into its metadata."""
    if not IMAGES.is_dir():
        pytest.skip("a project made by `cifarflow new` has no pictures of this one")
    with Image.open(IMAGES / name) as picture:
        return str(picture.info.get("Texts", "")).splitlines()


@pytest.fixture(scope="module")
def report() -> Texts:
    texts = Texts()
    texts.feed((ROOT / "reports" / "index.html").read_text(encoding="utf-8"))
    return texts


def test_every_picture_is_made_by_a_command() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    shown = {
        Path(target).name
        for page in pages
        for target in re.findall(r"!\[[^]]*\]\(([^)]*images/[^)]*)\)", page.read_text(encoding="utf-8"))
    }
    assert shown == MADE_BY.keys()
    for name, source in MADE_BY.items():
        assert name in (ROOT / source).read_text(encoding="utf-8")


def test_picture_of_the_report_has_its_labels(report: Texts) -> None:
    assert len(report.labels) > 10
    assert set(report.labels) <= set(read_picture("report.png")), RENEW


def test_picture_of_the_report_has_its_figures(report: Texts) -> None:
    if read_params(ROOT / "params.yaml") != read_params(PARAMS_FILE):
        pytest.skip("the results are of this project's own parameters")
    assert set(report.header) <= set(read_picture("report.png")), RENEW


def test_picture_of_a_flow_run_has_a_task_run_per_stage() -> None:
    """Prefect draws the names of the timeline on a canvas; beside it stands their number."""
    assert f"{len(STAGES)} Task runs" in read_picture("flow.png"), RENEW


def read_svg(name: str) -> list[str]:
    return re.findall(r">([^<>]+)</text>", (IMAGES / name).read_text(encoding="utf-8"))


def find_searches() -> Iterator[tuple[str, list[str]]]:
    """Each picture of a search in docs/training.md, and the parameters that the command above it searches."""
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for command, name in re.findall(r"```sh\n([^`]*)```\n\n!\[[^]]*\]\(images/(search\w*\.svg)\)", text):
        yield name, re.findall(r"--over train\.(\w+)=", command)


def test_pictures_of_searches_have_the_parameters_of_their_commands() -> None:
    searches = dict(find_searches())
    assert searches.keys() == {name for name in MADE_BY if name.startswith("search")}
    for name, parameters in searches.items():
        texts = read_svg(name)
        assert texts[: texts.index("validation")] == parameters


def test_picture_of_recipes_has_recipes() -> None:
    texts = read_svg("recipes.svg")
    lines = texts[texts.index("validation accuracy, best epoch so far") + 1 :]
    assert lines
    assert {name for name in lines if not (ROOT / "recipes" / f"{name}.yaml").is_file()} == set()
