"""The toys in the talk's order. Module, flow, picture and test of each have its name."""

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tasks.workspace.errors import InputError

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


def validate_name(name: str) -> str:
    """The name, if it is a toy's; `InputError` otherwise."""
    if name not in TOYS:
        near = difflib.get_close_matches(name, [*TOYS, "all"], n=1)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join(TOYS)} and all"
        raise InputError(f"there is no toy {name}; {known}")
    return name


def load_flow(name: str) -> "Flow[..., Any]":
    """The toy's flow. Imports Prefect and PyTorch, which the names alone do not need."""
    flow: Flow[..., Any] = getattr(import_module(f"flows.toys.{name}"), name)
    return flow
