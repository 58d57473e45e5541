"""5. The binary cross-entropy judges probabilities: J = -1/n Σ y·log ŷ + (1 - y)·log(1 - ŷ).

The minus stands before the whole sum. y is 0 or 1, ŷ is between 0 and 1, and `math.log` is the logarithm.
"""

import math


def binary_cross_entropy(y: list[float], y_hat: list[float]) -> float:
    """Return J of n targets and as many probabilities."""
    raise NotImplementedError  # Write your answer in place of this line.
