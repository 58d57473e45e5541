"""`build_network` finds a network by the name that `train.network` gives."""

from collections.abc import Callable

from torch import nn

from models.cifarnet import Airbench94Net, Airbench96Net
from models.net import Net

# The project's own networks, each with a constructor that takes the number of classes and the images' size in
# pixels, and raises `ValueError` for images that are too small.
NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "net": Net,
    "airbench94": Airbench94Net,
    "airbench96": Airbench96Net,
}


def build_network(name: str, num_classes: int, image_size: int) -> nn.Module:
    """Build one of the project's own networks, or torchvision's of that name; its weights are arbitrary.

    `ValueError` if the images are too small for the network, or if no network has this name.
    """
    if name in NETWORKS:
        return NETWORKS[name](num_classes, image_size)
    from models.torchvision_networks import build_torchvision_network  # this import takes a second

    return build_torchvision_network(name, num_classes, image_size)
