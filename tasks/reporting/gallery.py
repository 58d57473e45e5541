"""Which test images the report shows, and how they get into the page."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_THUMBNAIL = 64  # pixels per side, in the page


def select_gallery(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the most confident errors, and of the least confident correct predictions, in this order."""
    confidence = probabilities.max(1)
    wrong = probabilities.argmax(1) != labels
    descending = np.argsort(-confidence, kind="stable")
    ascending = np.argsort(confidence, kind="stable")
    return descending[wrong[descending]][:count], ascending[~wrong[ascending]][:count]


def most_confident_correct(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> int:
    """Index of the most confident correct prediction."""
    return int((probabilities.max(1) * (probabilities.argmax(1) == labels)).argmax())


def gallery_items(
    indices: NDArray[np.int64],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """What the page shows of each of these images."""
    return [
        {
            **make_thumbnail(images[index]),
            "actual": classes[labels[index]],
            "predicted": classes[probabilities[index].argmax()],
            "confidence": float(probabilities[index].max()),
            "second": classes[np.argsort(-probabilities[index], kind="stable")[1]],
            "index": int(index),
        }
        for index in indices
    ]


def make_thumbnail(image: NDArray[np.uint8]) -> dict[str, Any]:
    """`uri`, and `size` in pixels per side."""
    thumbnail = Image.fromarray(image)
    thumbnail.thumbnail((MAX_THUMBNAIL, MAX_THUMBNAIL))
    return {"uri": make_data_uri(encode_png(thumbnail)), "size": thumbnail.width}


def encode_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def make_data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def label_error_items(
    found: NDArray[np.int64],
    images: Sequence[NDArray[np.uint8]],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    classes: Sequence[str],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """What the page shows of the images at the positions `found`, which `images` and `names` are of."""
    if not images:
        return []
    items = gallery_items(
        np.arange(len(found)), np.stack(images), labels[found], probabilities[found], classes
    )
    return [item | {"name": name} for item, name in zip(items, names, strict=True)]
