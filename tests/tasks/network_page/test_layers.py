import numpy as np

from models.classifier import Classifier
from models.net import Net
from tasks.network_page.layers import list_layers


def test_list_layers_names_each_call_in_order_with_its_shape() -> None:
    classifier = Classifier(Net(), [0.5] * 3, [0.25] * 3)
    layers = list_layers(classifier, np.zeros((32, 32, 3), np.uint8))
    assert [(layer.name, layer.kind, layer.shape, layer.num_parameters) for layer in layers] == [
        ("conv1", "Conv2d", (6, 28, 28), 456),
        ("pool", "MaxPool2d", (6, 14, 14), 0),
        ("conv2", "Conv2d", (16, 10, 10), 2416),
        ("pool", "MaxPool2d", (16, 5, 5), 0),
        ("fc1", "Linear", (120,), 48_120),
        ("fc2", "Linear", (84,), 10_164),
        ("fc3", "Linear", (10,), 850),
    ]
