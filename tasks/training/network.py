"""These functions prepare the network of a training: initial weights, weights from a file, frozen layers.

Weights in a file are a state dict, as safetensors or as PyTorch saves it.
"""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.modules.batchnorm import _BatchNorm

from models.hooks import get_hooks
from models.init import build_model, build_with_seed
from models.networks import NETWORKS, build_network
from tasks.workspace.errors import InputError

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from models.hooks import SampleImages
    from tasks.params.train import TrainConfig

MAX_SHOWN = 3  # the number of keys that a message names


def initialize_network(
    config: TrainConfig,
    num_classes: int,
    size: int,
    sample_images: SampleImages,
    generator: Generator,
    weights: Path | None = None,
) -> nn.Module:
    """Build the network that `config` names, initialized from `generator` and then from the file `weights`.

    `size` is the images' side in pixels; `sample_images` gives training images if the network asks for some.
    `InputError` if images are too small for the network or for the augmentation, if `weights` does not fit
    the network, or if nothing is left to train.
    """
    for name, pixels in (("translate", config.translate), ("cutout_size", config.cutout_size - 1)):
        if pixels >= size:
            raise InputError(f"train.{name} is too large for images of {size} x {size} pixels")
    build = partial(build_network, config.network, num_classes, size)
    try:
        if config.network in NETWORKS:
            network = build_model(build, generator, sample_images)
        else:
            network = build_with_seed(build, generator)
    except ValueError as error:
        raise InputError(f"train.network {config.network}: {error}; they have {size} x {size}") from None
    if weights is not None:
        load_pretrained(network, weights, config.network)
    freeze(network, config.freeze)
    early, epochs = find_early_parameters(network), config.whiten_bias_epochs
    if epochs < config.epochs and not any(p.requires_grad and p not in early for p in network.parameters()):
        raise InputError(f"train.freeze leaves no parameter to train after epoch {epochs}")
    return network


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


def find_early_parameters(network: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that are trained in the first epochs only; `train.freeze` names none of them.

    Call this before the first epoch: after some epochs the trainer freezes these parameters itself.
    """
    return {parameter for parameter in get_hooks(network).early_parameters() if parameter.requires_grad}


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


def load_pretrained(network: nn.Module, file: Path, name: str) -> None:
    """Load the state dict in `file` into the network called `name`.

    The head keeps its initialization if the file is for another number of classes, and the stem if the file
    has torchvision's own stem, for large images; a line says so. `InputError` if anything else does not fit.
    """
    tensors = read_state_dict(file)
    expected = network.state_dict()
    for problem, keys in (
        ("lacks", expected.keys() - tensors.keys()),
        ("has keys that the network lacks:", tensors.keys() - expected.keys()),
    ):
        if keys:
            raise InputError(f"{file} does not fit {name}: it {problem} {_join(keys)}")
    other_shape = {key for key, tensor in tensors.items() if tensor.shape != expected[key].shape}
    replaceable = {key for key in other_shape if key.startswith((*_stem(name), _head(network)))}
    if other_shape - replaceable:
        raise InputError(
            f"{file} does not fit {name}: it has other shapes of {_join(other_shape - replaceable)}"
        )
    network.load_state_dict({key: tensors[key] for key in tensors.keys() - other_shape}, strict=False)
    kept = f"; initialized anew: {', '.join(sorted(other_shape))}" if other_shape else ""
    print(f"starting from the weights in {file}{kept}")


def find_pretrained(folder: Path | None, name: str) -> Path | None:
    """Return the file that `train.weights` names, None if it names none. `InputError` if it is missing."""
    if not name:
        return None
    if folder is None or not (folder / name).is_file():
        raise InputError(f"train.weights: {(folder or Path()) / name} not found")
    return folder / name


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, or of one that `torch.load` reads with `weights_only`.

    `InputError` if the file holds no state dict.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"train.weights: {file} holds no state dict: {reason}") from None
    if isinstance(content, dict):
        content = next((content[key] for key in ("state_dict", "model") if key in content), content)
    if not isinstance(content, dict) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise InputError(f"train.weights: {file} holds no state dict")
    return content


def _stem(name: str) -> tuple[str, ...]:
    if name in NETWORKS:
        return ()
    from models.torchvision_networks import stem_parameters

    return stem_parameters(name)


def _head(network: nn.Module) -> str:
    """Return the name of the head, which gives the logits: the module with the network's last parameter."""
    *_, last = (name for name, _ in network.named_parameters())
    return last.rpartition(".")[0]


def _join(keys: set[str]) -> str:
    shown = sorted(keys)[:MAX_SHOWN]
    more = f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else ""
    return ", ".join(shown) + more
