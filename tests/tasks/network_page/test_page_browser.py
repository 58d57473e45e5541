"""The page in Chromium: the same numbers, every value within reach, learning and undoing, light and dark."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from tasks.inference.onnx_classifier import load_model
from tasks.workspace.splits import load_splits
from tests.tasks.test_report import CONTRAST

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NUM_IMAGES = 1000
FORWARD = """
images => {
  const { size, mean, std, temperature } = page.data;
  const bytes = network.decodePixels(images), length = 3 * size * size;
  return Array.from({ length: bytes.length / length }, (_, i) => {
    const x = network.normalize(bytes.subarray(i * length, (i + 1) * length), size, mean, std);
    return Array.from(network.forward(page.parameters, x, temperature).output.values);
  });
}
"""


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")], ids=str)
def themed_page(
    trained: Path, browser: "Browser", request: pytest.FixtureRequest
) -> Iterator[tuple["Page", list[str]]]:
    """The page in a browser, and what its console and network reported."""
    width, theme = request.param
    context = browser.new_context(viewport={"width": width, "height": 850}, color_scheme=theme)
    page, problems = context.new_page(), []
    url = (trained / "network.html").as_uri()
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda asked: None if asked.url.startswith((url, "data:")) else problems.append(asked.url)
    )
    page.goto(url)
    yield page, problems
    context.close()


@pytest.fixture
def page(trained: Path, browser: "Browser") -> Iterator["Page"]:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page.goto((trained / "network.html").as_uri())
    yield page
    page.close()


def probabilities(page: "Page") -> list[str]:
    return page.locator(".outputs .share").all_inner_texts()


def choose_mistake(page: "Page") -> None:
    page.locator("#mistakes button").first.click()


def read_loss(page: "Page") -> float:
    return float(
        re.findall(r"J (?:=|.* is) ([\d.e−]+?)\.(?: |$)", page.inner_text("#loss"))[0].replace("−", "-")
    )


def test_page_in_chromium_agrees_with_onnx_runtime_on_1000_test_images(trained: Path, page: "Page") -> None:
    images = load_splits(trained / "splits.safetensors").test.images[:NUM_IMAGES].numpy()
    found = np.array(page.evaluate(FORWARD, base64.b64encode(images.tobytes()).decode()))
    assert np.abs(found - load_model(trained / "model.onnx").predict_proba(images)).max() < 1e-3


def test_page_is_complete_and_readable(themed_page: tuple["Page", list[str]]) -> None:
    page, problems = themed_page
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
    choose_mistake(page)
    page.locator("[data-layer=conv2] .cell > .map canvas").nth(15).click()
    page.click("#step")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    faint = [html for html in page.evaluate(CONTRAST) if 'class="main"' not in html]
    assert faint == [], "text too faint to read"
    counts = {
        layer: page.locator(f"[data-layer={layer}] .cell > .map canvas").count()
        for layer in ("x", "conv1", "pool1", "conv2", "pool2", "fc1", "fc2")
    }
    assert counts == {"x": 3, "conv1": 6, "pool1": 6, "conv2": 16, "pool2": 16, "fc1": 1, "fc2": 1}
    assert page.locator("[data-layer=conv1] .filters canvas").count() == 6
    assert page.locator("[data-layer=conv2] .filters canvas").count() == 16 * 6
    assert len(probabilities(page)) == 10
    assert problems == []


@pytest.mark.parametrize(
    ("layer", "number", "products", "field"),
    [
        ("conv1", 2, 75, "5 x 5"),
        ("conv2", 9, 150, "14 x 14"),
        ("fc1", 0, 400, "whole"),
        ("fc2", 0, 120, "whole"),
    ],
)
def test_click_on_a_value_shows_its_arithmetic(
    page: "Page", layer: str, number: int, products: int, field: str
) -> None:
    page.locator(f"[data-layer={layer}] .cell > .map canvas").nth(number).click()
    steps = page.locator("#arithmetic .steps li").all_inner_texts()
    assert [step.split(":")[0] for step in steps] == ["multiply", "sum", "bias", "activate"]
    assert f"{products} products" in steps[0]
    assert page.locator("#arithmetic .products td").count() == products
    assert field in page.inner_text("#readout")


def test_click_on_a_probability_shows_its_products_and_softmax(page: "Page") -> None:
    page.locator(".outputs button").nth(3).click()
    steps = page.locator("#arithmetic .steps li").all_inner_texts()
    assert page.locator("#arithmetic .products td").count() == 84
    assert f"= {probabilities(page)[3]}" in steps[-1]
    page.locator("[data-layer=pool1] .cell > .map canvas").first.click()
    assert "max(" in page.inner_text("#arithmetic")
    page.locator("[data-layer=x] .cell > .map canvas").first.click()
    assert "/ 255" in page.inner_text("#arithmetic")


def test_pointing_at_a_value_frames_its_pixels_and_sources(page: "Page") -> None:
    canvas = page.locator("[data-layer=pool2] .cell > .map canvas").nth(4)
    canvas.hover()
    assert "16 x 16" in page.inner_text("#readout")
    assert page.evaluate("document.getElementById('field').style.width") == "50%"
    assert page.locator("[data-layer=conv2] .source:visible").count() == 1
    page.mouse.move(5, 5)
    assert "Convolution 1" in page.inner_text("#readout"), "the chosen value again"


def test_keyboard_reaches_every_value_and_a_screen_reader_hears_it(page: "Page") -> None:
    first = page.locator("[data-layer=conv1] .cell > .map canvas").first
    first.focus()
    page.locator("[data-layer=pool1] .cell > .map canvas").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert "Pooling 1, feature map 1, row 2, column 2" in page.inner_text("#arithmetic")
    assert "Pooling 1, feature map 1, row 2, column 2" in (page.locator("#announcement").text_content() or "")
    page.keyboard.press("PageDown")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Pooling 1, map 2")
    page.keyboard.press("Enter")
    assert "Pooling 1, feature map 2, row 2, column 2" in page.inner_text("#arithmetic")
    tab_stops = page.locator("[data-layer=pool1] canvas[tabindex='0']").count()
    assert tab_stops == 1, "Tab goes from layer to layer"


def test_a_step_lowers_the_loss_and_back_undoes_it(page: "Page") -> None:
    choose_mistake(page)
    before, loss = probabilities(page), read_loss(page)
    page.click("#step")
    assert "It fell." in page.inner_text("#loss")
    assert read_loss(page) < loss
    assert page.locator("#gradients li").count() == 7
    once = probabilities(page)
    assert once != before
    page.click("#steps")
    assert page.inner_text("#changed").startswith("The page now shows the network after 11 steps")
    for _ in range(10):
        page.click("#back")
    assert probabilities(page) == once
    page.click("#back")
    assert probabilities(page) == before
    assert read_loss(page) == loss
    assert page.locator("#back").is_disabled()
    assert page.evaluate("page.theta === page.trained")


def test_long_steps_diverge_and_the_page_says_so(page: "Page") -> None:
    page.select_option("#batch", "all")
    page.evaluate("document.getElementById('alpha').value = 0")
    page.click("#steps")
    (loss,) = re.findall(r"mean J = (.+?)\.$", page.inner_text("#others"))
    assert loss == "not a number any more" or float(loss.replace("−", "-")) > 2
    page.click("#reset")
    page.select_option("#batch", "one")
    page.click("#step")
    assert "memorized one answer and forgot the rest" in page.inner_text("#others")


def test_photograph_and_drawing_are_classified(page: "Page", tmp_path: Path) -> None:
    page.locator("summary").click()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    page.set_input_files("#photograph", tmp_path / "photo.png")
    page.locator("#chosen", has_text="photo.png, made small").wait_for()
    assert page.evaluate("page.pixels.length") == 3072
    page.set_input_files("#photograph", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no image"})
    page.locator("#chosen", has_text="cannot read a.txt").wait_for()
    page.click("#clear")
    white = probabilities(page)
    page.locator("#drawing").hover()
    page.mouse.down()
    page.mouse.move(400, 300, steps=5)
    page.mouse.up()
    assert page.evaluate("page.pixels.includes(0)")
    assert probabilities(page) != white
    page.click("#clear")
    page.locator("#drawing").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press(" ")
    assert 0 < page.evaluate("page.pixels.filter(value => value === 0).length") <= 2 * 2 * 3, "one dot"


def test_a_small_image_as_it_is_keeps_its_pixels(trained: Path, page: "Page", tmp_path: Path) -> None:
    image = load_splits(trained / "splits.safetensors").test.images[7].numpy()
    Image.fromarray(image).save(tmp_path / "seven.png")
    page.set_input_files("#photograph", tmp_path / "seven.png")
    page.locator("#chosen", has_text="seven.png").wait_for()
    assert page.evaluate("Array.from(page.pixels)") == image.flatten().tolist()


def test_without_javascript_the_page_is_a_walk_through_one_image(trained: Path, browser: "Browser") -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 400, "height": 850})
    page = context.new_page()
    page.goto((trained / "network.html").as_uri())
    text = page.inner_text("body")
    assert "Without JavaScript this page is a walk through one image." in text
    assert "Choose an image" not in text
    assert "Learn from" not in text
    assert page.locator("main img:visible").count() == 9
    assert page.locator("#arithmetic .products td").count() == 75
    assert page.locator(".outputs p:visible").count() == 10
    context.close()
