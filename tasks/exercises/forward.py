"""The exercises about the forward pass: a neuron, a layer, a network."""

import math
from collections.abc import Sequence

from tasks.exercises.checking import Exercise

Vector = Sequence[float]
Matrix = Sequence[Vector]


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def relu(z: float) -> float:
    return max(0.0, z)


def dot(w: Vector, x: Vector) -> float:
    return sum(a * b for a, b in zip(w, x, strict=True))


def multiply(W: Matrix, x: Vector) -> list[float]:
    return [dot(row, x) for row in W]


def add(v: Vector, b: Vector) -> list[float]:
    return [a + c for a, c in zip(v, b, strict=True)]


def activate(z: Vector) -> list[float]:
    return [relu(value) for value in z]


def neuron(x: Vector, w: Vector, b: float) -> float:
    return sigmoid(dot(w, x) + b)


def layer(x: Vector, W: Matrix, b: Vector) -> list[float]:
    return activate(add(multiply(W, x), b))


def network(x: Vector, W0: Matrix, b0: Vector, W1: Matrix, b1: Vector) -> list[float]:
    return add(multiply(W1, layer(x, W0, b0)), b1)


NEURON = Exercise(
    neuron,
    cases=[
        ([1.0, 2.0, 3.0], [0.8, -0.4, 0.2], 0.5),
        ([1.5, -2.0], [0.5, 0.3], -0.7),
        ([-0.5, 0.25, 2.0, 1.0], [0.9, 0.1, -0.6, 0.4], 0.3),
    ],
    mistakes={
        "This is the sum z. The activation is missing: return f(z), with f(z) = 1 / (1 + e^-z).": (
            lambda x, w, b: dot(w, x) + b
        ),
        "The bias b is missing: z is the sum of all w·x, plus b.": lambda x, w, b: sigmoid(dot(w, x)),
        "The bias has the wrong sign: it is added, z = Σ w·x + b.": lambda x, w, b: sigmoid(dot(w, x) - b),
        "The bias is multiplied; it is added, once: z = Σ w·x + b.": lambda x, w, b: sigmoid(dot(w, x) * b),
        "The minus sign in the exponent is missing: f(z) = 1 / (1 + e^-z); a large z must give almost 1.": (
            lambda x, w, b: sigmoid(-(dot(w, x) + b))
        ),
        "This is ReLU. The neuron of this exercise has the sigmoid: f(z) = 1 / (1 + e^-z).": (
            lambda x, w, b: relu(dot(w, x) + b)
        ),
        "This is tanh. The neuron of this exercise has the sigmoid: f(z) = 1 / (1 + e^-z).": (
            lambda x, w, b: math.tanh(dot(w, x) + b)
        ),
        "This is a step from 0 to 1. The sigmoid is smooth: f(z) = 1 / (1 + e^-z).": (
            lambda x, w, b: float(dot(w, x) + b > 0)
        ),
        "Sums are multiplied. Multiply each x by its own w first, then add up the products.": (
            lambda x, w, b: sigmoid(sum(x) * sum(w) + b)
        ),
        "The weights are added to the inputs; each x is multiplied by its w.": (
            lambda x, w, b: sigmoid(sum(x) + sum(w) + b)
        ),
        "The weights w are not used: multiply each x by its w.": lambda x, w, b: sigmoid(sum(x) + b),
        "Each product is activated. Add up first, and activate the sum once.": (
            lambda x, w, b: sum(sigmoid(xi * wi) for xi, wi in zip(x, w, strict=True)) + b
        ),
        "The bias is added after the activation; it belongs into z, before f.": (
            lambda x, w, b: sigmoid(dot(w, x)) + b
        ),
        "The bias is added once per input; add it once, after the loop.": (
            lambda x, w, b: sigmoid(dot(w, x) + b * len(x))
        ),
        "Only the first input counts: `return` stands inside the loop, or the loop is missing.": (
            lambda x, w, b: sigmoid(w[0] * x[0] + b)
        ),
        "Only the last input counts: add each product to the sum, with `+=`.": (
            lambda x, w, b: sigmoid(w[-1] * x[-1] + b)
        ),
    },
)

LAYER = Exercise(
    layer,
    cases=[
        ([1.0, -2.0], [[0.5, 0.2], [0.3, -0.9]], [0.4, -0.1]),
        ([2.0, 0.5, 1.0], [[0.1, 0.7, 0.3], [-0.2, -0.6, 0.5], [0.9, 0.4, 0.8]], [0.1, 0.2, -0.3]),
        ([1.0, 2.0, 3.0], [[0.8, -0.4, 0.2], [-0.5, 0.1, -0.3]], [0.5, 0.1]),
    ],
    mistakes={
        "The activation is missing: take max(0, z) of each neuron.": lambda x, W, b: add(multiply(W, x), b),
        "This is the sigmoid. The layer of this exercise has ReLU: f(z) = max(0, z).": (
            lambda x, W, b: [sigmoid(z) for z in add(multiply(W, x), b)]
        ),
        "The biases b are missing: neuron i adds b[i].": lambda x, W, b: activate(multiply(W, x)),
        "Each neuron adds the same bias, b[0]; neuron i has a bias of its own, b[i].": (
            lambda x, W, b: activate([z + b[0] for z in multiply(W, x)])
        ),
        "Each neuron adds all biases; neuron i adds b[i] only.": (
            lambda x, W, b: activate([z + sum(b) for z in multiply(W, x)])
        ),
        "Rows and columns of W are exchanged: neuron i has the weights W[i], a row.": (
            lambda x, W, b: activate(add(multiply(list(zip(*W, strict=True)), x), b))
        ),
        "ReLU comes before the bias; add b[i] first: f(W·x + b).": (
            lambda x, W, b: add(activate(multiply(W, x)), b)
        ),
        "ReLU is upside down: min(0, z) keeps what is negative; take max(0, z).": (
            lambda x, W, b: [min(0.0, z) for z in add(multiply(W, x), b)]
        ),
        "Negative sums become positive: ReLU makes them 0, and is not the absolute value.": (
            lambda x, W, b: [abs(z) for z in add(multiply(W, x), b)]
        ),
        "These are the values of one neuron only: `return` stands inside the loop over the rows.": (
            lambda x, W, b: layer(x, W[:1], b[:1])
        ),
        "The outputs are added up; a layer returns a list with one value per neuron.": (
            lambda x, W, b: sum(layer(x, W, b))
        ),
        "The neurons whose value is 0 are left out; ReLU keeps them as 0.": (
            lambda x, W, b: [z for z in add(multiply(W, x), b) if z > 0]
        ),
    },
)

NETWORK = Exercise(
    network,
    cases=[
        ([1.0, -2.0], [[0.5, 0.2], [0.3, -0.9]], [0.4, -0.1], [[0.7, -1.2], [-0.6, -0.5]], [0.3, 0.2]),
        ([0.5, 1.5], [[1.0, -0.8], [0.4, 0.6]], [0.1, 0.3], [[0.2, 0.9], [-0.4, -0.7]], [-0.2, 0.5]),
        ([1.0, 2.0], [[0.3, 0.4], [-0.5, 0.1], [0.2, 0.6]], [0.1, 0.2, -0.3], [[0.8, 0.5, -0.9]], [0.25]),
    ],
    mistakes={
        "No layer is activated, so both collapse into one, Ŵ = W1·W0: take max(0, z) of the first one.": (
            lambda x, W0, b0, W1, b1: add(multiply(W1, add(multiply(W0, x), b0)), b1)
        ),
        "The output is activated as well; the last layer has no f, since outputs may be negative.": (
            lambda x, W0, b0, W1, b1: layer(layer(x, W0, b0), W1, b1)
        ),
        "The biases are missing: W1·f(W0·x + b0) + b1.": (
            lambda x, W0, b0, W1, b1: multiply(W1, activate(multiply(W0, x)))
        ),
        "b0 is missing: the first layer is f(W0·x + b0).": (
            lambda x, W0, b0, W1, b1: add(multiply(W1, activate(multiply(W0, x))), b1)
        ),
        "b1 is missing: the last layer adds it.": (lambda x, W0, b0, W1, b1: multiply(W1, layer(x, W0, b0))),
        "b0 and b1 are exchanged.": (lambda x, W0, b0, W1, b1: add(multiply(W1, layer(x, W0, b1)), b0)),
        "The order is wrong: W0 comes first, and W1 takes what it gives.": (
            lambda x, W0, b0, W1, b1: network(x, W1, b1, W0, b0)
        ),
        "The second layer takes x again; it takes the output of the first layer.": (
            lambda x, W0, b0, W1, b1: add(multiply(W1, x), b1)
        ),
        "This is the first layer only; W1 and b1 are not used.": (lambda x, W0, b0, W1, b1: layer(x, W0, b0)),
        "f is applied to x before the first layer; it belongs between the layers.": (
            lambda x, W0, b0, W1, b1: add(multiply(W1, add(multiply(W0, activate(x)), b0)), b1)
        ),
        "ReLU is at the end and not between the layers: W1·f(W0·x + b0) + b1.": (
            lambda x, W0, b0, W1, b1: layer(add(multiply(W0, x), b0), W1, b1)
        ),
        "This is the sigmoid. The network of this exercise has ReLU between its layers.": (
            lambda x, W0, b0, W1, b1: add(multiply(W1, [sigmoid(z) for z in add(multiply(W0, x), b0)]), b1)
        ),
    },
)
