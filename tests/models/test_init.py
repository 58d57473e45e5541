import pytest
import torch
from torch import Generator, nn

from models.init import build_model, seed_global_generator
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


def test_seed_global_generator_follows_the_generator_and_leaves_the_global_one() -> None:
    network = nn.Dropout(0.5)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    results = []
    for seed in (3, 3, 4):
        with seed_global_generator(Generator().manual_seed(seed), torch.device("cpu")):
            results.append(network(torch.ones(100)))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert torch.equal(torch.rand(3), expected)
