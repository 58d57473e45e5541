"""`NetworkName` lists the names that `train.network` takes."""

from typing import Literal

# torchvision's networks that accept 32x32 pixels; a test compares the names with torchvision's list.
TorchvisionName = Literal[
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "regnet_x_16gf",
    "regnet_x_1_6gf",
    "regnet_x_32gf",
    "regnet_x_3_2gf",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_x_8gf",
    "regnet_y_128gf",
    "regnet_y_16gf",
    "regnet_y_1_6gf",
    "regnet_y_32gf",
    "regnet_y_3_2gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "regnet_y_8gf",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vit_b_16",
    "vit_l_16",
    "wide_resnet101_2",
    "wide_resnet50_2",
]
OwnName = Literal["net", "airbench94", "airbench96"]
NetworkName = Literal[OwnName, TorchvisionName]

# The checks of parameters need to know these without importing PyTorch. A test compares them with the hooks
# of the networks.
FUSED_NETWORKS = ("net",)  # those with operators in C++
WHITENED_NETWORKS = ("airbench94", "airbench96")  # those with a whitening layer
GRAPH_NETWORKS = ("net",)  # those with a hand-made ONNX graph


def list_opsets(network: str, tta: str, image_size: int) -> range:
    """Return the ONNX operator sets to which a network can be exported.

    One range is that of hand-made graphs, the other that of PyTorch's exporter (tasks/onnx/graph.py).
    """
    has_fast_graph = network in GRAPH_NETWORKS and tta == "none" and image_size == 32
    return range(13, 29) if has_fast_graph else range(18, 26)
