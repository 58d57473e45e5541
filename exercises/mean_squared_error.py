"""4. The mean squared error says how far predictions ŷ are from their targets y: J = 1/n Σ (y - ŷ)²."""


def mean_squared_error(y: list[float], y_hat: list[float]) -> float:
    """Return J of n targets and as many predictions."""
    raise NotImplementedError  # Write your answer in place of this line.
