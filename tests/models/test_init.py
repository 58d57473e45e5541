import pytest
import torch
from torch import Generator, nn

from models.init import build_model
from models.net import Net


def test_build_model_matches_pytorch_after_the_same_seed() -> None:
    torch.manual_seed(4)
    expected = Net().state_dict()
    model = build_model(Net, Generator().manual_seed(4)).state_dict()
    assert all(torch.equal(model[name], tensor) for name, tensor in expected.items())


def test_build_model_rejects_layers_without_a_rule() -> None:
    class NetWithEmbedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(2, 3)

    with pytest.raises(TypeError, match="no weight initialization defined for Embedding"):
        build_model(NetWithEmbedding, Generator())
