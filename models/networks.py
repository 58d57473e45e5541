"""Networks by the name that `train.network` takes."""

from torch import nn

from models.cifarnet import Airbench94Net, Airbench96Net
from models.net import Net

NETWORKS: dict[str, type[nn.Module]] = {"net": Net, "airbench94": Airbench94Net, "airbench96": Airbench96Net}
