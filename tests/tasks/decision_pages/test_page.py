"""The page of a comparison: its counts, its size, its bytes, and what people supplied."""

import re
from pathlib import Path

import numpy as np
import pytest

from tasks.decision_pages.changes import CodeChange
from tasks.decision_pages.page import ComparedModels, list_classes, measure, write_page
from tasks.registry import ledger
from tests.tasks.decision_pages.comparisons import CONFIG, compare_random_models

CODE = CodeChange("b" * 40 + "-dirty", "a" * 40, ["abc1234 Faster <i>convolution</i>"])
MAX_BYTES = 400_000


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read_headings(html: str) -> dict[str, int]:
    found = re.findall(r"<h2>([^:<]+): ([\d,]+)</h2>", html)
    return {heading: int(count.replace(",", "")) for heading, count in found}


@pytest.mark.parametrize("size", [32, 96])
def test_page_counts_all_images_as_the_ledger_does_and_shows_sixty(size: int) -> None:
    entry, models = compare_random_models(size=size)
    html = write_page(entry, ledger.read_ledger(), models, CODE, 0.95).read_text()
    better, worse = entry.evidence["discordant_challenger"], entry.evidence["discordant_champion"]
    assert read_headings(html) == {"Images that get worse": worse, "Images that get better": better}
    for heading, total in read_headings(html).items():
        section = html[html.index(heading) :].partition("</section>")[0]
        by_class = re.findall(r"<h3>.+? <small>\d+ of (\d+)</small></h3>", section)
        assert sum(map(int, by_class)) == total
    assert html.count('alt="validation image') == 60
    assert len(html.encode()) < MAX_BYTES
    assert '<p class="kicker">cifarflow · decision ' in html
    named = write_page(entry, ledger.read_ledger(), models, CODE, 0.95, "insects").read_text()
    assert '<p class="kicker">insects · decision ' in named
    assert f"{better} right that the model that serves gets wrong, and {worse} wrong" in html
    rows = list_classes(models, 0.95)[0]
    assert sum(row.images for row in rows) == entry.evidence["val_images"]


def test_each_image_shows_the_answers_of_both_models() -> None:
    entry, models = compare_random_models(100)
    html = write_page(entry, ledger.read_ledger(), models, CODE, 0.95).read_text()
    challenger, champion = (each.argmax(1) for each in models.val_probabilities)
    shown = re.findall(r'alt="validation image (\d+), .+?</li>', html, re.DOTALL)
    blocks = re.findall(r'alt="validation image \d+, .+?</li>', html, re.DOTALL)
    assert len(set(shown)) == int((challenger != champion).sum()) - count_both_wrong(models)
    for index, block in zip(map(int, shown), blocks, strict=True):
        names = re.findall(r"[✓✗] (.+?)</span>", block)
        marks = re.findall(r"([✓✗]) ", block)
        label = int(models.data.val.labels[index])
        predicted = [champion[index], challenger[index]]
        assert names == [escape(models.classes[k]) for k in predicted]
        assert marks == ["✓" if k == label else "✗" for k in predicted]


def count_both_wrong(models: ComparedModels) -> int:
    labels = models.data.val.labels.numpy()
    challenger, champion = (each.argmax(1) for each in models.val_probabilities)
    return int(((challenger != champion) & (challenger != labels) & (champion != labels)).sum())


def escape(name: str) -> str:
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def test_same_inputs_give_the_same_bytes() -> None:
    entry, models = compare_random_models(200)
    page = write_page(entry, ledger.read_ledger(), models, CODE, 0.95)
    first = page.read_bytes()
    page.unlink()
    assert write_page(entry, ledger.read_ledger(), models, CODE, 0.95).read_bytes() == first


def test_page_escapes_what_people_supplied() -> None:
    entry, models = compare_random_models(100)
    html = write_page(entry, ledger.read_ledger(), models, CODE, 0.95).read_text()
    assert "plane &lt;b&gt;" in html
    assert "Faster &lt;i&gt;convolution&lt;/i&gt;" in html
    assert not {"plane <b>", "<i>convolution"} & set(re.findall(r"plane <b>|<i>convolution", html))
    assert not re.search(r"<(script|iframe|object|link rel=.stylesheet)", html)


def test_page_says_what_has_changed() -> None:
    entry, models = compare_random_models(100)
    html = write_page(entry, ledger.read_ledger(), models, CODE, 0.95).read_text()
    for name, before, now in (("train.lr", "0.2", "0.1"), ("train.epochs", "none", "3"), ("seed", "1", "0")):
        assert f"<code>{name}</code></td><td>{before}</td><td>{now}</td>" in html
    assert "The data differ; version 1 did not count its images by class." in html
    assert "by code that is in no commit" in html


def test_page_has_intervals_on_all_own_and_added_images() -> None:
    entry, models = compare_random_models(300, added=60)
    html = write_page(entry, ledger.read_ledger(), models, CODE, 0.95).read_text()
    for name, images in (("all", 300), ("the data set&#39;s own", 240), ("added", 60)):
        assert re.search(rf"<tr><td>{name}</td><td>.+<td>{images}</td></tr>", html)
    added = measure("added", np.arange(240, 300), models, 0.95)
    assert added.gain is not None
    assert added.gain[0] == pytest.approx(entry.evidence["val_added"]["accuracy_gain"])
    assert added.challenger[1] < added.challenger[0] < added.challenger[2]


def test_first_model_is_shown_with_its_errors() -> None:
    entry, models = compare_random_models(100, accuracies=(0.8,))
    html = write_page(entry, ledger.read_ledger(), models, CodeChange(), CONFIG.confidence).read_text()
    wrong = int((models.val_probabilities[0].argmax(1) != models.data.val.labels.numpy()).sum())
    assert read_headings(html) == {"Images that it gets wrong": wrong}
    assert "No other model serves" in html
    assert "What has changed" not in html
