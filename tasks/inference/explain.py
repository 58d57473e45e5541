"""Explain a prediction of an exported model: by occlusion, and by the most similar training images.

Occlusion (Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901) covers each part of the image in turn, and
the exported file predicts the result. So it is the file in use that is explained, with quantization and
test-time augmentation, and PyTorch is not needed. Captum would explain the network before its export.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import ArrayLike, NDArray

from tasks.inference.onnx_classifier import (
    BATCH_SIZE,
    CPU,
    Images,
    OnnxClassifier,
    Predictor,
    Probabilities,
    predict_in_batches,
    session_predictor,
)

WINDOW = 1 / 4  # side of the covered square, as a share of the image's side
STRIDE = 1 / 16  # step between two squares, as a share of the image's side
DENSE = ("Gemm", "MatMul")
MAX_CANDIDATES = 2000  # The first 2,000 of each class are searched, which bounds the time it takes.


@dataclass(frozen=True)
class Occlusion:
    """The result of covering an image part by part."""

    evidence: NDArray[np.float64]
    """`(S, S)`: how far the class's log-odds fell while a pixel was covered, averaged over the windows that
    cover it; negative where the class became more probable"""
    window: tuple[int, int, int, int]
    """top, left, bottom, right of the window that lowers the log-odds most"""
    probabilities: Probabilities
    """`(classes,)`, probabilities with this window covered"""


def explain(model: OnnxClassifier, image: NDArray[np.uint8], target: int) -> Occlusion:
    """Find the pixels of `image` `(S, S, 3)` that make the class number `target` more probable."""
    return occlude(session_predictor(model.session), image, target, model.mean_color)


def occlude(predict: Predictor, image: NDArray[np.uint8], target: int, fill: ArrayLike) -> Occlusion:
    """Cover one square of `image` `(S, S, 3)` after the other, and measure how class `target` changes.

    `fill` is the color of the square, 0 to 255; the mean of the training images tells the network least. The
    change is measured in log-odds, because a probability close to 1 hardly changes.
    """
    size = len(image)
    window, stride = max(1, round(size * WINDOW)), max(1, round(size * STRIDE))
    # Squares also begin beyond the borders, so that each pixel is covered equally often.
    starts = range(stride - window, size, stride)
    windows = [
        (max(top, 0), max(left, 0), min(top + window, size), min(left + window, size))
        for top in starts
        for left in starts
    ]
    # The first copy stays as it is: the prediction to compare with.
    covered = np.repeat(image[None], len(windows) + 1, axis=0)
    for copy, (top, left, bottom, right) in zip(covered[1:], windows, strict=True):
        copy[top:bottom, left:right] = fill
    probabilities = predict_in_batches(predict, covered, BATCH_SIZE)
    odds = _log_odds(probabilities, target)
    # A large fall means that the covered part spoke for the class.
    falls = odds[0] - odds[1:]
    # Windows overlap, so a pixel's evidence is the mean over all windows that cover it.
    total, count = np.zeros((size, size)), np.zeros((size, size))
    for fall, (top, left, bottom, right) in zip(falls, windows, strict=True):
        total[top:bottom, left:right] += fall
        count[top:bottom, left:right] += 1
    strongest = int(falls.argmax())
    return Occlusion(total / count, windows[strongest], probabilities[strongest + 1])


def _log_odds(probabilities: Probabilities, target: int) -> NDArray[np.float64]:
    """Return the log-odds of a class against all others, `(N,)`.

    The sum of the other probabilities keeps the digits that 1 - p loses where p is close to 1.
    """
    own = probabilities[:, target].astype(np.float64)
    others = np.delete(probabilities, target, axis=1).astype(np.float64).sum(1)
    tiny = np.finfo(np.float32).tiny
    odds: NDArray[np.float64] = np.log(own.clip(tiny)) - np.log(others.clip(tiny))
    return odds


class NeighborIndex:
    """An index of training images by their features, which are the inputs of the model's last dense layer.

    A class is indexed when it is first searched. In a model without a dense layer the features are the
    logits. With test-time augmentation they are those of the last augmented copy of the image.
    """

    def __init__(self, file: Path, images: Images, labels: NDArray[np.int64]) -> None:
        self._session = _create_feature_session(file)
        self._images, self._labels = images, labels
        self._candidates: dict[int, tuple[NDArray[np.int64], NDArray[np.float32]]] = {}

    def find(self, image: NDArray[np.uint8], target: int, count: int) -> list[int]:
        """Return the positions of the `count` images of class `target` closest to `image`, closest first."""
        if target not in self._candidates:
            indices = np.flatnonzero(self._labels == target)[:MAX_CANDIDATES]
            self._candidates[target] = indices, self.compute_features(self._images[indices])
        indices, features = self._candidates[target]
        # All features have length 1, so their dot product is the cosine.
        similarity = features @ self.compute_features(image[None])[0]
        return [int(index) for index in indices[np.argsort(-similarity, kind="stable")[:count]]]

    def find_images(self, image: NDArray[np.uint8], target: int, count: int) -> list[NDArray[np.uint8]]:
        """Return the training images `(S, S, 3)` that `find` finds."""
        return [self._images[position] for position in self.find(image, target, count)]

    def compute_features(self, images: Images) -> NDArray[np.float32]:
        """Compute the features `(N, features)` of images; each row is a vector of length 1."""
        features = predict_in_batches(session_predictor(self._session), images, BATCH_SIZE)
        features = features.reshape(len(features), -1)
        return features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)  # type: ignore[no-any-return]


def _create_feature_session(file: Path) -> onnxruntime.InferenceSession:
    """Load the model with the input of its last dense layer, or of its Softmax, as its only output."""
    model = onnx.load(file)
    nodes = model.graph.node
    # The first match from the end is the last dense layer, whose input the classes are computed from.
    last = next((node for node in reversed(nodes) if node.op_type in DENSE), None)
    last = last or next(node for node in reversed(nodes) if node.op_type == "Softmax")
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=last.input[0]))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=[CPU])
