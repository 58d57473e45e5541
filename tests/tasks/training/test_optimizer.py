import pytest
import torch
from torch import Generator

from models.cifarnet import Airbench94Net
from models.init import build_model
from models.net import Net
from tasks.training.optimizer import SGD_MOMENTUM, MuonWithAuxSGD, build_optimizer
from tests.brightness import build_config


@pytest.mark.parametrize(
    ("name", "expected"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_build_optimizer_gives_pytorch_optimizers(name: str, expected: type[torch.optim.Optimizer]) -> None:
    config = build_config(optimizer=name, lr=0.02, weight_decay=0.3, momentum=0.7)
    model = build_model(Net, Generator().manual_seed(0))
    optimizer = build_optimizer(model, config, compiled=False)
    assert type(optimizer) is expected
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["fused"]) == (0.02, 0.3, True)
    assert group["params"] == list(model.parameters())
    if name == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.7, True)


def test_build_optimizer_muon_has_groups_by_kind_of_parameter() -> None:
    """Learning rates of head and biases are per batch, weight decay is a share per step."""
    settings = {"lr": 0.24, "momentum": 0.6, "head_lr": 0.5, "bias_lr": 0.04, "weight_decay": 0.002}
    config = build_config(network="airbench94", optimizer="muon", batch_size=100, **settings)
    images = torch.randn(5, 3, 32, 32, generator=Generator().manual_seed(0))
    model = build_model(Airbench94Net, Generator().manual_seed(0), lambda _: images)
    optimizer = build_optimizer(model, config, compiled=False)
    assert isinstance(optimizer, MuonWithAuxSGD)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    blocks = [(block, layer) for block in range(3) for layer in range(2)]
    assert groups == [
        [f"blocks.{block}.convs.{layer}.weight" for block, layer in blocks],
        ["head.weight"],
        [f"blocks.{block}.norms.{layer}.bias" for block, layer in blocks],
        ["whiten.bias"],
    ]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.24, 50, 4, 4])
    assert [group["use_muon"] for group in optimizer.param_groups] == [True, False, False, False]
    assert [group.get("early", False) for group in optimizer.param_groups] == [False] * 3 + [True]
    momenta = [group["momentum"] for group in optimizer.param_groups]
    assert momenta == [0.6, SGD_MOMENTUM, SGD_MOMENTUM, SGD_MOMENTUM]
    decays = [group["lr"] * group["weight_decay"] for group in optimizer.param_groups]
    assert decays == pytest.approx([0, 0.002, 0.002, 0.002])


def test_build_optimizer_muon_works_without_a_whitening_layer() -> None:
    model = build_model(Net, Generator().manual_seed(0))
    optimizer = build_optimizer(model, build_config(optimizer="muon"), compiled=False)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 3, 5]
