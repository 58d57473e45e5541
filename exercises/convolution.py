"""10. A filter is a small neuron that slides over a picture, and answers at each place.

At each place where it fits, z is the sum of w[i][j]·image[row + i][column + j], plus b, and the map has
f(z) = max(0, z). A filter of 3x3 fits into a picture of 8x8 at 6x6 places.
"""


def convolution(image: list[list[float]], w: list[list[float]], b: float) -> list[list[float]]:
    """Return the map, a list of rows; w has as many rows as columns, and the picture is a list of rows."""
    raise NotImplementedError  # Write your answer in place of this line.
