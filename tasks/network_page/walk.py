"""Draw one image's way through the talk's network, for readers whose browser runs no JavaScript."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.classifier import Classifier
from models.net import Net
from tasks.reporting.gallery import encode_png, make_data_uri

GAP = 1  # pixels between two maps


@dataclass(frozen=True)
class Sheet:
    """A picture of a layer: all of its maps, or all of its filters, side by side."""

    uri: str
    width: int
    height: int


@torch.inference_mode()
def compute_layers(classifier: Classifier, image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Run `image` `(S, S, 3)` through a `Net` and return each layer's values, after ReLU."""
    net = classifier.network
    if not isinstance(net, Net):
        raise TypeError(f"only Net has these layers, not {type(net).__name__}")
    x = classifier.normalize(torch.from_numpy(image)[None])
    conv1 = F.relu(net.conv1(x))
    pool1 = net.pool(conv1)
    conv2 = F.relu(net.conv2(pool1))
    pool2 = net.pool(conv2)
    fc1 = F.relu(net.fc1(pool2.flatten(1)))
    fc2 = F.relu(net.fc2(fc1))
    layers = {"x": x, "conv1": conv1, "pool1": pool1, "conv2": conv2, "pool2": pool2, "fc1": fc1, "fc2": fc2}
    return {name: values[0].numpy() for name, values in layers.items()}


def draw_walk(classifier: Classifier, image: NDArray[np.uint8]) -> dict[str, Sheet]:
    """Draw all filters and the maps of each layer; white is the layer's largest value, black is 0.

    In filters, which also have negative weights, gray is 0.
    """
    layers = compute_layers(classifier, image)
    weights = dict(classifier.network.named_parameters())
    sheets = {"filters1": _draw_filters(weights["conv1.weight"].detach().numpy().transpose(0, 2, 3, 1), 6)}
    kernels = weights["conv2.weight"].detach().numpy()
    sheets["filters2"] = _draw_filters(kernels.reshape(-1, *kernels.shape[2:]), kernels.shape[1])
    for name, columns in (("conv1", 3), ("pool1", 3), ("conv2", 8), ("pool2", 8)):
        sheets[name] = _arrange(_scale(layers[name], 0), columns)
    for name in ("fc1", "fc2"):  # 120 neurons and 84 neurons
        sheets[name] = _arrange(_scale(layers[name].reshape(1, -1, 12), 0), 1)
    return sheets


def multiply_strongest(classifier: Classifier, image: NDArray[np.uint8]) -> dict[str, Any]:
    """Compute the largest value of the first convolution step by step, as a neuron does."""
    layers = compute_layers(classifier, image)
    channel, row, column = (int(i) for i in np.unravel_index(layers["conv1"].argmax(), layers["conv1"].shape))
    weights = {name: tensor.detach().numpy() for name, tensor in classifier.network.named_parameters()}
    window = layers["x"][:, row : row + 5, column : column + 5]
    weight, bias = weights["conv1.weight"][channel], float(weights["conv1.bias"][channel])
    products = window * weight
    total = float(products.sum())
    return {
        "place": (channel + 1, row + 1, column + 1),
        "groups": [
            {
                "color": color,
                "cells": [
                    [
                        (float(window[c, i, j]), float(weight[c, i, j]), float(products[c, i, j]))
                        for j in range(5)
                    ]
                    for i in range(5)
                ],
                "sum": float(products[c].sum()),
            }
            for c, color in enumerate(("red", "green", "blue"))
        ],
        "sum": total,
        "bias": bias,
        "z": total + bias,
    }


def _draw_filters(filters: NDArray[np.float32], columns: int) -> Sheet:
    return _arrange(_scale(filters, -float(np.abs(filters).max())), columns)


def _scale(values: NDArray[np.float32], darkest: float) -> NDArray[np.uint8]:
    """Map `darkest` to black and the largest absolute value to white."""
    largest = max(float(np.abs(values).max()), 1e-12)
    gray: NDArray[np.uint8] = (255 * (values - darkest) / (largest - darkest)).round().astype(np.uint8)
    return gray


def _arrange(maps: NDArray[np.uint8], columns: int) -> Sheet:
    """Arrange maps `(N, h, w)` or `(N, h, w, 3)` in rows of `columns` on a transparent sheet."""
    height, width = maps.shape[1:3]
    rows = -(-len(maps) // columns)
    sheet = Image.new("RGBA", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP))
    for number, pixels in enumerate(maps):
        row, column = divmod(number, columns)
        sheet.paste(Image.fromarray(pixels), (column * (width + GAP), row * (height + GAP)))
    return Sheet(make_data_uri(encode_png(sheet)), sheet.width, sheet.height)
