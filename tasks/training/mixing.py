"""MixUp and CutMix: images of a batch mixed in pairs, and their labels with them.

Zhang et al., "mixup", 2017, https://arxiv.org/abs/1710.09412; Yun et al., "CutMix", 2019,
https://arxiv.org/abs/1905.04899. torchvision's transforms draw one share, and one box, per call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from tasks.params.train import TrainConfig

    Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

GROUP_SIZE = 32  # images for which one share is sampled


def build_mixing(config: TrainConfig, num_classes: int) -> Mixing | None:
    """From images `(B, 3, S, S)` and labels `(B,)` to mixed images and probabilities `(B, num_classes)`.

    Images are float. None if `config` names no mixing. With both, one of the two is sampled per group.
    """
    if not config.mixup_alpha and not config.cutmix_alpha:
        return None
    from torchvision.transforms import v2

    alphas = {v2.MixUp: config.mixup_alpha, v2.CutMix: config.cutmix_alpha}
    transform = v2.RandomChoice(
        [mixing(alpha=alpha, num_classes=num_classes) for mixing, alpha in alphas.items() if alpha]
    )

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        groups = zip(torch.split(images, GROUP_SIZE), torch.split(labels, GROUP_SIZE), strict=True)
        mixed = [transform(*group) for group in groups]
        inputs, targets = (torch.cat(parts) for parts in zip(*mixed, strict=True))
        return inputs, targets

    return mix
