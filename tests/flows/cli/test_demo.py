"""The demo as its user has it: the command, and a browser."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

import pytest
from PIL import Image

from tasks.params import Params
from tests.conftest import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CIFARFLOW = Path(sys.executable).parent / "cifarflow"
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def url(small_run: Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "artifacts").mkdir()
    shutil.copy(small_run.paths.onnx_model, folder / "artifacts")
    with subprocess.Popen([CIFARFLOW, "demo"], cwd=folder, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        line = next(line for line in demo.stdout if line.startswith("Open "))
        yield line.split()[1]
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 0
    assert output.splitlines()[-1] == "stopped"


@pytest.fixture(scope="module")
def requested() -> list[str]:
    """The hosts that the page asked for anything."""
    return []


@pytest.fixture(scope="module")
def page(browser: "Browser", url: str, requested: list[str]) -> Iterator["Page"]:
    opened = browser.new_page()
    opened.set_default_timeout(WAIT_MS)
    opened.on("request", lambda request: requested.append(str(urlparse(request.url).hostname)))
    opened.goto(url)
    opened.get_by_role("tab", name="An image").wait_for()
    yield opened
    opened.close()


def open_tab(page: "Page", name: str) -> None:
    page.get_by_role("tab", name=name).click()


def set_slider(page: "Page", label: str, value: str) -> None:
    box = page.get_by_label(f"number input for {label}")
    box.fill(value)
    box.press("Tab")


def wait_for_output(page: "Page", label: str, text: str) -> None:
    page.wait_for_function(
        "([label, text]) => [...document.querySelectorAll('label')].some("
        "each => each.innerText.includes(label) && each.querySelector('textarea, input')?.value === text)",
        arg=[label, text],
    )


def test_is_bound_to_loopback(url: str) -> None:
    assert urlparse(url).hostname == "127.0.0.1"


def test_dropped_picture_gets_probabilities(page: "Page", tmp_path: Path) -> None:
    Image.effect_noise((60, 40), 50).convert("RGB").save(tmp_path / "noise.png")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "noise.png")
    page.get_by_text("trained on a generated sample").wait_for()
    page.wait_for_function(
        "() => document.querySelectorAll('[data-testid$=\"-confidence-set\"]').length == 10"
    )


def test_neuron_follows_its_sliders(page: "Page") -> None:
    open_tab(page, "A neuron")
    wait_for_output(page, "output", "f(1.1) = 0.7503")  # 0.5 + 1·0.8 - 2·0.4 + 3·0.2, through the sigmoid
    set_slider(page, "w1", "2.8")
    wait_for_output(page, "output", "f(3.1) = 0.9569")


def test_loss_follows_its_sliders(page: "Page") -> None:
    open_tab(page, "A loss")
    wait_for_output(page, "prediction and loss", "ŷ = 5, J(θ) = 4")  # the talk's example
    set_slider(page, "w0, the weight", "2")
    wait_for_output(page, "prediction and loss", "ŷ = 7, J(θ) = 0")


def test_path_follows_the_learning_rate(page: "Page") -> None:
    open_tab(page, "Gradient descent")
    wait_for_output(page, "outcome", "converged; steps: 1; J(θ) = 0")  # α = 1 / (2(x² + 1))
    set_slider(page, "learning rate α", "0.21")
    page.get_by_text("α = 0.21: diverged").wait_for()


def test_nothing_is_asked_of_anyone_else(page: "Page", requested: list[str]) -> None:
    page.wait_for_load_state("networkidle")
    assert set(requested) == {"127.0.0.1"}


def test_port_that_is_taken(url: str) -> None:
    done = subprocess.run(
        [CIFARFLOW, "demo", "--port", str(urlparse(url).port)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "is in use; choose another --port" in done.stderr
