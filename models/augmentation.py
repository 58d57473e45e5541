"""Augmentation: the same picture, mirrored and moved a little, is the same class."""

import torch
from torch import Generator, Tensor


def augmented(images: Tensor, *, flip: bool, shift: int, generator: Generator) -> Tensor:
    """Each picture mirrored left to right with probability 1/2, and moved by up to `shift` pixels each way.

    Takes and gives uint8 `(N, H, W, C)`. What moves in at a border is the picture's own reflection there: a
    random crop of the padded picture (He et al., "Deep Residual Learning", 2015, section 4.2, with reflection
    in place of zeros). Pictures that move alike are moved together, which is some 50 slices an epoch instead
    of an index a pixel.
    """
    count, height, width, _ = images.shape
    side = 2 * shift + 1
    if side == 1 and not flip:
        return images
    moves = torch.randint(side * side * (2 if flip else 1), (count,), generator=generator)
    padded = images.index_select(1, _reflected(height, shift, images.device))
    padded = padded.index_select(2, _reflected(width, shift, images.device))
    result = torch.empty_like(images)
    order = moves.argsort(stable=True)
    groups = torch.split(order.to(images.device), moves.bincount(minlength=side * side).tolist())
    for move, group in enumerate(groups):
        mirrored, place = divmod(move, side * side)
        top, left = divmod(place, side)
        moved = padded[:, top : top + height, left : left + width].index_select(0, group)
        result[group] = moved.flip(2) if mirrored else moved
    return result


def _reflected(size: int, shift: int, device: torch.device) -> Tensor:
    """Indices of `size + 2 * shift` pixels that run over both borders and back; the border itself once."""
    inside = torch.arange(-shift, size + shift, device=device).abs()
    return torch.where(inside < size, inside, 2 * (size - 1) - inside)
