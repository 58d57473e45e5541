"""6. Gradient descent goes downhill: it repeats θ ← θ - α·∇J."""

from collections.abc import Callable


def gradient_descent(
    gradient: Callable[[list[float]], list[float]], theta: list[float], alpha: float, steps: int
) -> list[float]:
    """Return θ after `steps` steps.

    `gradient(theta)` gives ∇J at θ, a list of as many numbers. `theta` is where it starts and must stay as it
    is: compute a new list.
    """
    raise NotImplementedError  # Write your answer in place of this line.
