"""Augmentation: the same picture, mirrored, moved a little or partly covered, is the same class."""

import torch
from torch import Generator, Tensor


def random_flip_and_translate(
    images: Tensor, *, flip: bool | Tensor, shift: int, generator: Generator
) -> Tensor:
    """Each picture mirrored left to right with probability 1/2, and moved by up to `shift` pixels each way.

    Takes and gives uint8 `(N, H, W, C)`. `flip` can also name the pictures to mirror, `(N,)`. What moves in
    at a border is the picture's own reflection there: a random crop of the padded picture (He et al., "Deep
    Residual Learning", 2015, section 4.2, with reflection in place of zeros). Pictures that move alike are
    moved together, which is some 50 slices an epoch instead of an index a pixel.
    """
    count, height, width, _ = images.shape
    side = 2 * shift + 1
    if side == 1 and flip is False:
        return images
    transform_ids = torch.randint(side * side * (2 if flip is True else 1), (count,), generator=generator)
    if isinstance(flip, Tensor):
        transform_ids += side * side * flip
    padded = images.index_select(1, _reflect_indices(height, shift, images.device))
    padded = padded.index_select(2, _reflect_indices(width, shift, images.device))
    result = torch.empty_like(images)
    order = transform_ids.argsort(stable=True)
    groups = torch.split(order.to(images.device), transform_ids.bincount(minlength=side * side).tolist())
    for move, group in enumerate(groups):
        flipped, place = divmod(move, side * side)
        top, left = divmod(place, side)
        moved = padded[:, top : top + height, left : left + width].index_select(0, group)
        result[group] = moved.flip(2) if flipped else moved
    return result


def cutout(images: Tensor, *, size: int, color: Tensor, generator: Generator) -> Tensor:
    """Each picture with a square of `size` pixels, somewhere inside, covered with `color`, `(C,)`.

    Takes and gives uint8 `(N, H, W, C)`. A network then cannot lean on one part of a picture alone (DeVries
    and Taylor, "Cutout", 2017, https://arxiv.org/abs/1708.04552). In the mean color it is 0 once normalized.
    """
    count, height, width, _ = images.shape
    masks = [
        _span_mask(length, torch.randint(length - size + 1, (count,), generator=generator), size).to(
            images.device
        )
        for length in (height, width)
    ]
    square = masks[0][:, :, None] & masks[1][:, None, :]
    return torch.where(square[..., None], color, images)


def _span_mask(length: int, starts: Tensor, size: int) -> Tensor:
    """Whether a place is one of the `size` from the start on: `(N, length)`."""
    places = torch.arange(length) - starts[:, None]
    return (places >= 0) & (places < size)


def _reflect_indices(size: int, shift: int, device: torch.device) -> Tensor:
    """Indices of `size + 2 * shift` pixels that run over both borders and back; the border itself once."""
    inside = torch.arange(-shift, size + shift, device=device).abs()
    return torch.where(inside < size, inside, 2 * (size - 1) - inside)
