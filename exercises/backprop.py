"""7. Backpropagation: how does J change with w, b and x?

The neuron is ŷ = f(z), z = w·x + b, with the sigmoid f, and J = (y - ŷ)². Go backward by the chain rule:
∂J/∂ŷ, then ∂J/∂z = ∂J/∂ŷ · f'(z), then ∂J/∂w, ∂J/∂b and ∂J/∂x. The slope of the sigmoid is f'(z) = ŷ(1 - ŷ).
"""

import math


def backprop(x: float, y: float, w: float, b: float) -> tuple[float, float, float]:
    """Return (∂J/∂w, ∂J/∂b, ∂J/∂x)."""
    raise NotImplementedError  # Write your answer in place of this line.
