"""The network of a training, with its initial weights."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from models.init import build_model
from models.networks import NETWORKS
from tasks.workspace.errors import InputError

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from tasks.params.train import TrainConfig


def build_network(config: TrainConfig, num_classes: int, images: Tensor, generator: Generator) -> nn.Module:
    """The network that `config` names, initialized from `generator`.

    `images` are normalized training images `(N, 3, S, S)`. `InputError` where they are too small for the
    network or for the augmentation.
    """
    size = images.shape[2]
    for name, pixels in (("translate", config.translate), ("cutout_size", config.cutout_size - 1)):
        if pixels >= size:
            raise InputError(f"train.{name} is too large for images of {size} x {size} pixels")
    try:
        return build_model(partial(NETWORKS[config.network], num_classes, size), generator, images)
    except ValueError as error:
        raise InputError(f"train.network {config.network}: {error}; they have {size} x {size}") from None
