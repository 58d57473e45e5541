import torch
from torch import nn

from models.classifier import Classifier
from tasks.training.loader import Normalize

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]
CPU = torch.device("cpu")


def test_normalize_matches_the_classifier_for_every_value_of_a_channel() -> None:
    images = torch.arange(256).to(torch.uint8)[:, None, None, None].expand(256, 32, 32, 3)
    normalized = Normalize(MEAN, STD, 32, CPU)(images)
    expected = Classifier(nn.Identity(), MEAN, STD).normalize(images)
    assert normalized.shape == (256, 3, 32, 32)
    assert normalized.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(normalized, expected, atol=1e-6)


def test_normalize_keeps_positions_and_channels() -> None:
    images = torch.randint(256, (3, 32, 32, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pixel = Normalize(MEAN, STD, 32, CPU)(images)[1, :, 5, 7]
    expected = (images[1, 5, 7] / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(pixel, expected, atol=1e-6)


def test_normalize_mean_color_is_normalized_to_about_0() -> None:
    normalize = Normalize(MEAN, STD, 32, CPU)
    assert normalize.mean_color.tolist() == [125, 123, 114]
    images = normalize.mean_color.expand(1, 32, 32, 3).contiguous()
    assert normalize(images).abs().max() < 0.5 / 255 / min(STD)
