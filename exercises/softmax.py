"""8. Softmax makes probabilities of sums: ŷ_k = e^z_k / Σ e^z.

It has to work for z = 1000 as well, though e^1000 is too large for a computer: ŷ stays the same if the same
number is subtracted from each z first.
"""

import math


def softmax(z: list[float]) -> list[float]:
    """Return one probability per z; they add up to 1."""
    raise NotImplementedError  # Write your answer in place of this line.
