"""`Normalize` normalizes whole batches, as fast as training needs it."""

import torch
from torch import Tensor


class Normalize:
    """Normalization maps uint8 `(N, S, S, 3)` to float32 `(N, 3, S, S)`, with the channels last in memory.

    S is `image_size`; `mean` and `std` are per channel, for values in 0 to 1. The values equal those of
    `Classifier.normalize`, which the export traces, up to rounding. A multiplication and an addition over
    rows of values are several times as fast as broadcasting one value per channel.
    """

    def __init__(self, mean: list[float], std: list[float], image_size: int, device: torch.device) -> None:
        scale = 1 / (255 * torch.tensor(std, dtype=torch.float64))
        shift = -255 * torch.tensor(mean, dtype=torch.float64) * scale
        self.scale = scale.float().repeat(image_size**2).to(device)
        self.shift = shift.float().repeat(image_size**2).to(device)
        self.mean_color = (255 * torch.tensor(mean)).round().to(torch.uint8).to(device)
        """uint8 `(3,)`: the mean color, which is normalized to 0 up to rounding"""

    def __call__(self, images: Tensor) -> Tensor:
        rows = torch.mul(images.flatten(1), self.scale).add_(self.shift)
        return rows.view(images.shape).permute(0, 3, 1, 2)
