"""Choose and show the images that a challenger classifies otherwise than the champion."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.reporting.gallery import MAX_THUMBNAIL, make_thumbnail
from tasks.workspace.splits import Split

MAX_IMAGES = 60
"""number of images on a page, at most"""
MAX_LOSSLESS = 32
"""width in pixels up to which images are stored as PNG; larger ones as JPEG, to bound the page's size"""


@dataclass(frozen=True)
class ImagesOfClass:
    """The images of one class among those that a part of the page is about."""

    name: str
    count: int
    """number of all of them"""
    shown: list[dict[str, Any]]
    """what the page shows of the most telling ones"""


def share_out(first: int, second: int, limit: int = MAX_IMAGES) -> tuple[int, int]:
    """Return how many images of two sets are shown: half each, or more where the other set has fewer."""
    half = limit // 2
    return min(first, max(half, limit - second)), min(second, max(half, limit - first))


def group_by_class(
    chosen: NDArray[np.bool_],
    split: Split,
    models: Sequence[NDArray[np.float32]],
    classes: Sequence[str],
    limit: int,
) -> list[ImagesOfClass]:
    """Count the images that are `chosen` `(N,)` by their class, the most frequent first, and show some.

    `models` are the probabilities `(N, classes)` of the challenger and, if there is one, of the champion.
    Classes take turns until `limit` images are shown; of each class, those come first of which the challenger
    is the surest.
    """
    labels = split.labels.numpy()
    surest = np.argsort(-models[0].max(1), kind="stable")
    members = [surest[chosen[surest] & (labels[surest] == k)] for k in range(len(classes))]
    order = sorted((k for k in range(len(classes)) if len(members[k])), key=lambda k: -len(members[k]))
    turns = sorted(
        (turn, rank) for rank, k in enumerate(order) for turn in range(min(len(members[k]), limit))
    )
    num_shown = np.bincount([rank for _, rank in turns[:limit]], minlength=len(order))
    return [
        ImagesOfClass(
            classes[k],
            len(members[k]),
            [describe_image(int(i), split, models, classes) for i in members[k][: num_shown[rank]]],
        )
        for rank, k in enumerate(order)
    ]


def describe_image(
    index: int, split: Split, models: Sequence[NDArray[np.float32]], classes: Sequence[str]
) -> dict[str, Any]:
    """Return what the page shows of an image: its picture, its class and each model's answer."""
    label = int(split.labels[index])
    answers = [
        {
            "predicted": classes[probabilities[index].argmax()],
            "confidence": float(probabilities[index].max()),
            "is_correct": bool(probabilities[index].argmax() == label),
        }
        for probabilities in models
    ]
    picture = _make_picture(split.images[index].numpy())
    return {**picture, "index": index, "actual": classes[label], "answers": answers}


def _make_picture(image: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the picture's data URI `uri` and its width `size`."""
    if len(image) <= MAX_LOSSLESS:
        return make_thumbnail(image)
    thumbnail = Image.fromarray(image)
    thumbnail.thumbnail((MAX_THUMBNAIL, MAX_THUMBNAIL))
    buffer = io.BytesIO()
    thumbnail.save(buffer, "JPEG", quality=80)
    uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"uri": uri, "size": thumbnail.width}
