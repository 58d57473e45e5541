"""`build_optimizer` builds the optimizer that `train.optimizer` names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tasks.training.muon import MuonWithAuxSGD, zeropower_via_newtonschulz
from tasks.training.network import find_whitening_bias

if TYPE_CHECKING:
    from torch import nn

    from tasks.params.train import TrainConfig

SGD_MOMENTUM = 0.85  # for the head and the biases, which SGD trains beside Muon, as in airbench


def build_optimizer(model: nn.Module, config: TrainConfig, *, compiled: bool) -> torch.optim.Optimizer:
    """Build the optimizer; with `compiled`, Muon's Newton-Schulz iteration goes through `torch.compile`."""
    kwargs: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(model.parameters(), **kwargs)
        case "adamw":
            return torch.optim.AdamW(model.parameters(), **kwargs)
        case "sgd":
            return torch.optim.SGD(model.parameters(), momentum=config.momentum, nesterov=True, **kwargs)
        case "muon":
            return _build_muon(model, config, compiled=compiled)


def _build_muon(model: nn.Module, config: TrainConfig, *, compiled: bool) -> MuonWithAuxSGD:
    """Build Muon for filters, and SGD for matrices such as the head (`head_lr`) and all else (`bias_lr`).

    airbench sums the gradients of biases and head over the batch, so that a larger batch takes larger steps.
    The loss here is the mean, so the learning rate is multiplied by the batch size. `weight_decay` is the
    share that a weight loses per step, so it is divided by the learning rate, with which SGD multiplies it.
    """
    whiten_bias = find_whitening_bias(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    filters = [parameter for parameter in trainable if parameter.ndim == 4]
    matrices = [parameter for parameter in trainable if parameter.ndim == 2]
    others = [
        parameter for parameter in trainable if parameter.ndim not in {2, 4} and parameter is not whiten_bias
    ]
    groups: list[dict[str, Any]] = [
        {"params": filters, "lr": config.lr, "momentum": config.momentum, "use_muon": True}
    ]
    for parameters, base_lr, mark in (
        (matrices, config.head_lr, {}),
        (others, config.bias_lr, {}),
        ([] if whiten_bias is None else [whiten_bias], config.bias_lr, {"whiten_bias": True}),
    ):
        if parameters:
            lr = base_lr * config.batch_size
            weight_decay = config.weight_decay / lr
            group = {"params": parameters, "lr": lr, "momentum": SGD_MOMENTUM, "weight_decay": weight_decay}
            groups.append(group | mark)
    return MuonWithAuxSGD(
        groups,
        torch.compile(zeropower_via_newtonschulz, dynamic=False) if compiled else zeropower_via_newtonschulz,
    )
