"""The networks by the names that `train.network` takes."""

from torch import nn

from models.net import Net

NETWORKS: dict[str, type[nn.Module]] = {"net": Net}
