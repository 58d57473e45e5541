"""Augmentation of all training images at once: random flip, translation and cutout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from tasks.params.train import TrainConfig


class Augmentation:
    """The transformations that `config` names; `fill`, uint8 `(C,)`, is the color of cutout.

    With `alternating`, a random half of the images is mirrored in one epoch and the other half in the next:
    two epochs show every image both ways, whereas independent flips do so for half of them (airbench, section
    3.6).
    """

    def __init__(self, config: TrainConfig, num_images: int, fill: Tensor, generator: Generator) -> None:
        self._config = config
        self._fill = fill
        self._generator = generator
        self._flip: bool | Tensor = config.flip is True
        if config.flip == "alternating":
            self._flip = torch.rand(num_images, generator=generator) < 0.5

    def __call__(self, images: Tensor, epoch: int) -> Tensor:
        """The images, uint8 `(N, H, W, C)`, as this epoch shows them; epochs count from 1."""
        flip = self._flip
        if isinstance(flip, Tensor) and epoch % 2 == 0:
            flip = ~flip
        images = random_flip_and_translate(
            images, flip=flip, max_shift=self._config.translate, generator=self._generator
        )
        if self._config.cutout_size:
            images = cutout(images, size=self._config.cutout_size, fill=self._fill, generator=self._generator)
        return images


def random_flip_and_translate(
    images: Tensor, *, flip: bool | Tensor, max_shift: int, generator: Generator
) -> Tensor:
    """Mirror each image horizontally with probability 1/2 and translate it by up to `max_shift` pixels.

    Takes and gives uint8 `(N, H, W, C)`. `flip` may also be a mask `(N,)` of the images to mirror. The
    translation is a random crop of the image with reflection padding (He et al., "Deep Residual Learning",
    2015, section 4.2, with reflection instead of zeros). Images with the same transformation are processed
    together: some 50 slices per epoch instead of an index per pixel.
    """
    count, height, width, _ = images.shape
    side = 2 * max_shift + 1
    if side == 1 and flip is False:
        return images
    transform_ids = torch.randint(side * side * (2 if flip is True else 1), (count,), generator=generator)
    if isinstance(flip, Tensor):
        transform_ids += side * side * flip
    padded = images.index_select(1, _reflect_indices(height, max_shift, images.device))
    padded = padded.index_select(2, _reflect_indices(width, max_shift, images.device))
    transformed = torch.empty_like(images)
    order = transform_ids.argsort(stable=True)
    groups = torch.split(order.to(images.device), transform_ids.bincount(minlength=side * side).tolist())
    for transform_id, group in enumerate(groups):
        is_flipped, crop_id = divmod(transform_id, side * side)
        top, left = divmod(crop_id, side)
        crops = padded[:, top : top + height, left : left + width].index_select(0, group)
        transformed[group] = crops.flip(2) if is_flipped else crops
    return transformed


def cutout(images: Tensor, *, size: int, fill: Tensor, generator: Generator) -> Tensor:
    """Cover a square of `size` pixels at a random position inside each image with the color `fill`, `(C,)`.

    Takes and gives uint8 `(N, H, W, C)`. The network then cannot rely on one part of an image (DeVries and
    Taylor, "Cutout", 2017, https://arxiv.org/abs/1708.04552). The mean color is 0 once normalized.
    """
    count, height, width, _ = images.shape
    masks = [
        _span_mask(length, torch.randint(length - size + 1, (count,), generator=generator), size).to(
            images.device
        )
        for length in (height, width)
    ]
    squares = masks[0][:, :, None] & masks[1][:, None, :]
    return torch.where(squares[..., None], fill, images)


def _span_mask(length: int, starts: Tensor, size: int) -> Tensor:
    """Whether an index is one of the `size` from the start on: bool `(N, length)`."""
    offsets = torch.arange(length) - starts[:, None]
    return (offsets >= 0) & (offsets < size)


def _reflect_indices(size: int, max_shift: int, device: torch.device) -> Tensor:
    """Indices of `size + 2 * max_shift` pixels: reflection padding, which repeats no border pixel."""
    indices = torch.arange(-max_shift, size + max_shift, device=device).abs()
    return torch.where(indices < size, indices, 2 * (size - 1) - indices)
