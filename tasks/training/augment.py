"""Augmentation of many images at once: random flip, translation, cutout, and torchvision's policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.params.train import TrainConfig

GROUP_SIZE = 64  # images for which one of torchvision's transforms is sampled


class Share(NamedTuple):
    """Which of `total` images these are; draws are for all, so that an image has the same in any share."""

    rows: Tensor
    total: int


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
        self._policy = _build_policy(config)

    @property
    def uses_global_generator(self) -> bool:
        """Whether it draws from PyTorch's global generator, beside the one that it was given."""
        return self._policy is not None

    def __call__(self, images: Tensor, indices: Tensor, epoch: int, share: Share | None = None) -> Tensor:
        """The images, uint8 `(N, H, W, C)`, as this epoch shows them; epochs count from 1.

        `indices` `(N,)` are theirs in the training split; `share` says of which images they are a part.
        """
        flip = self._flip
        if isinstance(flip, Tensor):
            flip = flip[indices] ^ (epoch % 2 == 0)
        images = random_flip_and_translate(
            images, flip=flip, max_shift=self._config.translate, generator=self._generator, share=share
        )
        if self._policy is not None:
            images = transform_in_groups(images, self._policy, share)
        if self._config.cutout_size:
            size = self._config.cutout_size
            images = cutout(images, size=size, fill=self._fill, generator=self._generator, share=share)
        return images


def _build_policy(config: TrainConfig) -> Callable[[Tensor], Tensor] | None:
    if config.auto_augment == "none":
        return None
    from torchvision.transforms import v2

    if config.auto_augment == "trivialaugment":
        return v2.TrivialAugmentWide()
    return v2.RandAugment(magnitude=config.randaugment_magnitude)


def transform_in_groups(
    images: Tensor, transform: Callable[[Tensor], Tensor], share: Share | None = None
) -> Tensor:
    """Apply a transform that draws once per call to groups of images, uint8 `(N, H, W, C)`.

    A group's images lie far apart, so that a batch has few of the same group.
    """
    num_groups = -(-(len(images) if share is None else share.total) // GROUP_SIZE)
    transformed = torch.empty_like(images)
    for group in range(num_groups):
        rows: slice | Tensor = slice(group, None, num_groups)
        if share is not None:
            rows = (share.rows % num_groups == group).nonzero().flatten()
            if not len(rows):
                transform(images[:1].permute(0, 3, 1, 2))  # the draws of the next groups come after its own
                continue
        planes = images[rows].permute(0, 3, 1, 2)
        transformed[rows] = transform(planes).permute(0, 2, 3, 1)
    return transformed


def random_flip_and_translate(
    images: Tensor,
    *,
    flip: bool | Tensor,
    max_shift: int,
    generator: Generator,
    share: Share | None = None,
) -> Tensor:
    """Mirror each image horizontally with probability 1/2 and translate it by up to `max_shift` pixels.

    Takes and gives uint8 `(N, H, W, C)`. `flip` may also be a mask `(N,)` of the images to mirror. The
    translation is a random crop of the image with reflection padding (He et al., "Deep Residual Learning",
    2015, section 4.2, with reflection instead of zeros). One gather for all images: each pixel is taken from
    where its image's own transformation says.
    """
    count, height, width, channels = images.shape
    side = 2 * max_shift + 1
    if side == 1 and flip is False:
        return images
    transform_ids = _draw(side * side * (2 if flip is True else 1), count, generator, share)
    is_flipped = (transform_ids >= side * side if flip is True else torch.as_tensor(flip).expand(count)).to(
        images.device
    )
    crop_ids = (transform_ids % (side * side)).to(images.device)
    rows = _reflect_indices(height, max_shift, crop_ids // side)
    columns = _reflect_indices(width, max_shift, crop_ids % side)
    columns = torch.where(is_flipped[:, None], columns.flip(1), columns)
    pixels = (rows[:, :, None] * width + columns[:, None, :]).view(count, -1, 1).expand(-1, -1, channels)
    return images.reshape(count, -1, channels).gather(1, pixels).view(images.shape)


def cutout(
    images: Tensor, *, size: int, fill: Tensor, generator: Generator, share: Share | None = None
) -> Tensor:
    """Cover a square of `size` pixels at a random position inside each image with the color `fill`, `(C,)`.

    Takes and gives uint8 `(N, H, W, C)`. The network then cannot rely on one part of an image (DeVries and
    Taylor, "Cutout", 2017, https://arxiv.org/abs/1708.04552). The mean color is 0 once normalized.
    """
    count, height, width, _ = images.shape
    masks = [
        _span_mask(length, _draw(length - size + 1, count, generator, share), size).to(images.device)
        for length in (height, width)
    ]
    squares = masks[0][:, :, None] & masks[1][:, None, :]
    return torch.where(squares[..., None], fill, images)


def _draw(high: int, count: int, generator: Generator, share: Share | None) -> Tensor:
    """A random integer below `high` for each of `count` images."""
    if share is None:
        return torch.randint(high, (count,), generator=generator)
    return torch.randint(high, (share.total,), generator=generator)[share.rows]


def _span_mask(length: int, starts: Tensor, size: int) -> Tensor:
    """Whether an index is one of the `size` from the start on: bool `(N, length)`."""
    offsets = torch.arange(length) - starts[:, None]
    return (offsets >= 0) & (offsets < size)


def _reflect_indices(size: int, max_shift: int, starts: Tensor) -> Tensor:
    """Crops of `size` pixels, `(N, size)`, that begin at `starts` `(N,)` of a padded row of pixels.

    Reflection padding: the border pixel is not repeated.
    """
    indices = (starts[:, None] + torch.arange(size, device=starts.device) - max_shift).abs()
    return torch.where(indices < size, indices, 2 * (size - 1) - indices)
