"""The exercises in the order of the course; each is a file `exercises/NAME.py` with a function NAME."""

from importlib import import_module

from tasks.exercises.checking import Exercise
from tasks.workspace.errors import InputError, suggest

MODULES = {
    "neuron": "forward",
    "layer": "forward",
    "network": "forward",
    "mean_squared_error": "losses",
    "binary_cross_entropy": "losses",
    "gradient_descent": "learning",
    "backprop": "learning",
    "softmax": "losses",
    "cross_entropy": "losses",
    "convolution": "images",
    "pooling": "images",
    "training_step": "step",
}
"""the module of each exercise, imported when it is checked, since PyTorch takes seconds"""


def validate_name(name: str) -> str:
    """Return the name if it is an exercise's; `InputError` otherwise."""
    if name not in MODULES:
        raise InputError(f"unknown exercise {name}; {suggest(name, MODULES)}")
    return name


def load_exercise(name: str) -> Exercise:
    exercise: Exercise = getattr(import_module(f"tasks.exercises.{MODULES[name]}"), name.upper())
    return exercise
