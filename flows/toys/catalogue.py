"""The toys in the talk's order. Module, flow, picture and test of each have its name."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect import Flow

TOYS = {
    "neuron": "multiply, sum, add the bias, activate",
    "layers": "networks are nested functions, and collapse without activations",
    "loss": "how far a prediction is from its target, and what a lost minus sign does",
    "gradient_descent": "downhill step by step, with a learning rate too small, fitting, too large",
    "backprop": "the chain rule, held against autograd and finite differences",
    "training_cycle": "forward, loss, backward, update: the pipeline's own loop on a small network",
    "fit": "underfitting, sweet spot, overfitting",
    "discounted_return": "what future rewards are worth, by chess",
}
"""What each toy shows"""


def flow_of(name: str) -> "Flow[..., Any]":
    """The toy's flow. Imports Prefect, and PyTorch where the toy needs it; the names alone do not."""
    flow: Flow[..., Any] = getattr(import_module(f"flows.toys.{name}"), name)
    return flow
