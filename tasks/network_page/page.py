"""Write the page that shows the numbers flowing through the network that was just trained.

The page is one file without a library or a server. For the talk's network it holds the weights and computes
everything itself, in JavaScript; without JavaScript it is a walk through one image. For any other network it
shows what applies to each: its layers, its first filters and its probabilities.
"""

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from models.net import Net
from tasks.network_page.layers import list_layers
from tasks.network_page.walk import draw_walk, multiply_strongest
from tasks.network_page.weights import encode_weights
from tasks.reporting.gallery import make_data_uri, make_thumbnail, render_filters, select_gallery
from tasks.reporting.page import render_page
from tasks.reporting.report_page import ReportInputs
from tasks.workspace.files import write_text

FOLDER = Path(__file__).parent
SCRIPTS = ("network.js", "explain.js", "maps.js", "panel.js", "learn.js", "view.js")
MAX_EXAMPLES = 10  # classes of which the page has an image
MAX_MISTAKES = 6
MAX_PARAMETERS = 500_000  # 2 MB of page; Net has 62,006 for images of 32 x 32 and ten classes


def write_network_page(inputs: ReportInputs, network_page: Path, report_page: Path) -> None:
    """Write the page of the exported model's network; equal inputs give equal bytes."""
    network = inputs.classifier.network
    examples = choose_examples(inputs)
    shown = next((e for e in examples if e["predicted"] == e["label"]), examples[0])["index"]
    image = inputs.test_images[shown]
    values: dict[str, Any] = {
        "metadata": inputs.metadata,
        "project": inputs.model.project,
        "dataset": inputs.dataset,
        "classes": inputs.classes,
        "num_parameters": inputs.num_parameters,
        "report": os.path.relpath(report_page, network_page.parent),
        "shown": {
            **make_thumbnail(image),
            "label": inputs.classes[inputs.test_labels[shown]],
            "index": shown,
        },
        "probabilities": list_probabilities(inputs, shown),
        "tta": inputs.classifier.tta,
        "temperature": inputs.classifier.temperature,
        "size": inputs.classifier.image_size,
    }
    if isinstance(network, Net) and inputs.num_parameters <= MAX_PARAMETERS:
        script = Markup("\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS))  # noqa: S704 - This is the project's own code.
        data = {
            "size": inputs.classifier.image_size,
            "classes": inputs.classes,
            "mean": inputs.classifier.mean.flatten().tolist(),
            "std": inputs.classifier.std.flatten().tolist(),
            "temperature": inputs.classifier.temperature,
            "start": shown,
            "examples": [{**e, "pixels": encode_pixels(inputs.test_images[e["index"]])} for e in examples],
            **encode_weights(network),
        }
        values |= {
            "data": data,
            "script": script,
            "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            "walk": draw_walk(inputs.classifier, image),
            "strongest": multiply_strongest(inputs.classifier, image),
        }
        template = "network.html"
    else:
        filters = render_filters(inputs.classifier, image)
        values |= {
            "is_net": isinstance(network, Net),
            "network": inputs.metadata["network"],
            "layers": list_layers(inputs.classifier, image),
            "filters": filters and make_data_uri(filters),
        }
        template = "other_network.html"
    write_text(network_page, render_page(values, FOLDER / template))
    print(f"{network_page}: {network_page.stat().st_size / 1000:,.0f} kB")


def choose_examples(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Choose the first test image of each of the first classes, and the most confident errors."""
    labels, probabilities = inputs.test_labels, inputs.probabilities
    firsts = [int(np.flatnonzero(labels == k)[0]) for k in range(len(inputs.classes)) if (labels == k).any()]
    errors, _ = select_gallery(probabilities, labels, MAX_MISTAKES)
    chosen = [("class", index) for index in firsts[:MAX_EXAMPLES]] + [("mistake", int(i)) for i in errors]
    return [
        {
            "kind": kind,
            "index": index,
            "label": int(labels[index]),
            "predicted": int(probabilities[index].argmax()),
        }
        for kind, index in chosen
    ]


def encode_pixels(image: NDArray[np.uint8]) -> str:
    """Encode an image `(S, S, 3)` as base64 of its raw bytes, which no browser changes while decoding."""
    return base64.b64encode(np.ascontiguousarray(image).tobytes()).decode()


def list_probabilities(inputs: ReportInputs, index: int) -> Sequence[Mapping[str, Any]]:
    """List the exported model's probabilities of a test image, the largest ten of them if there are more."""
    row = inputs.probabilities[index]
    order = sorted(np.argsort(-row, kind="stable")[:MAX_EXAMPLES].tolist())
    return [{"name": inputs.classes[k], "probability": float(row[k])} for k in order]
