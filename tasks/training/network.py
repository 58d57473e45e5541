"""These functions prepare the network of a training: initial weights, weights from a file, frozen layers."""

from __future__ import annotations

import copy
import os
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from models.cifarnet import CifarNet
from models.fused_net import FusedNet
from models.init import build_model, build_with_seed
from models.net import Net
from models.networks import NETWORKS, build_network
from tasks.training.pretrained import load_pretrained
from tasks.workspace.errors import InputError
from tasks.workspace.files import open_cache_or_temporary

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Generator, Tensor, nn

    from tasks.params.train import TrainConfig

COMPILE_MODE = "max-autotune"  # measures which kernel is fastest for each product, and records a CUDA graph


def initialize_network(
    config: TrainConfig, num_classes: int, images: Tensor, generator: Generator, weights: Path | None = None
) -> nn.Module:
    """Build the network that `config` names, initialized from `generator` and then from the file `weights`.

    `images` are normalized training images `(N, 3, S, S)`. `InputError` if they are too small for the network
    or for the augmentation, if `weights` does not fit the network, or if nothing is left to train.
    """
    size = images.shape[2]
    for name, pixels in (("translate", config.translate), ("cutout_size", config.cutout_size - 1)):
        if pixels >= size:
            raise InputError(f"train.{name} is too large for images of {size} x {size} pixels")
    build = partial(build_network, config.network, num_classes, size)
    try:
        if config.network in NETWORKS:
            network = build_model(build, generator, images)
        else:
            network = build_with_seed(build, generator)
    except ValueError as error:
        raise InputError(f"train.network {config.network}: {error}; they have {size} x {size}") from None
    if weights is not None:
        load_pretrained(network, weights, config.network)
    freeze(network, config.freeze)
    bias, epochs = find_whitening_bias(network), config.whiten_bias_epochs
    if epochs < config.epochs and not any(p.requires_grad for p in network.parameters() if p is not bias):
        raise InputError(f"train.freeze leaves no parameter to train after epoch {epochs}")
    return network


def compile_network(network: nn.Module, *, compiled: bool, fused: bool) -> nn.Module:
    """Return a module that trains the parameters of `network`, faster where it can.

    With `fused` it is a `FusedNet`, with `compiled` a result of `torch.compile`, and else `network` itself.
    """
    if fused:
        assert isinstance(network, Net)
        return FusedNet(network)
    if not compiled:
        return network
    keep_inductor_cache_private()
    return torch.compile(network, mode=COMPILE_MODE, dynamic=False)  # type: ignore[return-value]


def keep_inductor_cache_private() -> None:
    """Have `torch.compile` keep compiled code in a private folder, unless `TORCHINDUCTOR_CACHE_DIR` is set.

    PyTorch's default is a folder in the temporary directory whose name anybody can predict, so another user
    could create it first, and the code in it would run.
    """
    if not os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(open_cache_or_temporary("inductor"))


def freeze(network: nn.Module, prefixes: list[str]) -> None:
    """Exclude parameters from training: those that `prefixes` names, or whose module it names.

    `InputError` if the network has no such name, or if nothing is left to train.
    """
    for prefix in prefixes:
        frozen = [
            parameter
            for name, parameter in network.named_parameters()
            if name == prefix or name.startswith(f"{prefix}.")
        ]
        if not frozen:
            known = ", ".join(name for name, _ in network.named_children())
            raise InputError(f"train.freeze: the network has no {prefix!r}; its modules are {known}")
        for parameter in frozen:
            parameter.requires_grad_(False)  # noqa: FBT003 - PyTorch's own
    if prefixes and not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError("train.freeze leaves no parameter to train")


def find_whitening_bias(network: nn.Module) -> nn.Parameter | None:
    """Return the bias of the whitening layer; None if the network has none or `train.freeze` names it.

    Call this before the first epoch: after some epochs the trainer freezes the bias itself.
    """
    if not isinstance(network, CifarNet) or network.whiten.bias is None:
        return None
    bias: nn.Parameter = network.whiten.bias  # type: ignore[assignment]
    return bias if bias.requires_grad else None


def set_train_mode(network: nn.Module) -> None:
    """Switch to training mode, except for batch normalization with frozen parameters.

    Such batch normalization uses its running statistics and does not change them.
    """
    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.bias is not None and not module.bias.requires_grad:
            module.eval()


def has_dropout(network: nn.Module) -> bool:
    """Whether the network has dropout or stochastic depth, which draw from PyTorch's global generator."""
    return any(
        getattr(module, "p", 0) > 0
        for module in network.modules()
        if type(module).__name__ in {"Dropout", "Dropout1d", "Dropout2d", "StochasticDepth"}
    )


def check_last_batch(config: TrainConfig, num_images: int, network: nn.Module, image: Tensor) -> None:
    """Raise `InputError` if the last batch has no image for one of the processes, or too few to train on.

    `image`, `(1, 3, S, S)`, is a normalized training image, which is tried: batch normalization fails on a
    single image if its feature map has one pixel.
    """
    last = num_images % config.batch_size or config.batch_size
    smallest_share = last // config.processes
    if smallest_share > 1 or (smallest_share == 1 and _can_train_on(network, image)):
        return
    size, reason = "one" if last == 1 else f"{last:,}", f"the batch normalization of {config.network}"
    if config.processes > 1:
        reason = f"{config.processes} processes" + (f" and {reason}" if smallest_share else "")
    raise InputError(
        f"train.batch_size {config.batch_size} leaves a last batch of {size} of the {num_images:,} training "
        f"images, too few for {reason}; choose another"
    )


def _can_train_on(network: nn.Module, image: Tensor) -> bool:
    """Whether the network accepts this batch in training mode; the network is not changed."""
    copied = copy.deepcopy(network)
    set_train_mode(copied)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            copied(image)
        except ValueError:  # PyTorch's "Expected more than 1 value per channel when training"
            return False
    return True
