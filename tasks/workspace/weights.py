"""The trained network's file: how weights are read, with what the file says of them."""

from pathlib import Path
from typing import Any

from torch import nn

from models.classifier import Classifier
from models.networks import NETWORKS
from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_tensors


def load_network(file: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network, normalized `(N, 3, 32, 32)` to logits, and what the file says of it."""
    tensors, about = load_tensors(file)
    if about.get("network") not in NETWORKS:
        raise RunError(f"{file} holds no network that this pipeline knows, but {about.get('network')!r}")
    network = NETWORKS[about["network"]]()
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise RunError(f"{file} does not hold the weights of {about['network']!r}: {reason}") from None
    return network.eval(), about


def load_classifier(file: Path) -> tuple[Classifier, dict[str, Any]]:
    """The trained network as it ships: pictures in, probabilities out."""
    network, about = load_network(file)
    views = about.get("train", {}).get("tta", "none")
    return Classifier(network, about["mean"], about["std"], views).eval(), about
