"""`validate` measures a network on the validation images during training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.training.distributed import Ranks
    from tasks.training.image_store import ImageStore
    from tasks.training.normalize import Normalize

BATCH_SIZE = 1000


@torch.inference_mode()
def validate(
    model: nn.Module, normalize: Normalize, images: ImageStore, labels: Tensor, ranks: Ranks
) -> tuple[float, float]:
    """Return mean loss and accuracy, without test-time augmentation; the images are shared among the ranks.

    All ranks use the running statistics of batch normalization of rank 0, whose model is the one saved.
    """
    ranks.broadcast_buffers(model)
    model.eval()
    own = ranks.take_share(torch.arange(len(labels)))
    logits = torch.cat([model(normalize(images.gather(batch))) for batch in torch.split(own, BATCH_SIZE)])
    labels = labels[own.to(labels.device)]
    loss, is_correct = F.cross_entropy(logits, labels), (logits.argmax(1) == labels).double()
    if ranks.world_size == 1:
        return loss.item(), is_correct.mean().item()
    sums = torch.stack([loss.double() * len(labels), is_correct.sum(), is_correct.new_tensor(len(labels))])
    loss_sum, num_correct, num_images = ranks.all_reduce(sums).tolist()
    return loss_sum / num_images, num_correct / num_images
