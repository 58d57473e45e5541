"""MixUp and CutMix combine the images of a batch in pairs, and their labels accordingly.

MixUp blends two images (Zhang et al., "mixup", 2017, https://arxiv.org/abs/1710.09412); CutMix pastes a box
of one into another (Yun et al., "CutMix", 2019, https://arxiv.org/abs/1905.04899).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tasks.params.train import TrainConfig

    Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# The number of images that share a blending factor, or a box: torchvision's transforms draw one per call.
GROUP_SIZE = 32


def build_mixing(config: TrainConfig, num_classes: int) -> Mixing | None:
    """Build a function from images and labels `(B,)` to mixed images and probabilities `(B, num_classes)`.

    Images are float32 `(B, 3, S, S)`, before and after. Returns None if `config` names neither MixUp nor
    CutMix. If it names both, one of the two is sampled per group of `GROUP_SIZE` images.
    """
    if not config.mixup_alpha and not config.cutmix_alpha:
        return None
    from torchvision.transforms import v2

    alphas = {v2.MixUp: config.mixup_alpha, v2.CutMix: config.cutmix_alpha}
    transform = v2.RandomChoice(
        [mixing(alpha=alpha, num_classes=num_classes) for mixing, alpha in alphas.items() if alpha]
    )

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # An image is paired with its neighbor in the group; the loader has shuffled them.
        groups = zip(torch.split(images, GROUP_SIZE), torch.split(labels, GROUP_SIZE), strict=True)
        mixed = [transform(*group) for group in groups]
        inputs, targets = (torch.cat(parts) for parts in zip(*mixed, strict=True))
        return inputs, targets

    return mix
