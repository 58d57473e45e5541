"""1. A neuron computes ŷ = f(z) with z = w1·x1 + w2·x2 + … + b.

f is the sigmoid, f(z) = 1 / (1 + e^-z); `math.exp(z)` is e^z. Any number of inputs may come.
"""

import math


def neuron(x: list[float], w: list[float], b: float) -> float:
    """Return ŷ of the inputs x, the weights w (as many as inputs) and the bias b."""
    raise NotImplementedError  # Write your answer in place of this line.
