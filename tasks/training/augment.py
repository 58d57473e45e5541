"""Augmentation transforms many images at once: flip, translation, cutout, torchvision's policies, mixing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.params.train import TrainConfig

    Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

GROUP_SIZE = 64  # number of images that share one random transform of torchvision's
MIXING_GROUP_SIZE = 32  # number of images that share a blending factor, or a box


class Augmentation:
    """An augmentation applies the transformations that `config` names, with random numbers of `generator`.

    `fill`, uint8 `(C,)`, is the color of cutout. With `flip: alternating`, a random half of the images is
    mirrored in one epoch and the other half in the next: two epochs show every image both ways, whereas
    independent flips do so for half of the images (airbench, section 3.6).
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
        """Whether torchvision's policy is used, which draws from PyTorch's global generator."""
        return self._policy is not None

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Transform images, uint8 `(N, H, W, C)`, for this epoch; epochs count from 1.

        `indices` `(N,)` are the positions of the images in the training split.
        """
        flip = self._flip
        if isinstance(flip, Tensor):
            # An image's side depends on its index and the epoch alone: in even epochs the mask is inverted.
            flip = flip[indices] ^ (epoch % 2 == 0)
        images = random_flip_and_translate(
            images, flip=flip, max_shift=self._config.translate, generator=self._generator
        )
        if self._policy is not None:
            images = transform_in_groups(images, self._policy)
        if self._config.cutout_size:
            size = self._config.cutout_size
            images = cutout(images, size=size, fill=self._fill, generator=self._generator)
        return images


def _build_policy(config: TrainConfig) -> Callable[[Tensor], Tensor] | None:
    if config.auto_augment == "none":
        return None
    from torchvision.transforms import v2

    if config.auto_augment == "trivialaugment":
        return v2.TrivialAugmentWide()
    return v2.RandAugment(magnitude=config.randaugment_magnitude)


def transform_in_groups(images: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `transform` to groups of images, uint8 `(N, H, W, C)`.

    torchvision's transforms draw random numbers once per call. A call per image would be slow, and one call
    for all would transform all images alike. The images of a group lie far apart, so that a batch has few
    images of the same group.
    """
    num_groups = -(-len(images) // GROUP_SIZE)  # rounded up
    transformed = torch.empty_like(images)
    for group in range(num_groups):
        rows = slice(group, None, num_groups)
        planes = images[rows].permute(0, 3, 1, 2)
        transformed[rows] = transform(planes).permute(0, 2, 3, 1)
    return transformed


def random_flip_and_translate(
    images: Tensor, *, flip: bool | Tensor, max_shift: int, generator: Generator
) -> Tensor:
    """Mirror each image horizontally with probability 1/2 and translate it by up to `max_shift` pixels.

    Images are uint8 `(N, H, W, C)`, before and after. `flip` may also be a mask `(N,)` of the images to
    mirror. The translation is a random crop of the image with reflection padding (He et al., "Deep Residual
    Learning", 2015, section 4.2, with reflection instead of zeros).
    """
    count, height, width, channels = images.shape
    side = 2 * max_shift + 1
    if side == 1 and flip is False:
        return images
    # One random number per image says both where it is cropped and whether it is mirrored.
    transform_ids = torch.randint(side * side * (2 if flip is True else 1), (count,), generator=generator)
    is_flipped = (transform_ids >= side * side if flip is True else torch.as_tensor(flip).expand(count)).to(
        images.device
    )
    crop_ids = (transform_ids % (side * side)).to(images.device)
    rows = _reflect_indices(height, max_shift, crop_ids // side)
    columns = _reflect_indices(width, max_shift, crop_ids % side)
    columns = torch.where(is_flipped[:, None], columns.flip(1), columns)
    # A single gather takes each pixel of every image from where that image's crop and flip say: no padded
    # copies, and no loop over images.
    pixels = (rows[:, :, None] * width + columns[:, None, :]).view(count, -1, 1).expand(-1, -1, channels)
    return images.reshape(count, -1, channels).gather(1, pixels).view(images.shape)


def cutout(images: Tensor, *, size: int, fill: Tensor, generator: Generator) -> Tensor:
    """Cover a square of `size` pixels at a random position inside each image with the color `fill`, `(C,)`.

    Images are uint8 `(N, H, W, C)`, before and after. The network then cannot rely on one part of an image
    (DeVries and Taylor, "Cutout", 2017, https://arxiv.org/abs/1708.04552). The mean color, as `fill`, is 0
    once normalized.
    """
    count, height, width, _ = images.shape
    # A pixel is in the square if its row and its column are: two small masks instead of a loop over images.
    masks = [
        _span_mask(length, torch.randint(length - size + 1, (count,), generator=generator), size).to(
            images.device
        )
        for length in (height, width)
    ]
    squares = masks[0][:, :, None] & masks[1][:, None, :]
    return torch.where(squares[..., None], fill, images)


def _span_mask(length: int, starts: Tensor, size: int) -> Tensor:
    """Return a mask, bool `(N, length)`, of the `size` positions from each start, `starts` `(N,)`, on."""
    offsets = torch.arange(length) - starts[:, None]
    return (offsets >= 0) & (offsets < size)


def _reflect_indices(size: int, max_shift: int, starts: Tensor) -> Tensor:
    """Return the source position of each pixel, `(N, size)`, in crops of a row of `size` pixels.

    The row is padded with `max_shift` pixels on both sides, by reflection that does not repeat the border
    pixel; the crops begin at `starts`, `(N,)`, of the padded row.
    """
    # Reflection is -i at the left border, and 2 (size - 1) - i at the right one.
    indices = (starts[:, None] + torch.arange(size, device=starts.device) - max_shift).abs()
    return torch.where(indices < size, indices, 2 * (size - 1) - indices)


def build_mixing(config: TrainConfig, num_classes: int) -> Mixing | None:
    """Build a function from images and labels `(B,)` to mixed images and probabilities `(B, num_classes)`.

    MixUp blends two images (Zhang et al., "mixup", 2017, https://arxiv.org/abs/1710.09412); CutMix pastes a
    box of one into another (Yun et al., "CutMix", 2019, https://arxiv.org/abs/1905.04899).

    Images are float32 `(B, 3, S, S)`, before and after. Returns None if `config` names neither MixUp nor
    CutMix. If it names both, one of the two is sampled per group of `MIXING_GROUP_SIZE` images.
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
        groups = zip(
            torch.split(images, MIXING_GROUP_SIZE), torch.split(labels, MIXING_GROUP_SIZE), strict=True
        )
        mixed = [transform(*group) for group in groups]
        inputs, targets = (torch.cat(parts) for parts in zip(*mixed, strict=True))
        return inputs, targets

    return mix
