"""Validation during training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.training.normalize import Normalize

BATCH_SIZE = 1000


@torch.inference_mode()
def validate(model: nn.Module, normalize: Normalize, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy, without test-time augmentation."""
    model.eval()
    logits = torch.cat([model(normalize(batch)) for batch in torch.split(images, BATCH_SIZE)])
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()
