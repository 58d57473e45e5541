"""Networks by the name that `train.network` takes."""

from collections.abc import Callable

from torch import nn

from models.cifarnet import Airbench94Net, Airbench96Net
from models.net import Net

# The project's own, from the number of classes and the images' size in pixels; `ValueError` if too small.
NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "net": Net,
    "airbench94": Airbench94Net,
    "airbench96": Airbench96Net,
}


def build_network(name: str, num_classes: int, image_size: int) -> nn.Module:
    """One of the project's own networks, or torchvision's of that name, with any weights.

    `ValueError` where the images are too small for it.
    """
    if name in NETWORKS:
        return NETWORKS[name](num_classes, image_size)
    from models.torchvision_networks import build_torchvision_network  # takes a second

    return build_torchvision_network(name, num_classes, image_size)
