"""Hand-made features beside learned ones (slide "Feature Engineering").

A message is friendly or angry. Feature engineering has a person decide what counts: the numbers of positive
words, of negative words and of "!". A neuron then needs three weights. Without features, it gets each word
of the messages, with a weight of its own, and learns from the labels alone which words are positive: the
features are learned. It can learn words that nobody thought of, and nothing about words that it never saw.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from pydantic import Field

from flows.run.tables import Table
from flows.toys.base import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Values,
    create_figure,
    format_number,
    present,
    toy_flow,
    toy_task,
)
from flows.toys.neuron import sigmoid
from tasks.reporting.svg import BLUE, MUTED, ORANGE, STYLE, render_svg

Message = Annotated[str, Field(min_length=1, max_length=200)]
POSITIVE = frozenset({"good", "great", "love", "thanks", "nice", "happy"})
NEGATIVE = frozenset({"bad", "awful", "hate", "broken", "never", "angry"})
NAMES = ("positive words", "negative words", '"!"')
FRIENDLY = (
    "I love this phone", "great service, thanks", "what a nice day", "good food and a great view",
    "thanks, it works", "so happy with it!", "works like a charm", "a lovely evening",
    "my favorite place", "I love it, thanks!",
)  # fmt: skip
ANGRY = (
    "I hate this phone!", "awful service!", "it is broken again!", "never again!",
    "what a bad day", "the food was cold", "I want a refund", "I am so angry!",
    "cold food and a rude waiter!", "a refund, now!",
)  # fmt: skip


@dataclass(frozen=True)
class Neuron:
    """A neuron with a sigmoid: it gives the probability that a message is friendly."""

    weights: Values
    bias: float

    def predict(self, features: Values) -> Values:
        """Map features `(N, F)` to probabilities `(N,)`."""
        return np.array([sigmoid(float(z)) for z in features @ self.weights + self.bias])


def split_words(message: str) -> list[str]:
    return re.findall(r"[a-z']+", message.lower())


@toy_task
def make_features(messages: Sequence[str]) -> Values:
    """Count positive words, negative words and "!": hand-made features `(N, 3)`."""
    return np.array(
        [
            [
                sum(word in POSITIVE for word in split_words(message)),
                sum(word in NEGATIVE for word in split_words(message)),
                message.count("!"),
            ]
            for message in messages
        ],
        dtype=float,
    )


@toy_task
def count_words(messages: Sequence[str], vocabulary: Sequence[str]) -> Values:
    """Count each word of the vocabulary: the raw data `(N, words)`; other words are not seen."""
    return np.array(
        [[split_words(message).count(word) for word in vocabulary] for message in messages], dtype=float
    )


@toy_task
def train_neuron(features: Values, labels: Values, learning_rate: float, steps: int, decay: float) -> Neuron:
    """Train on all messages at once by gradient descent on the binary cross-entropy.

    `decay` pulls the weights toward 0: J has the term `decay / 2 · Σ w²`.
    """
    neuron = Neuron(np.zeros(features.shape[1]), 0.0)
    for _ in range(steps):
        errors = neuron.predict(features) - labels  # ∂J/∂z = ŷ - y
        slope = features.T @ errors / len(labels) + decay * neuron.weights
        neuron = Neuron(
            neuron.weights - learning_rate * slope, neuron.bias - learning_rate * float(errors.mean())
        )
    return neuron


@toy_flow
def features(
    message: Message = "the waiter was rude, I want a refund",
    learning_rate: PositiveFloat = 0.5,
    steps: PositiveInt = 400,
    decay: NonNegativeFloat = 0.01,
) -> float:
    """Classify a message by three hand-made features, and by learned weights of all words.

    Args:
        message: the message to classify, in English
        learning_rate: α
        steps: the number of steps downhill
        decay: the weight decay, which keeps rare words from getting large weights
    """
    messages = [*FRIENDLY, *ANGRY]
    labels = np.array([1.0] * len(FRIENDLY) + [0.0] * len(ANGRY))
    vocabulary = sorted({word for each in messages for word in split_words(each)})
    made, counted = make_features(messages), count_words(messages, vocabulary)
    by_hand, learned = (train_neuron(x, labels, learning_rate, steps, decay) for x in (made, counted))
    asked_made, asked_counted = make_features([message]), count_words([message], vocabulary)
    answers = [float(by_hand.predict(asked_made)[0]), float(learned.predict(asked_counted)[0])]
    right = [
        float(((neuron.predict(x) > 0.5) == (labels > 0.5)).mean())
        for neuron, x in ((by_hand, made), (learned, counted))
    ]

    table = Table(
        ["features", "weights", "right of the messages", "friendly"],
        [
            ("hand-made", str(made.shape[1]), f"{right[0]:.0%}", f"{answers[0]:.1%}"),
            ("learned: one weight per word", str(counted.shape[1]), f"{right[1]:.0%}", f"{answers[1]:.1%}"),
        ],
    )
    seen = [word for word in split_words(message) if word in vocabulary]
    words = Table(
        ["feature", "value", "weight"],
        [
            *(
                (name, *pair)
                for name, *pair in zip(NAMES, asked_made[0].tolist(), by_hand.weights.tolist(), strict=True)
            ),
            *((word, 1.0, float(learned.weights[vocabulary.index(word)])) for word in dict.fromkeys(seen)),
        ],
    )
    unseen = [word for word in split_words(message) if word not in vocabulary]
    takeaways = [
        (
            f"By hand a person chose {len(POSITIVE) + len(NEGATIVE)} words and their signs; "
            f"without, {len(vocabulary)} weights were learned from {len(messages)} labels."
        ),
        f"Words that were never seen count nothing: {', '.join(unseen) or 'there are none here'}.",
    ]
    present("features", [table, words], takeaways, plot(by_hand, learned, vocabulary))
    return answers[1]


@rc_context(STYLE)
def plot(by_hand: Neuron, learned: Neuron, vocabulary: Sequence[str]) -> str:
    """Draw the weights of the hand-made features, and the largest and smallest of the words."""
    order = np.argsort(-learned.weights, kind="stable")
    shown = [*order[:6], *order[-6:]]
    figure, panels = create_figure(3.4, columns=(1, 1))
    _plot_weights(panels[0], NAMES, by_hand.weights, "hand-made features")
    names = [vocabulary[int(index)] for index in shown]
    _plot_weights(panels[1], names, learned.weights[shown], "learned: words")
    return render_svg(figure)


def _plot_weights(axes: Axes, names: Sequence[str], weights: Values, title: str) -> None:
    rows = range(len(names))
    reach = max(float(np.abs(weights).max()), 1e-9)
    axes.barh(rows, weights, color=[BLUE if w > 0 else ORANGE for w in weights], height=0.6)
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set_yticks(rows, names)
    axes.set(xlim=(-1.6 * reach, 1.6 * reach), ylim=(len(names) - 0.4, -0.6), xticks=[])
    axes.set_title(title, fontsize=10)
    axes.grid(visible=False)
    for k, value in enumerate(weights.tolist()):
        axes.annotate(
            format_number(value),
            (value, k),
            xytext=(-4 if value < 0 else 4, 0),
            textcoords="offset points",
            ha="right" if value < 0 else "left",
            va="center",
            fontsize=8,
        )


if __name__ == "__main__":
    features.fn()
