"""Draw the first layer's filters as one PNG."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from models.classifier import Classifier
from tasks.reporting.gallery import encode_png

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
