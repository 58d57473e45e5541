"""A page of a network that was trained on CIFAR-10, which all tests of the page share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.inference.onnx_classifier import load_model
from tasks.network_page.page import write_network_page
from tasks.params import Params, read_params
from tasks.reporting.report_page import ReportInputs
from tasks.stages import run_stage
from tasks.workspace.splits import load_splits
from tasks.workspace.weights import load_classifier
from tests.shipped_params import PARAMS_FILE


@pytest.fixture(scope="session")
def trained(once: Callable[[str, Callable[[Path], None]], Path], cifar10: Path) -> Path:
    """A folder with `network.html`, the page of a `net` that was trained on CIFAR-10, and with its files."""

    def make(folder: Path) -> None:
        values = read_params(PARAMS_FILE).model_dump()
        values["train"] |= {"epochs": 1, "lr": 0.002, "device": "cpu", "num_threads": 1}
        values["export"] |= {"parity_batch_sizes": [256], "parity_threads": [1]}
        paths = {name: str(folder / Path(path).name) for name, path in values["paths"].items()}
        params = Params.model_validate(values | {"paths": paths | {"data": str(cifar10)}})
        for stage in ("split", "train", "export"):
            run_stage(stage, params)
        write_network_page(read_page_inputs(folder), folder / "network.html", folder / "index.html")

    return once("network-page", make)


def read_page_inputs(folder: Path) -> ReportInputs:
    """What the page reads of a report's inputs, without evaluation and benchmark."""
    data = load_splits(folder / "splits.safetensors")
    classifier, metadata = load_classifier(folder / "model.safetensors")
    model = load_model(folder / "model.onnx")
    probabilities = model.predict_proba(data.test.images.numpy())
    nothing = np.zeros((0, 0), np.int64)
    return ReportInputs(data, classifier, metadata, model, probabilities, [], {}, nothing, {})
