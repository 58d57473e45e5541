"""Find the training images that an exported model finds most similar, by the cosine of its features."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tasks.inference.batches import Images, predict_in_batches
from tasks.inference.onnx_classifier import BATCH_SIZE, CPU, session_predictor

DENSE = ("Gemm", "MatMul")
MAX_CANDIDATES = 2000  # The first 2,000 of each class are searched, which bounds the time it takes.


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
    last = next((node for node in reversed(nodes) if node.op_type in DENSE), None)
    last = last or next(node for node in reversed(nodes) if node.op_type == "Softmax")
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=last.input[0]))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=[CPU])
