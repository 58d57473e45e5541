"""The exercises about J, the number that says how wrong a prediction ŷ is, and about softmax."""

import math
from collections.abc import Iterable, Sequence

from tasks.exercises.checking import Exercise
from tasks.exercises.forward import sigmoid

Vector = Sequence[float]


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def mean_squared_error(y: Vector, y_hat: Vector) -> float:
    return mean((a - p) ** 2 for a, p in zip(y, y_hat, strict=True))


def binary_cross_entropy(y: Vector, y_hat: Vector) -> float:
    return -mean(a * math.log(p) + (1 - a) * math.log(1 - p) for a, p in zip(y, y_hat, strict=True))


def softmax(z: Vector) -> list[float]:
    powers = [math.exp(value - max(z)) for value in z]
    return [power / sum(powers) for power in powers]


def cross_entropy(z: Vector, y: int) -> float:
    return max(z) + math.log(sum(math.exp(value - max(z)) for value in z)) - z[y]


def _shares(z: Vector) -> list[float]:
    """Compute softmax as the formula has it, which raises `OverflowError` where a z is large."""
    powers = [math.exp(value) for value in z]
    return _divide(powers, sum(powers))


def _divide(values: Vector, divisor: float) -> list[float]:
    return [value / divisor for value in values]


def _errors(y: Vector, y_hat: Vector) -> list[float]:
    return [a - p for a, p in zip(y, y_hat, strict=True)]


MEAN_SQUARED_ERROR = Exercise(
    mean_squared_error,
    cases=[
        ([7.0], [5.0]),
        ([1.0, 2.0, 4.0], [1.5, 1.0, 7.0]),
        ([-1.0, 0.0, 3.0, 2.0], [1.0, -0.5, 2.5, 2.0]),
    ],
    mistakes={
        "The differences are not squared, so errors above and below cancel: square each one.": (
            lambda y, p: mean(_errors(y, p))
        ),
        "The differences are not squared, so errors above and below cancel, and the sign is that of ŷ - y.": (
            lambda y, p: mean(_errors(p, y))
        ),
        "This is the mean of the absolute differences; square each one instead.": (
            lambda y, p: mean(map(abs, _errors(y, p)))
        ),
        "This is the sum; divide it by n, the number of points.": (
            lambda y, p: sum(e**2 for e in _errors(y, p))
        ),
        "This is the root of J; leave the root out.": lambda y, p: math.sqrt(mean_squared_error(y, p)),
        "The mean is squared: square each difference first, then take the mean.": (
            lambda y, p: mean(_errors(y, p)) ** 2
        ),
        "This is half of J: divide by n, not by 2n.": lambda y, p: mean_squared_error(y, p) / 2,
        "J is negative: a square is not, so a minus sign is too much.": (
            lambda y, p: -mean_squared_error(y, p)
        ),
        "It divides by n - 1, as for a variance; J is the mean of n squares.": (
            lambda y, p: sum(e**2 for e in _errors(y, p)) / (len(y) - 1)
        ),
        "Only the first point counts: `return` stands inside the loop.": (lambda y, p: (y[0] - p[0]) ** 2),
        "It adds y and ŷ; J measures their distance, y - ŷ.": (
            lambda y, p: mean((a + q) ** 2 for a, q in zip(y, p, strict=True))
        ),
        "It takes the difference of the squares; take the square of the difference.": (
            lambda y, p: mean(a**2 - q**2 for a, q in zip(y, p, strict=True))
        ),
    },
)

BINARY_CROSS_ENTROPY = Exercise(
    binary_cross_entropy,
    cases=[([1.0], [0.8]), ([1.0, 0.0, 1.0], [0.9, 0.2, 0.4]), ([0.0, 0.0, 1.0, 0.0], [0.3, 0.6, 0.7, 0.1])],
    mistakes={
        "The minus sign is missing: log ŷ is negative, so this J is best where ŷ is wrong.": (
            lambda y, p: -binary_cross_entropy(y, p)
        ),
        "This is the sum; divide it by n, the number of points.": (
            lambda y, p: binary_cross_entropy(y, p) * len(y)
        ),
        "Only points with y = 1 count: add the second term, (1 - y)·log(1 - ŷ).": (
            lambda y, p: -mean(a * math.log(q) for a, q in zip(y, p, strict=True))
        ),
        "Only points with y = 0 count: add the first term, y·log ŷ.": (
            lambda y, p: -mean((1 - a) * math.log(1 - q) for a, q in zip(y, p, strict=True))
        ),
        "Both logarithms are of ŷ; the second one is log(1 - ŷ).": lambda y, p: -mean(map(math.log, p)),
        "The factor (1 - y) is missing before log(1 - ŷ).": (
            lambda y, p: -mean(a * math.log(q) + math.log(1 - q) for a, q in zip(y, p, strict=True))
        ),
        "The factor y is missing before log ŷ.": (
            lambda y, p: -mean(math.log(q) + (1 - a) * math.log(1 - q) for a, q in zip(y, p, strict=True))
        ),
        "The second term is subtracted: the minus stands before the sum of both.": (
            lambda y, p: mean(-a * math.log(q) + (1 - a) * math.log(1 - q) for a, q in zip(y, p, strict=True))
        ),
        "The targets are exchanged: y goes with log ŷ, and 1 - y with log(1 - ŷ).": (
            lambda y, p: binary_cross_entropy([1 - a for a in y], p)
        ),
        "This is the logarithm to base 2; take the natural one, math.log.": (
            lambda y, p: binary_cross_entropy(y, p) / math.log(2)
        ),
        "This is the logarithm to base 10; take the natural one, math.log.": (
            lambda y, p: binary_cross_entropy(y, p) / math.log(10)
        ),
        "This is the mean squared error; use logarithms of the probabilities.": mean_squared_error,
    },
)

SOFTMAX = Exercise(
    softmax,
    cases=[([1.0, 2.0, 4.0],), ([-1.2, 0.3, 0.8, 2.6],), ([1000.0, 999.0],)],
    mistakes={
        "Right for small z, but e^1000 is no number of a computer: subtract max(z) from each z first.": (
            _shares
        ),
        "The exponential is missing: raise e to each z, then divide by the sum.": (
            lambda z: _divide(z, sum(z))
        ),
        "These are powers; divide each by their sum, so that they add up to 1.": (
            lambda z: [math.exp(v) for v in z]
        ),
        "These are powers, without their maximum; divide each by their sum, so that they add up to 1.": (
            lambda z: [math.exp(v - max(z)) for v in z]
        ),
        "This is a sigmoid for each z by itself; the probabilities of all classes must add up to 1.": (
            lambda z: [sigmoid(v) for v in z]
        ),
        "It divides by the largest power; divide by the sum of all.": (
            lambda z: _divide([math.exp(v) for v in z], math.exp(max(z)))
        ),
        "It divides by the number of classes; divide by the sum of the powers.": (
            lambda z: _divide([math.exp(v) for v in z], len(z))
        ),
        "The exponent has a minus sign, so the smallest z gets the most: take e^z.": (
            lambda z: _shares([-v for v in z])
        ),
        "These are logarithms of the probabilities; leave the logarithm out.": (
            lambda z: [math.log(p) for p in _shares(z)]
        ),
        "Only the largest z gets anything; softmax gives each class its share.": (
            lambda z: [float(v == max(z)) for v in z]
        ),
        "The base is 2; take e, with math.exp.": lambda z: _shares([v * math.log(2) for v in z]),
        "It divides by the sum of z; divide by the sum of the powers e^z.": (
            lambda z: _divide([math.exp(v) for v in z], sum(z))
        ),
        "This is the number or the probability of the largest class; return the list of all.": (
            lambda z: max(_shares(z))
        ),
    },
)

CROSS_ENTROPY = Exercise(
    cross_entropy,
    cases=[([1.0, 2.0, 4.0], 1), ([-1.2, 0.3, 0.8, 2.6], 3), ([2.0, 0.5, -1.0], 2), ([0.0, 1000.0], 0)],
    mistakes={
        "Right for small z; beside z = 1000, ŷ_y is 0, and log 0 has no value: J = log(Σ e^z) - z_y.": (
            lambda z, y: -math.log(_shares(z)[y])
        ),
        "The minus sign is missing: J = -log ŷ_y, which is 0 for a perfect prediction.": (
            lambda z, y: math.log(_shares(z)[y])
        ),
        "This is the sum z_y with a minus sign; add log Σ e^z.": lambda z, y: -z[y],
        "This is log Σ e^z; subtract z_y, the sum of the right class.": (
            lambda z, y: math.log(sum(math.exp(v) for v in z))
        ),
        "This is the probability ŷ_y; J is minus its logarithm.": lambda z, y: _shares(z)[y],
        "This is 1 - ŷ_y; J is -log ŷ_y, which grows without bound where ŷ_y is near 0.": (
            lambda z, y: 1 - _shares(z)[y]
        ),
        "It is the mean over all classes; J looks at the right class y only.": (
            lambda z, y: mean(-math.log(p) for p in _shares(z))
        ),
        "It is the sum over all classes; J looks at the right class y only.": (
            lambda z, y: sum(-math.log(p) for p in _shares(z))
        ),
        "It counts classes from 1; z[y] is the sum of the class y, from 0.": (
            lambda z, y: -math.log(_shares(z)[y - 1])
        ),
        "The logarithm is of z; softmax makes a probability of z first.": lambda z, y: -math.log(z[y]),
        "It takes the largest class; take y, the right one, even where it is not the largest.": (
            lambda z, y: -math.log(max(_shares(z)))
        ),
        "The softmax is a sigmoid of z_y; all classes share the probability.": (
            lambda z, y: -math.log(sigmoid(z[y]))
        ),
        "These are logarithms of all probabilities; return the one of the class y, with a minus sign.": (
            lambda z, y: [math.log(p) for p in _shares(z)]
        ),
    },
)
