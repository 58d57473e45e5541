"""The clients in docs/onnx.md, as they stand there: what they need is in the ONNX file, and nothing else."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.dataset.cifar10 import load
from tasks.dataset.image import load_image
from tasks.inference.onnx_classifier import load_model
from tasks.params import Params
from tasks.workspace.splits import load_splits
from tests.conftest import ROOT

PACKAGES = ROOT / "tests" / "javascript"

# A finder before all others that knows nothing of this project, which is installed where the tests run.
ALONE = """
import runpy, sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"flows", "models", "onnx", "tasks", "tests", "torch"}:
            raise ImportError(f"{name} is not for a client")
sys.meta_path.insert(0, Nothing())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def client(language: str) -> str:
    """The one block of that language in the docs."""
    text = (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return str(block)


def printed(command: list[str], folder: Path) -> list[tuple[str, float]]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [
        (name, float(value)) for name, value in (line.rsplit(maxsplit=1) for line in done.stdout.splitlines())
    ]


def expected(model: Path, images: np.ndarray) -> list[tuple[str, float]]:
    runtime = load_model(model)
    return [runtime.top_k(probabilities, 1)[0] for probabilities in runtime.predict_proba(images)]


@pytest.fixture(params=["onnx_model", "int8_model"])
def model(small_run: Params, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the file in a folder with nothing else."""
    shutil.copy(getattr(small_run.paths, request.param), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def python(folder: Path, script: str, *arguments: str) -> list[tuple[str, float]]:
    (folder / "client.py").write_text(script, encoding="utf-8")
    return printed([sys.executable, "-I", "-c", ALONE, "client.py", *arguments], folder)


@pytest.mark.parametrize("size", [(32, 32), (50, 50), (300, 300)])
def test_python(model: Path, size: tuple[int, int]) -> None:
    Image.effect_noise(size, 60).convert("RGB").save(model.with_name("picture.png"))
    ((name, probability),) = python(model.parent, client("python"), "model.onnx", "picture.png")
    ((best, value),) = expected(model, load_image(model.with_name("picture.png"))[None])
    assert name == best
    assert probability == pytest.approx(value, abs=1e-6)


def test_python_is_short_and_alone(tmp_path: Path) -> None:
    assert len(client("python").splitlines()) <= 15
    for project in ("tasks.inference.onnx_classifier", "models", "flows"):
        with pytest.raises(AssertionError, match="is not for a client"):
            python(tmp_path, f"import {project}")


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder with the packages of package-lock.json, by hash, installed where that is newer."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        unavailable("needs Node and npm; on Debian: apt-get install nodejs npm")
    installed = PACKAGES / "node_modules" / ".package-lock.json"
    if (
        not installed.is_file()
        or installed.stat().st_mtime < (PACKAGES / "package-lock.json").stat().st_mtime
    ):
        done = subprocess.run(
            ["npm", "ci", "--ignore-scripts"], cwd=PACKAGES, capture_output=True, text=True, check=False
        )
        if done.returncode:
            unavailable(f"npm ci cannot install what tests/javascript names: {done.stderr.splitlines()[:1]}")
    return PACKAGES


def unavailable(reason: str) -> None:
    if "CIFARFLOW_REQUIRE_NODE" in os.environ:
        pytest.fail(f"CIFARFLOW_REQUIRE_NODE is set, but: {reason}")
    pytest.skip(reason)


def javascript(model: Path, packages: Path, images: np.ndarray) -> list[tuple[str, float]]:
    folder = model.parent
    (folder / "node_modules").symlink_to(packages / "node_modules")
    (folder / "client.mjs").write_text(client("javascript"), encoding="utf-8")
    (folder / "pictures.rgb").write_bytes(images.tobytes())
    return printed(["node", "client.mjs", "model.onnx", "pictures.rgb"], folder)


def test_javascript(small_run: Params, model: Path, packages: Path) -> None:
    images = load_splits(Path(small_run.paths.splits)).test.images.numpy()
    found, wanted = javascript(model, packages, images), expected(model, images)
    assert len(found) == len(images)
    assert [name for name, _ in found] == [name for name, _ in wanted]
    assert np.abs([a - b for (_, a), (_, b) in zip(found, wanted, strict=True)]).max() < 1e-5


def test_javascript_on_the_test_images_of_cifar10(model: Path, packages: Path, cifar10: Path) -> None:
    images = load(cifar10, "CIFAR-10").test_images
    found, wanted = javascript(model, packages, images), expected(model, images)
    assert [name for name, _ in found] == [name for name, _ in wanted]
    assert np.abs([a - b for (_, a), (_, b) in zip(found, wanted, strict=True)]).max() < 1e-5


def test_the_lock_names_hashes_and_no_registry() -> None:
    lock = (PACKAGES / "package-lock.json").read_text(encoding="utf-8")
    assert "://" not in lock
    assert lock.count('"integrity": "sha512-') == lock.count('"node_modules/')
    assert re.findall(r'"([\w-]+)": "\d+\.\d+\.\d+"', (PACKAGES / "package.json").read_text()) == [
        "onnxruntime-web",
        "protobufjs",
    ]
