"""2. A layer is neurons side by side: f(W·x + b).

Row i of W has the weights of neuron i, and b[i] is its bias. Here f is ReLU, f(z) = max(0, z).
"""


def layer(x: list[float], W: list[list[float]], b: list[float]) -> list[float]:
    """Return one value per row of W."""
    raise NotImplementedError  # Write your answer in place of this line.
