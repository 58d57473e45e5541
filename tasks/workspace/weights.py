"""These functions load the trained network and its metadata from the weights file."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.classifier import Classifier
from models.networks import build_network
from tasks.workspace.errors import RunError
from tasks.workspace.splits import load_tensors


def load_network(file: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load the trained network, in evaluation mode, and the file's metadata.

    The network maps normalized images `(N, 3, S, S)` to logits. `RunError` if the file is missing, corrupt,
    or holds another network's weights.
    """
    tensors, metadata = load_tensors(file)
    try:
        # torchvision's networks draw initial weights from the global generator, which must not change here.
        with torch.random.fork_rng(devices=[]):
            network = build_network(metadata["network"], len(metadata["classes"]), metadata["image_size"])
    except (KeyError, ValueError):
        raise RunError(f"{file} contains an unknown network: {metadata.get('network')!r}") from None
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise RunError(f"{file} does not hold the weights of {metadata['network']!r}: {reason}") from None
    return network.eval(), metadata


def load_classifier(file: Path) -> tuple[Classifier, dict[str, Any]]:
    """Load the classifier that is exported, from uint8 images to probabilities, and the file's metadata."""
    network, metadata = load_network(file)
    tta = metadata.get("train", {}).get("tta", "none")
    classifier = Classifier(
        network,
        metadata["mean"],
        metadata["std"],
        tta,
        metadata["image_size"],
        metadata.get("temperature", 1.0),  # Weights of earlier versions have none.
    )
    return classifier.eval(), metadata
