"""The exported files on ONNX Runtime 1.17, the oldest that docs/onnx.md names, in a folder of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from models.classifier import Classifier
from models.net import Net
from tasks.inference.onnx_classifier import Images, Probabilities, create_session, session_predictor
from tasks.onnx.graph import EXPORTER_OPSETS, torch_onnx_export
from tasks.onnx.qdq import Calibration, quantize_static_qdq
from tasks.params import Params
from tasks.workspace.splits import load_splits
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

LOCK = ROOT / "tests/e2e/old_runtime.lock"
PROGRAM = """
import sys
import numpy as np
import onnxruntime

model, images, probabilities = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
(answer,) = session.run(["probabilities"], {"images": np.load(images)})
np.save(probabilities, answer)
print(onnxruntime.__version__)
"""


@pytest.fixture(scope="module")
def old_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of the lock, which has wheels for each Python that the project supports."""
    folder = tmp_path_factory.mktemp("old-runtime")
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    uv = Path(sys.executable).with_name("uv")
    done = subprocess.run(
        [uv, "pip", "install", *options, "--python", sys.executable, "--target", folder, "-r", LOCK],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"cannot install {LOCK}: {done.stderr}")
    return folder


@pytest.fixture
def predict_old(old_runtime: Path, tmp_path: Path) -> Callable[[Path, Images], Probabilities]:
    """Gives `predict_old(file, images)`: what a program of its own says that has the old runtime."""

    def predict(file: Path, images: Images) -> Probabilities:
        np.save(tmp_path / "images.npy", images)
        files = [file, tmp_path / "images.npy", tmp_path / "probabilities.npy"]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *files],
            env=os.environ | {"PYTHONPATH": str(old_runtime)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(("1.17.", "1.20."))
        return np.asarray(np.load(tmp_path / "probabilities.npy"))

    return predict


def predict_new(file: Path, images: Images) -> Probabilities:
    return session_predictor(create_session(file))(images)


def test_exported_files_run_on_old_runtime(
    small_run: Params, predict_old: Callable[[Path, Images], Probabilities]
) -> None:
    images = load_splits(Path(small_run.paths.splits)).test.images.numpy()
    fp32, int8 = Path(small_run.paths.onnx_model), Path(small_run.paths.int8_model)
    assert np.abs(predict_old(fp32, images) - predict_new(fp32, images)).max() < 1e-5
    actual, expected = predict_old(int8, images), predict_new(int8, images)
    # Each runtime rounds in its own way what lies between two integers.
    assert (actual.argmax(1) == expected.argmax(1)).mean() >= 0.99
    assert np.abs(actual - expected).max() < 0.1


@pytest.mark.parametrize("name", ["convolutions", "net with test-time views"])
def test_files_of_other_networks_run_on_old_runtime(
    tmp_path: Path, predict_old: Callable[[Path, Images], Probabilities], name: str
) -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 32, 5, 2), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))
    network, tta = (Net(), "flip_translate") if "views" in name else (nn.Sequential(*layers), "none")
    classifier = Classifier(network, [0.5] * 3, [0.2] * 3, tta).eval()
    images = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    fp32, int8 = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    onnx.save(torch_onnx_export(classifier, EXPORTER_OPSETS[0]), fp32)
    onnx.save(quantize_static_qdq(fp32, Calibration(images, "minmax", 99.99), 7), int8)
    with torch.inference_mode():
        expected = classifier(torch.from_numpy(images)).numpy()
    assert np.abs(predict_old(fp32, images) - expected).max() < 1e-5
    assert np.abs(predict_old(int8, images) - predict_new(int8, images)).max() < 0.02
