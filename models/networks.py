"""The networks by the names that `train.network` takes."""

from torch import nn

from models.net import Net
from models.whitened_net import FastNet, StrongNet

NETWORKS: dict[str, type[nn.Module]] = {"net": Net, "fast_net": FastNet, "strong_net": StrongNet}
