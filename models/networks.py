"""The networks by the names that `train.network` takes."""

from torch import nn

from models.cifarnet import FastNet, StrongNet
from models.net import Net

NETWORKS: dict[str, type[nn.Module]] = {"net": Net, "fast_net": FastNet, "strong_net": StrongNet}
