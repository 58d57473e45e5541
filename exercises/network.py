"""3. A network is layers one after the other: ŷ = W1·f(W0·x + b0) + b1.

f is ReLU. The last layer has no f. You may copy what you wrote in layer.py.
"""


def network(
    x: list[float], W0: list[list[float]], b0: list[float], W1: list[list[float]], b1: list[float]
) -> list[float]:
    """Return ŷ, one value per row of W1."""
    raise NotImplementedError  # Write your answer in place of this line.
