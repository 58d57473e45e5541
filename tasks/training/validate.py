"""Validation during training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.training.image_store import ImageStore
    from tasks.training.normalize import Normalize

BATCH_SIZE = 1000


@torch.inference_mode()
def validate(
    model: nn.Module, normalize: Normalize, images: ImageStore, labels: Tensor
) -> tuple[float, float]:
    """Mean loss and accuracy, without test-time augmentation."""
    model.eval()
    batches = torch.split(torch.arange(len(labels)), BATCH_SIZE)
    logits = torch.cat([model(normalize(images.gather(batch))) for batch in batches])
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()
