"""The toys in the talk's order. Each one's modules, flow, figure and test have its name."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tasks.workspace.errors import InputError, suggest

if TYPE_CHECKING:
    from prefect import Flow

TOYS = {
    "neuron": "multiply, sum, add the bias, activate",
    "layers": "neurons side by side; networks are nested functions, and collapse without activations",
    "loss": "how far a prediction is from its target, and what a missing minus sign does",
    "gradient_descent": "downhill step by step, with a learning rate too small, good, too large",
    "backprop": "the chain rule, compared with autograd and finite differences",
    "training_cycle": "forward, loss, backward, update: the pipeline's training step on a small network",
    "regression": "a neuron without activation: hours of study become points in an exam",
    "softmax": "ten sums become ten probabilities, and the cross-entropy says how wrong they are",
    "convolution": "one filter slides over one picture",
    "pooling": "of 2x2 neighbors the largest is left",
    "composition": "edges make parts, and parts make an object",
    "features": "hand-made features of a message beside learned ones",
    "clustering": "groups without labels beside classes with labels",
    "dimension_reduction": "length, speed and width become size and speed",
    "fit": "underfitting, sweet spot, overfitting",
    "discounted_return": "what future rewards are worth, by chess",
}
"""what each toy shows"""


def validate_name(name: str) -> str:
    """Return the name if it is a toy's; `InputError` otherwise."""
    if name not in TOYS:
        raise InputError(f"unknown toy {name}; {suggest(name, [*TOYS, 'all'])}")
    return name


def load_flow(name: str) -> "Flow[..., Any]":
    """Import and return the toy's flow, for which Prefect and PyTorch are imported."""
    flow: Flow[..., Any] = getattr(import_module(f"flows.toys.{name}"), name)
    return flow
