"""Take the README's pictures of the report and of a flow run in Prefect's UI: `python docs/screenshots.py`.

This needs the Chromium that is installed, and a finished `cifarflow run` for the report. The flow run is one
on the sample, reported to a Prefect server of its own on a free port. A picture also holds the texts that it
shows, which a test compares with the page: so it notices a picture of an earlier page.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from PIL import Image, PngImagePlugin
from playwright.sync_api import Page, sync_playwright

PROJECT = Path(__file__).parents[1]
IMAGES = PROJECT / "docs" / "images"
BIN = Path(sys.executable).parent
TEXTS = "Texts"  # the key in the picture's metadata, with a line per text
FIND_TEXTS = """(height) => {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), texts = [];
    while (walker.nextNode()) {
        const range = document.createRange();
        range.selectNodeContents(walker.currentNode);
        const box = range.getBoundingClientRect();
        if (box.width && box.height && box.bottom > 0 && box.bottom < height) texts.push(range.toString());
    }
    return texts;
}"""


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with browser_page() as page:
        take_report(page)
        with tempfile.TemporaryDirectory() as home:
            take_flow_run(page, Path(home))


@contextmanager
def browser_page() -> Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("needs Chromium; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1200, "height": 900})
        browser.close()


def take_report(page: Page) -> None:
    page.goto((PROJECT / "reports" / "index.html").as_uri())
    take_picture(page, IMAGES / "report.png", 900)


def take_picture(page: Page, file: Path, height: int) -> None:
    """Save the upper part of the page, and the texts in it."""
    page.screenshot(path=file, clip={"x": 0, "y": 0, "width": 1200, "height": height})
    texts = [" ".join(text.split()) for text in page.evaluate(FIND_TEXTS, height)]
    metadata = PngImagePlugin.PngInfo()
    metadata.add_itxt(TEXTS, "\n".join(filter(None, texts)))
    with Image.open(file) as picture:
        picture.save(file, pnginfo=metadata, optimize=True)


def take_flow_run(page: Page, home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    server = subprocess.Popen(
        [BIN / "prefect", "server", "start", "--port", str(port)], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        wait_for(f"{address}/api/health")
        subprocess.run([BIN / "cifarflow", "run", "--sample"], cwd=PROJECT, env=environment, check=True)
        found = requests.post(f"{address}/api/flow_runs/filter", json={"limit": 1}, timeout=10).json()
        page.goto(f"{address}/runs/flow-run/{found[0]['id']}")
        page.get_by_text("benchmark").first.wait_for(timeout=60_000)
        page.wait_for_timeout(4000)  # the timeline is drawn after its data is there
        take_picture(page, IMAGES / "flow.png", 640)
    finally:
        server.terminate()
        server.wait()


def wait_for(url: str) -> None:
    for _ in range(240):
        try:
            if requests.get(url, timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.5)
    sys.exit(f"nobody answers at {url}")


if __name__ == "__main__":
    main()
