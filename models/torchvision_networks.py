"""torchvision's classifiers are built by their torchvision names, with a stem for small images.

The stem is the first layers of a network. torchvision's stems have strides and pooling that reduce 224x224
pixels to a quarter or less per side; little would be left of 32x32 pixels. For images of up to
`MAX_SMALL_IMAGE` pixels the stem is replaced by one that keeps the resolution, as He et al. do for CIFAR-10
("Deep Residual Learning for Image Recognition", 2015, section 4.2): a 3x3 convolution with a stride of 1 and
no pooling. Networks that cut the image into patches get smaller patches. The rest is torchvision's.
"""

from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision import models

MAX_SMALL_IMAGE = 64  # larger images get torchvision's own stem
MIN_IMAGE_SIZE = 32
SMALL_PATCH = 4  # a vision transformer's pixels per patch for small images; else 16, as in `vit_b_16`


def build_torchvision_network(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Build a network from normalized images `(N, 3, S, S)` to logits `(N, num_classes)`.

    The weights have torchvision's initialization. `ValueError` if the name is unknown, or if `image_size`, S,
    is too small or is no multiple of a vision transformer's patch size.
    """
    if not name.startswith((*_STEMS, "vit_")):
        raise ValueError(f"unknown network {name!r}")
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"images must have at least {MIN_IMAGE_SIZE} x {MIN_IMAGE_SIZE} pixels")
    if name.startswith("vit_"):
        return _build_vit(name, num_classes, image_size)
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    if image_size <= MAX_SMALL_IMAGE:
        _STEMS[_family(name)](network)
    return network


def stem_parameters(name: str) -> tuple[str, ...]:
    """Return the names of the modules and parameters whose shapes differ for small images."""
    return _STEM_PARAMETERS.get(_family(name), ())


def _family(name: str) -> str:
    return next(family for family in (*_STEMS, "vit") if name.startswith(family))


def _replace_resnet_stem(network: Any) -> None:
    network.conv1 = nn.Conv2d(3, network.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()


def _replace_densenet_stem(network: Any) -> None:
    network.features.conv0 = nn.Conv2d(3, network.features.conv0.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.features.conv0.weight)
    network.features.pool0 = nn.Identity()


def _replace_shufflenet_stem(network: Any) -> None:
    network.conv1[0].stride = (1, 1)
    network.maxpool = nn.Identity()


def _replace_convnext_stem(network: Any) -> None:
    """Cut the image into patches of 2x2 pixels instead of 4x4."""
    patches = nn.Conv2d(3, network.features[0][0].out_channels, 2, stride=2)
    nn.init.trunc_normal_(patches.weight, std=0.02)
    assert patches.bias is not None
    nn.init.zeros_(patches.bias)
    network.features[0][0] = patches


def _replace_vgg_head(network: Any) -> None:
    """Replace the head's first layers: after five poolings a small image is one pixel, not 7x7.

    VGG's stem stays, since it keeps the resolution.
    """
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier[0] = nn.Linear(512, network.classifier[0].out_features)
    nn.init.normal_(network.classifier[0].weight, 0, 0.01)
    nn.init.zeros_(network.classifier[0].bias)


def _unstride_first_convolution(network: nn.Module) -> None:
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    first.stride = (1, 1)


_STEMS: dict[str, Callable[[Any], None]] = {
    "resnet": _replace_resnet_stem,
    "resnext": _replace_resnet_stem,
    "wide_resnet": _replace_resnet_stem,
    "densenet": _replace_densenet_stem,
    "shufflenet": _replace_shufflenet_stem,
    "convnext": _replace_convnext_stem,
    "mobilenet": _unstride_first_convolution,
    "efficientnet": _unstride_first_convolution,
    "regnet": _unstride_first_convolution,
    "vgg": _replace_vgg_head,
}
_STEM_PARAMETERS = {
    "resnet": ("conv1",),
    "resnext": ("conv1",),
    "wide_resnet": ("conv1",),
    "densenet": ("features.conv0",),
    "convnext": ("features.0.0",),
    "vgg": ("classifier.0",),
    "vit": ("conv_proj", "encoder.pos_embedding"),
}
_VIT_SIZES = {  # layers, heads, hidden dimension, dimension of the MLP (Dosovitskiy et al., 2020, table 1)
    "vit_b": (12, 12, 768, 3072),
    "vit_l": (24, 16, 1024, 4096),
}


def _build_vit(name: str, num_classes: int, image_size: int) -> nn.Module:
    size, _, patch = name.rpartition("_")
    patch_size = SMALL_PATCH if image_size <= MAX_SMALL_IMAGE else int(patch)
    if image_size % patch_size:
        raise ValueError(f"the size of images must be a multiple of the patches' {patch_size} pixels")
    layers, heads, hidden, mlp = _VIT_SIZES[size]
    return models.VisionTransformer(
        image_size, patch_size, layers, heads, hidden, mlp, num_classes=num_classes
    )
