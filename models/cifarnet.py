"""These networks train fast; the recipes `fast94` and `strong96` use them.

They follow airbench (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024,
https://arxiv.org/abs/2404.00498), which builds on Page's "How to Train Your ResNet" (2018) and on
hlb-CIFAR10 (https://github.com/tysam-code/hlb-CIFAR10). A comment explains each technique where it is used.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from models.hooks import SampleImages, TrainingHooks

MIN_IMAGE_SIZE = 9  # one pixel is left after the whitening layer and three poolings
WHITENING_KERNEL_SIZE = 2
WHITENING_IMAGES = 5000  # about 5 million patches, for a covariance of 12 x 12
WHITENING_EPSILON = 5e-4  # limits the gain of directions in which images hardly vary


class CifarNet(nn.Module, TrainingHooks):
    """The network has a whitening layer, three blocks of convolutions and a linear head.

    It maps normalized images `(N, 3, S, S)` to logits `(N, num_classes)`. `widths` are the channels of the
    blocks, `depth` is the number of convolutions per block: 2, or 3 with a residual connection. The
    constructor raises `ValueError` if `image_size`, S, is too small for three poolings.
    """

    def __init__(self, widths: Sequence[int], depth: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        if image_size < MIN_IMAGE_SIZE:
            raise ValueError(f"images must have at least {MIN_IMAGE_SIZE} x {MIN_IMAGE_SIZE} pixels")
        # The first layer is computed, not learned: its filters decorrelate neighboring pixels, so that the
        # following layers start from uncorrelated inputs (Page, part 8, "Bag of Tricks"). Only its bias is
        # trained, in the first epochs; afterwards there is no backward pass through this layer, which has the
        # largest feature maps (airbench, section 3.2).
        self.whiten = nn.Conv2d(3, 2 * 3 * WHITENING_KERNEL_SIZE**2, WHITENING_KERNEL_SIZE)
        self.whiten.weight.requires_grad_(False)  # noqa: FBT003 - PyTorch's own
        inputs = [self.whiten.out_channels, *widths[:-1]]
        self.blocks = nn.Sequential(
            *(ConvGroup(before, width, depth) for before, width in zip(inputs, widths, strict=True))
        )
        self.head = nn.Linear(widths[-1], num_classes, bias=False)

    def init_weights(self, sample_images: SampleImages) -> None:
        with torch.no_grad():
            # The whitening filters follow from the data alone, so the layer needs no training.
            images = sample_images(WHITENING_IMAGES)
            self.whiten.weight.copy_(compute_whitening_filters(images, WHITENING_KERNEL_SIZE))
            for bias in self.early_parameters():
                bias.zero_()
            for convolution in self.blocks.modules():
                if isinstance(convolution, nn.Conv2d):
                    # The first filters start as the identity, so that at first the head sees the image's own
                    # features, however many layers lie between (Zagoruyko and Komodakis, "DiracNets", 2017,
                    # https://arxiv.org/abs/1706.00388; airbench, section 3.3).
                    nn.init.dirac_(convolution.weight[: convolution.in_channels])
            # The head's weights start with a standard deviation of 1, and `forward` scales the logits.
            self.head.weight.div_(self.head.weight.std())

    def early_parameters(self) -> list[nn.Parameter]:
        return [self.whiten.get_parameter("bias")]

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.whiten(x))
        x = self.blocks(x)
        # Only the strongest response of each filter counts, wherever it is: the whole map is pooled, which is
        # 3x3 for images of 32x32.
        x = F.max_pool2d(x, x.shape[2:]).flatten(1)
        # The division by the width makes logits start near 0 and change little per step of the head, so
        # softmax starts close to uniform (hlb-CIFAR10, airbench).
        return self.head(x) / self.head.in_features  # type: ignore[no-any-return]


class ConvGroup(nn.Module):
    """A block has 3x3 convolutions, each with batch normalization and GELU; the first one is pooled.

    It maps `(N, inputs, H, W)` to `(N, width, H // 2, W // 2)`.
    """

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        channels = [inputs, *[width] * depth]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in pairwise(channels)
        )
        self.norms = nn.ModuleList(_batch_norm(width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        # Pooling comes first, so that normalization and GELU have a quarter of the values (Page, part 8).
        x = F.gelu(self.norms[0](F.max_pool2d(self.convs[0](x), 2)))
        # Blocks with three convolutions, those of airbench96, have a residual connection (He et al., "Deep
        # Residual Learning", 2015, https://arxiv.org/abs/1512.03385).
        residual = x if len(self.convs) > 2 else None
        x = F.gelu(self.norms[1](self.convs[1](x)))
        for convolution, norm in zip(self.convs[2:], self.norms[2:], strict=True):
            x = norm(convolution(x))
            x = F.gelu(x if residual is None else x + residual)
        return x


def _batch_norm(width: int) -> nn.BatchNorm2d:
    """Build batch normalization (Ioffe and Szegedy 2015) with a learned bias and a scale that stays at 1.

    The next layer's weights can absorb any scale, so there is no need to learn it (Page, part 8). Training
    takes only some hundred steps, too few for the usual running statistics over about ten batches; these
    running statistics cover the last two or three batches (airbench).
    """
    norm = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
    norm.weight.requires_grad_(False)  # noqa: FBT003 - PyTorch's own
    return norm


def compute_whitening_filters(images: Tensor, size: int) -> Tensor:
    """Compute filters `(2 x 3 size², 3, size, size)` whose responses are uncorrelated, with variance 1.

    The responses are those to `images`, `(N, 3, S, S)`, normalized. The filters are the eigenvectors of the
    covariance of all patches of `size` x `size` pixels, each divided by the square root of its eigenvalue.
    """
    channels = images.shape[1]
    # Sums over millions of patches lose digits in float32. Normalized images have a mean of 0, so the mean of
    # the products is the covariance.
    covariance = torch.zeros(channels * size**2, channels * size**2, dtype=torch.float64)
    num_patches = 0
    for batch in torch.split(images, 1000):  # in parts, since patches overlap and take 4 times the memory
        columns = F.unfold(batch, size)  # (B, 3 size², patches): a column per patch
        covariance += (columns @ columns.mT).sum(0).cpu()
        num_patches += columns.shape[0] * columns.shape[2]
    # Patches vary independently along the eigenvectors, each with its eigenvalue as the variance.
    variances, directions = torch.linalg.eigh(covariance / num_patches)
    filters = (directions / (variances + WHITENING_EPSILON).sqrt()).T.reshape(-1, channels, size, size)
    # GELU suppresses negative responses, so that each filter is there with both signs.
    return torch.cat([filters, -filters]).float()


class Airbench94Net(CifarNet):
    """airbench94 uses this network, which has 2 million parameters."""

    def __init__(self, num_classes: int = 10, image_size: int = 32) -> None:
        super().__init__((64, 256, 256), 2, num_classes, image_size)


class Airbench96Net(CifarNet):
    """airbench96 uses this network, which has three convolutions per block and 10 million parameters."""

    def __init__(self, num_classes: int = 10, image_size: int = 32) -> None:
        super().__init__((128, 384, 512), 3, num_classes, image_size)
