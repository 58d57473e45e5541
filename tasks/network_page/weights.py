"""Encode a network's weights for the page."""

import base64
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def encode_weights(network: nn.Module) -> dict[str, Any]:
    """Return `shapes`, a list of (name, shape), and `weights`, all parameters in this order in base64.

    A weight takes three bytes: a float32 without the last 8 bits of its mantissa, rounded. The probabilities
    then differ by about 1e-5, where half precision may differ by 1e-3; four bytes would be a third more.
    """
    parameters = list(network.named_parameters())
    flat = torch.cat([tensor.detach().flatten() for _, tensor in parameters]).float().numpy()
    return {
        "shapes": [(name, list(tensor.shape)) for name, tensor in parameters],
        "weights": base64.b64encode(round_to_three_bytes(flat).tobytes()).decode(),
    }


def round_to_three_bytes(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return `(N, 3)`: the first three bytes, the highest first, of each weight after rounding."""
    words = weights.view(np.uint32).astype(np.uint64)
    rounded = (words + 0x7F + ((words >> 8) & 1)) >> 8  # Ties go to the even number, as IEEE 754 rounds.
    return np.stack([(rounded >> shift).astype(np.uint8) for shift in (16, 8, 0)], axis=1)
