"""Networks by the name that `train.network` takes."""

from collections.abc import Callable

from torch import nn

from models.cifarnet import Airbench94Net, Airbench96Net
from models.net import Net

# From the number of classes and the images' size in pixels to the network; `ValueError` for a size too small.
NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "net": Net,
    "airbench94": Airbench94Net,
    "airbench96": Airbench96Net,
}
