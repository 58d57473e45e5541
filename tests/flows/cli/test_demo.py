"""The demo as its user has it: the command, and a browser."""

import contextlib
import http.client
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from flows.cli.demo_server import MAX_OTHER_BYTES, MAX_UPLOAD_BYTES
from flows.toys.catalog import TOYS
from tasks.dataset.image import load_image
from tasks.drift.recorded_outputs import OutputRecorder, read_outputs
from tasks.inference.explain import explain
from tasks.inference.onnx_classifier import load_model
from tasks.params import Params
from tasks.reporting.gallery import draw_evidence
from tasks.workspace.splits import load_splits
from tests.conftest import ROOT
from tests.shipped_params import PARAMS_FILE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow

CIFARFLOW = Path(sys.executable).parent / "cifarflow"
TIMEOUT_S = 120
BROWSER_TIMEOUT_MS = 60_000


@contextlib.contextmanager
def start_demo(folder: Path, *options: str, **environment: str) -> Iterator[str]:
    """The URL of a demo that runs in the folder; SIGTERM should end it as Ctrl-C does.

    (Not SIGINT, which is ignored in what `nohup make test &` starts.) A demo that hangs is killed.
    """
    with subprocess.Popen(
        [CIFARFLOW, "demo", *options],
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        killer = threading.Timer(TIMEOUT_S, demo.kill)  # ends the reading of its output
        killer.start()
        try:
            line = next((line for line in demo.stdout if line.startswith("Open ")), None)
            killer.cancel()
            assert line is not None, f"the demo ended with {demo.wait()}"
            yield line.split()[1]
            demo.terminate()
            output, _ = demo.communicate(timeout=TIMEOUT_S)
        finally:
            killer.cancel()
            demo.kill()
    assert demo.returncode == 0
    assert output.splitlines()[-1] == "stopped"


@pytest.fixture(scope="module")
def project(small_run: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for file in (PARAMS_FILE, ROOT / "dvc.yaml"):
        shutil.copy(file, folder)
    (folder / "artifacts").mkdir()
    for name in (small_run.paths.onnx_model, small_run.paths.splits):
        shutil.copy(name, folder / "artifacts")
    return folder


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's temporary directory, where somebody else has Gradio's own folder already."""
    folder = tmp_path_factory.mktemp("temporary")
    (folder / "gradio").write_text("another user's")
    return folder


@pytest.fixture(scope="module")
def url(project: Path, temporary: Path) -> Iterator[str]:
    with start_demo(project, "--record", "asked.jsonl", TMPDIR=str(temporary)) as url:
        yield url
    assert not list(temporary.glob("cifarflow-demo-*")), "it ended, so nothing of it is left"


@pytest.fixture(scope="module")
def requested_hosts() -> list[str | None]:
    """The hosts of all requests that the page made."""
    return []


@pytest.fixture(scope="module")
def page(browser: "Browser", url: str, requested_hosts: list[str | None]) -> Iterator["Page"]:
    page = browser.new_page()
    page.set_default_timeout(BROWSER_TIMEOUT_MS)
    page.on("request", lambda request: requested_hosts.append(urlparse(request.url).hostname))
    page.goto(url)
    page.get_by_role("tab", name="An image").wait_for()
    yield page
    page.close()


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


def test_demo_is_bound_to_loopback(url: str) -> None:
    assert urlparse(url).hostname == "127.0.0.1"


PATHS = ("", "config", "gradio_api/info", "gradio_api/upload", "gradio_api/queue/join", "gradio_api/file=x")


def ask(url: str, headers: dict[str, str], body: bytes | None = None) -> int:
    """The status of the answer; a refusal may be read by no other page."""
    try:
        answer = urlopen(Request(url, body, headers), timeout=TIMEOUT_S)
    except HTTPError as error:
        answer = error
    with answer:
        assert answer.status == 200 or "access-control-allow-origin" not in answer.headers
        return int(answer.status)


@pytest.mark.parametrize("path", PATHS)
def test_demo_serves_nobody_without_the_token(url: str, path: str) -> None:
    root = f"http://{urlparse(url).netloc}/"
    for address in (root + path, f"{root}{'0' * 32}/{path}", f"{url.rstrip('/')}0/{path}"):
        assert ask(address, {}) == ask(address, {}, b"{}") == 401


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "page.example"}, 421),
        ({"Host": "page.example", "Origin": "http://page.example"}, 421),
        ({"Origin": "http://page.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_demo_serves_no_other_page_whatever_it_knows(
    url: str, path: str, headers: dict[str, str], status: int
) -> None:
    assert ask(url + path, headers) == ask(url + path, headers, b"{}") == status


@pytest.mark.parametrize("host", ["127.0.0.1:1234", "localhost", "[::1]:80"])
def test_demo_serves_its_user_through_a_forwarded_port(url: str, host: str) -> None:
    assert ask(f"{url}config", {"Host": host, "Origin": f"http://{host}"}) == 200


def test_demo_is_closed_to_another_user(url: str, temporary: Path, other_uid: int) -> None:
    (folder,) = temporary.glob("cifarflow-demo-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    child = os.fork()  # another user need not have a Python to start
    if child == 0:
        os.setgid(other_uid)
        os.setuid(other_uid)
        root = f"http://{urlparse(url).netloc}/"
        is_refused = all(ask(root + path, {}) == 401 for path in PATHS)
        os._exit(0 if is_refused and not os.access(folder, os.R_OK) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def build_upload(num_bytes: int) -> tuple[bytes, str]:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return head + bytes(num_bytes) + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("path", "status"), [("gradio_api/upload", 413), ("gradio_api/queue/join", 413)])
def test_demo_takes_no_huge_upload_and_keeps_none_of_it(
    url: str, temporary: Path, path: str, status: int, *, chunked: bool
) -> None:
    content, kind = build_upload(MAX_UPLOAD_BYTES + 2 * MAX_OTHER_BYTES)
    if "upload" not in path:
        kind = "application/json"
    connection = http.client.HTTPConnection(urlparse(url).netloc, timeout=TIMEOUT_S)
    body = (content[i : i + 65536] for i in range(0, len(content), 65536)) if chunked else content
    # It need not read what it refuses, so the connection may end before the answer is read.
    with contextlib.closing(connection), contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request("POST", f"{urlparse(url).path}{path}", body, {"Content-Type": kind})
        with connection.getresponse() as answer:
            assert answer.status == status
    assert not [file for file in temporary.rglob("*") if file.stat().st_size > MAX_UPLOAD_BYTES / 2]


def test_demo_keeps_what_is_uploaded_in_its_private_folder(url: str, temporary: Path) -> None:
    content, kind = build_upload(1000)
    request = Request(f"{url}gradio_api/upload", content, {"Content-Type": kind})
    with urlopen(request, timeout=TIMEOUT_S) as answer:
        (name,) = json.load(answer)
    assert Path(name).is_relative_to(next(temporary.glob("cifarflow-demo-*")))


@pytest.mark.browser
def test_demo_takes_nothing_from_a_page_of_another_origin(
    browser: "Browser", url: str, temporary: Path
) -> None:
    page = browser.new_page()
    page.route("http://127.0.0.1:1/", lambda route: route.fulfill(body="<p>another page</p>"))
    page.goto("http://127.0.0.1:1/")
    before = sorted(temporary.rglob("*"))
    statuses: list[int] = []
    page.on("response", lambda response: statuses.append(response.status))
    for mode in ("no-cors", "cors"):
        page.evaluate(
            """async ([url, mode]) => {
              const form = new FormData();
              form.append('files', new Blob(['x'.repeat(1000)]), 'a.png');
              try { await fetch(url, {method: 'POST', mode, body: form, credentials: 'include'}); } catch {}
            }""",
            [f"{url}gradio_api/upload", mode],
        )
    page.close()
    assert set(statuses) <= {403}
    assert sorted(temporary.rglob("*")) == before


def wait_for_image(page: "Page", caption: str, expected: NDArray[np.uint8]) -> None:
    """Until the picture below the caption has these pixels.

    The function must not be async: Playwright takes a promise for true.
    """
    page.wait_for_function(
        """([caption, expected]) => {
          const texts = [...document.querySelectorAll('p')];
          const column = texts.find(each => each.innerText.startsWith(caption)).closest('.column');
          const image = column.querySelector('img');
          if (!image?.complete || image.naturalWidth != Math.sqrt(expected.length / 4)) return false;
          const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext('2d');
          canvas.drawImage(image, 0, 0);
          const pixels = canvas.getImageData(0, 0, image.naturalWidth, image.naturalHeight).data;
          return expected.every((value, i) => value == pixels[i]);
        }""",
        arg=[caption, np.pad(expected, ((0, 0), (0, 0), (0, 1)), constant_values=255).ravel().tolist()],
    )


@pytest.mark.browser
def test_demo_opens_with_an_example_of_each_class(page: "Page", small_run: Params) -> None:
    test = load_splits(Path(small_run.paths.splits)).test
    first, last = (test.images[test.labels.tolist().index(label)].numpy() for label in (0, 9))
    page.get_by_text("trained on a generated sample").wait_for()
    wait_for_image(page, "What the network sees: 32 x 32 pixels", first)
    page.wait_for_function(
        "() => document.querySelectorAll('[data-testid$=\"-confidence-set\"]').length == 10"
    )
    page.get_by_label("Thumbnail 10 of 10").click()
    wait_for_image(page, "What the network sees", last)
    # The nearest training images, which the page may draw after the pictures.
    page.get_by_label("of 6").nth(5).wait_for(state="attached")
    assert page.get_by_label("of 6").count() == 6


@pytest.mark.browser
def test_demo_shows_what_the_network_sees_and_what_moved_it(
    page: "Page", project: Path, small_run: Params, tmp_path: Path
) -> None:
    Image.effect_noise((60, 40), 50).convert("RGB").save(tmp_path / "noise.png")
    page.get_by_label("Remove Image").click()
    page.locator("input[type=file]").first.set_input_files(tmp_path / "noise.png")
    seen = load_image(tmp_path / "noise.png", 32)
    wait_for_image(page, "What the network sees", seen)
    model = load_model(Path(small_run.paths.onnx_model))
    evidence = explain(model, seen, int(model.predict_proba(seen[None]).argmax())).evidence
    wait_for_image(page, "What speaks for the first class", draw_evidence(seen, evidence))
    # The visitor's image once, none of the examples.
    recorded = read_outputs(project / "asked.jsonl", Path(small_run.paths.onnx_model), 10).probabilities
    np.testing.assert_allclose(recorded, model.predict_proba(seen[None]), atol=1e-6)


def test_demo_records_an_image_of_the_visitor_once_and_no_example(small_run: Params, tmp_path: Path) -> None:
    from flows.cli.demo_page import _Classifier

    model_file, record = Path(small_run.paths.onnx_model), tmp_path / "asked.jsonl"
    noise = [tmp_path / f"{name}.png" for name in ("example", "first", "second")]
    for file in noise:
        Image.effect_noise((32, 32), 50).convert("RGB").save(file)
    images = np.stack([load_image(file, 32) for file in noise])
    model = load_model(model_file)
    classifier = _Classifier(model, None, OutputRecorder(record, model_file), [images[0]])
    for image in (0, 1, 1, 0, 2):  # Gradio may report one change twice
        seen, *_ = classifier.classify(str(noise[image]))
        assert np.array_equal(seen, images[image])
    recorded = read_outputs(record, model_file, 10).probabilities
    np.testing.assert_allclose(recorded, model.predict_proba(images[1:]), atol=1e-6)


def test_demo_without_splits_says_so(small_run: Params, tmp_path: Path) -> None:
    import gradio as gr

    from flows.cli.demo_page import build_app

    blocks = build_app(Path(small_run.paths.onnx_model), tmp_path / "splits.safetensors")
    texts = [block.value for block in blocks.blocks.values() if isinstance(block, gr.Markdown)]
    assert any("No example images: " in text and "splits.safetensors not found" in text for text in texts)


@pytest.mark.browser
def test_demo_neuron_updates_with_its_sliders(page: "Page") -> None:
    open_tab(page, "A neuron")
    wait_for_output(page, "output", "f(1.1) = 0.7503")  # 0.5 + 1·0.8 - 2·0.4 + 3·0.2, through the sigmoid
    set_slider(page, "w1", "2.8")
    wait_for_output(page, "output", "f(3.1) = 0.9569")


@pytest.mark.browser
def test_demo_loss_updates_with_its_sliders(page: "Page") -> None:
    open_tab(page, "A loss")
    wait_for_output(page, "prediction and loss", "ŷ = 5, J(θ) = 4")  # the talk's example
    set_slider(page, "w0, the weight", "2")
    wait_for_output(page, "prediction and loss", "ŷ = 7, J(θ) = 0")


@pytest.mark.browser
def test_demo_has_all_toys_in_one_list_with_a_form(page: "Page", project: Path) -> None:
    open_tab(page, "All toys")
    figures = {file: file.read_bytes() for file in (project / "reports" / "toys").glob("*")}
    toys = page.get_by_label("toy", exact=True)
    toys.click()
    assert page.get_by_role("option").count() == len(TOYS)
    page.get_by_role("option", name="regression").click()
    page.get_by_text("7.5 hours give 63.78 points").wait_for()
    page.get_by_label("hours_asked").fill("10")
    page.get_by_role("button", name="Run").click()
    page.get_by_text("10 hours give 83.76 points").wait_for()
    page.get_by_label("learning_rate").fill("-1")
    page.get_by_role("button", name="Run").click()
    page.get_by_text("learning_rate should be a number greater than 0").wait_for()
    after = {file: file.read_bytes() for file in (project / "reports" / "toys").glob("*")}
    assert after == figures, "a visitor's figures are shown, not saved"


@pytest.mark.browser
def test_demo_gradient_descent_updates_with_the_learning_rate(page: "Page") -> None:
    open_tab(page, "Gradient descent")
    wait_for_output(page, "outcome", "converged; steps: 1; J(θ) = 0")  # α = 1 / (2(x² + 1))
    set_slider(page, "learning rate α", "0.21")
    page.get_by_text("α = 0.21: diverged").wait_for()


@pytest.mark.browser
def test_demo_page_requests_no_other_host(page: "Page", requested_hosts: list[str | None]) -> None:
    page.wait_for_load_state("networkidle")
    assert set(requested_hosts) == {"127.0.0.1"}


def test_demo_port_in_use_exits_2(url: str) -> None:
    result = subprocess.run(
        [CIFARFLOW, "demo", "--port", str(urlparse(url).port)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert result.returncode == 2
    assert "is in use; choose another --port" in result.stderr
