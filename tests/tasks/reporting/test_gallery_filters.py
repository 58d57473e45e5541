import io

import numpy as np
import torch
from PIL import Image
from torch import nn

from models.classifier import Classifier
from tasks.reporting.gallery import CELL, COLUMNS, GAP, MAX_FILTERS, render_filters


def test_render_filters_shows_the_first_of_many() -> None:
    network = nn.Sequential(nn.Conv2d(3, 10 * MAX_FILTERS, 3), nn.Flatten())
    classifier = Classifier(network, [0.5] * 3, [0.25] * 3, image_size=16).eval()
    png = render_filters(classifier, np.zeros((16, 16, 3), np.uint8))
    assert png is not None
    rows = -(-(MAX_FILTERS + 1) // COLUMNS)  # and the image itself
    with Image.open(io.BytesIO(png)) as sheet:
        assert sheet.size == (COLUMNS * (CELL + GAP) - GAP, rows * (2 * CELL + 3 * GAP) - 2 * GAP)


def test_render_filters_of_a_network_without_convolutions_is_none() -> None:
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(1, 3, 16, 16))
    classifier = Classifier(network, [0.5] * 3, [0.25] * 3, image_size=16).eval()
    assert render_filters(classifier, np.zeros((16, 16, 3), np.uint8)) is None
