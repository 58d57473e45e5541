"""Show images in a page: telling ones, why the model erred on them, and the first layer's filters."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from models.classifier import Classifier
from tasks.inference.explain import NeighborIndex, explain
from tasks.inference.onnx_classifier import OnnxClassifier, Probabilities
from tasks.reporting.svg import BLUE, ORANGE
from tasks.workspace.splits import Splits

NUM_NEIGHBORS = 3
DARKEST, LIGHTEST = 70, 230  # limits of the gray image, against which both colors stand out
MAX_THUMBNAIL = 64  # pixels per side of an image in the page


def select_gallery(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the most confident errors and of the least confident correct predictions."""
    confidence = probabilities.max(1)
    wrong = probabilities.argmax(1) != labels
    descending = np.argsort(-confidence, kind="stable")
    ascending = np.argsort(confidence, kind="stable")
    return descending[wrong[descending]][:count], ascending[~wrong[ascending]][:count]


def most_confident_correct(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> int:
    """Return the index of the most confident correct prediction."""
    # The product is 0 for errors, so the largest one is of a correct prediction, if there is any.
    return int((probabilities.max(1) * (probabilities.argmax(1) == labels)).argmax())


def gallery_items(
    indices: NDArray[np.int64],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Return what the page shows of each of the images at `indices`."""
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
    """Shrink an image to `MAX_THUMBNAIL`; return its data URI `uri` and its width `size` in pixels."""
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
    """Return what the page shows of the likely label errors at the positions `found`.

    `images` and `names` are those of these positions only; `labels` and `probabilities` are those of all
    images.
    """
    if not images:
        return []
    items = gallery_items(
        np.arange(len(found)), np.stack(images), labels[found], probabilities[found], classes
    )
    return [item | {"name": name} for item, name in zip(items, names, strict=True)]


def explain_errors(
    errors: Sequence[Mapping[str, Any]], data: Splits, model: OnnxClassifier, neighbors: NeighborIndex
) -> list[dict[str, Any]]:
    """Explain each of the gallery's `errors` by the evidence in the image and by similar training images."""
    explanations = []
    for error in errors:
        image = data.test.images[error["index"]].numpy()
        target = model.classes.index(error["predicted"])
        occlusion = explain(model, image, target)
        covered_class, covered_confidence = model.top_k(occlusion.probabilities, 1)[0]
        explanations.append(
            {
                **error,
                "evidence": make_thumbnail(draw_evidence(image, occlusion.evidence)),
                "place": describe_place(occlusion.window, len(image)),
                "covered_class": covered_class,
                "covered_confidence": covered_confidence,
                "neighbors": [
                    {"index": index, **make_thumbnail(data.train.images[index].numpy())}
                    for index in neighbors.find(image, target, NUM_NEIGHBORS)
                ],
            }
        )
    return explanations


def draw_evidence(image: NDArray[np.uint8], evidence: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Draw `image` `(S, S, 3)` in gray, orange where `evidence` `(S, S)` is positive, blue where negative.

    The largest absolute value has the full color.
    """
    # The image becomes gray and keeps its contours, but neither black nor white, which would hide a color.
    gray = DARKEST + (LIGHTEST - DARKEST) / 255 * np.repeat(image.mean(2, keepdims=True), 3, axis=2)
    orange, blue = (np.array([*bytes.fromhex(color[1:])], float) for color in (ORANGE, BLUE))
    color = np.where(evidence[:, :, None] > 0, orange, blue)
    # The color covers the gray the more, the stronger the evidence is.
    opacity = np.abs(evidence)[:, :, None] / max(np.abs(evidence).max(), 1e-12)
    pixels: NDArray[np.uint8] = (gray + opacity * (color - gray)).round().astype(np.uint8)
    return pixels


def describe_place(window: tuple[int, int, int, int], size: int) -> str:
    """Say where a window (top, left, bottom, right) is in an image of `size` pixels, such as `upper left`."""
    top, left, bottom, right = window
    # The window's center, (low + high) / 2, is in the first, second or last third of the image.
    row, column = ((low + high) * 3 // (2 * size) for low, high in ((top, bottom), (left, right)))
    rows, columns = ("upper", "", "lower"), ("left", "", "right")
    return " ".join(filter(None, (rows[row], columns[column]))) or "central"


def find_label_errors(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """Find the likely errors among `labels` `(N,)` and return their positions, the most certain first.

    This is confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068) by cleanlab: a
    label is doubted where the model believes in another class at least as much as it does on average in that
    class's own images. The positions are sorted by the normalized margin, the label's probability minus that
    of the most probable other class. The `probabilities` `(N, classes)` have to be of a model that was not
    trained on these images, since it may have learned their wrong labels.
    """
    if len(np.unique(labels)) < 2:
        return np.empty(0, np.int64)  # There is no other class to compare with.
    from cleanlab.filter import find_label_issues  # This import takes seconds.

    issues: NDArray[np.int64] = find_label_issues(
        labels,
        probabilities.astype(np.float64),
        filter_by="confident_learning",
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,
    )
    return issues


def list_label_errors(
    data: Splits, model: OnnxClassifier, test_probabilities: Probabilities, count: int
) -> tuple[int, list[dict[str, Any]]]:
    """Count the likely errors in validation and test labels, and describe the first `count` for the page."""
    num_val = len(data.val.labels)
    labels = np.concatenate([data.val.labels.numpy(), data.test.labels.numpy()])
    probabilities = np.concatenate([model.predict_proba(data.val.images.numpy()), test_probabilities])
    found = find_label_errors(labels, probabilities)
    places = [
        (data.val, "val", i) if i < num_val else (data.test, "test", i - num_val) for i in found[:count]
    ]
    images = [split.images[int(i)].numpy() for split, _, i in places]
    names = [f"{name} {i}" for _, name, i in places]
    items = label_error_items(found[:count], images, labels, probabilities, model.classes, names)
    return len(found), items


CELL, GAP, COLUMNS = 84, 6, 4  # width of a tile and of a gap in pixels, filters per row
MAX_FILTERS = 24  # number of filters that are shown, the first ones


@torch.inference_mode()
def render_filters(classifier: Classifier, image: NDArray[np.uint8]) -> bytes | None:
    """Draw the image `(H, W, 3)`, then each filter above its response to the image.

    Return the PNG, or None where the first convolution does not take RGB.
    """
    conv = next((module for module in classifier.network.modules() if isinstance(module, nn.Conv2d)), None)
    if conv is None or conv.in_channels != 3:
        return None
    responses = conv(classifier.normalize(torch.from_numpy(image)[None]))[0]
    weights = conv.weight[:MAX_FILTERS]
    return draw_filters(weights.numpy(), image, responses[:MAX_FILTERS].numpy())


def draw_filters(
    weights: NDArray[np.float32], image: NDArray[np.uint8], responses: NDArray[np.float32]
) -> bytes:
    """Draw `weights` `(F, 3, k, k)` and `responses` `(F, h, w)`, and return the PNG.

    Gray is 0; the largest absolute value is black or white.
    """
    tiles: list[tuple[Image.Image, ...]] = [(_upscale(image),)]
    for weight, response in zip(weights, responses, strict=True):
        filter_pixels = _to_gray(weight.transpose(1, 2, 0), np.abs(weights).max())
        response_pixels = np.repeat(_to_gray(response, np.abs(responses).max())[:, :, None], 3, axis=2)
        tiles.append((_upscale(filter_pixels), _upscale(response_pixels)))
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGBA", (columns * (CELL + GAP) - GAP, rows * (2 * CELL + 3 * GAP) - 2 * GAP))
    for index, stack in enumerate(tiles):
        left, top = (index % columns) * (CELL + GAP), (index // columns) * (2 * CELL + 3 * GAP)
        for position, tile in enumerate(stack):
            sheet.paste(tile, (left, top + position * (CELL + GAP // 2)))
    return encode_png(sheet)


def _to_gray(values: NDArray[np.float32], largest: float) -> NDArray[np.uint8]:
    """Map values from -largest to largest to the gray levels 0 to 255."""
    return (127.5 + 127.5 * values / max(largest, 1e-12)).round().astype(np.uint8)


def _upscale(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.NEAREST)
