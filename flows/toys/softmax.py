"""Softmax and cross-entropy: ten sums become ten probabilities, and one number says how wrong they are.

The talk shows the binary cross-entropy of one neuron; a classifier of ten classes has ten. Softmax makes
probabilities of their sums, `ŷ_k = e^z_k / Σ e^z`, and the loss looks at the right class only: `J = -log
ŷ_y`. Its gradient is `∂J/∂z = ŷ - y`, where y is 1 for the right class and 0 for the others. PyTorch's
`cross_entropy` and autograd give the same.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from matplotlib import rc_context
from pydantic import Field
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from flows.run.tables import Table
from flows.toys.base import create_figure, format_number, present, toy_flow, toy_task
from tasks.reporting.svg import BLUE, INK, MUTED, ORANGE, STYLE, render_svg

Logit = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Logits = Annotated[Sequence[Logit], Field(min_length=2, max_length=10)]
Label = Annotated[int, Field(ge=0, le=9)]
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@toy_task
def exponentiate(logits: Sequence[float]) -> list[float]:
    """Compute `e^(z - max z)` of finite z; taking off the maximum keeps powers from overflowing."""
    if not all(map(math.isfinite, logits)):
        raise ValueError(f"the sums z should be finite numbers, not {list(logits)}")
    largest = max(logits)
    return [math.exp(z - largest) for z in logits]


@toy_task
def normalize(powers: Sequence[float]) -> list[float]:
    """Divide by the sum, so that the probabilities add up to 1."""
    total = sum(powers)
    return [power / total for power in powers]


@toy_task
def cross_entropy(logits: Sequence[float], label: int) -> float:
    """Compute `-log ŷ_y = log Σ e^z - z_y`, which is finite even if ŷ_y is too small for a number."""
    if not 0 <= label < len(logits):
        raise ValueError(f"there is no class {label}, only 0 to {len(logits) - 1}")
    largest = max(logits)
    return largest + math.log(sum(math.exp(z - largest) for z in logits)) - logits[label]


@toy_task
def gradient(probabilities: Sequence[float], label: int) -> list[float]:
    """Compute `∂J/∂z = ŷ - y`."""
    return [share - (k == label) for k, share in enumerate(probabilities)]


@toy_task
def loss_and_gradient_by_pytorch(logits: Sequence[float], label: int) -> tuple[float, list[float]]:
    """Compute J and ∂J/∂z by `cross_entropy` and autograd, in float64."""
    z = torch.tensor([list(logits)], dtype=torch.float64, requires_grad=True)
    loss = F.cross_entropy(z, torch.tensor([label]))
    (grad,) = torch.autograd.grad(loss, z)
    return loss.item(), grad[0].tolist()


@toy_flow
def softmax(
    logits: Logits = (-1.2, -0.4, 0.8, 2.6, 0.3, 2.1, 1.1, -0.5, -2.0, -1.4), label: Label = 5
) -> float:
    """Turn sums into probabilities, and compute the loss and its gradient.

    Args:
        logits: z, the sum of each class's neuron
        label: y, the number of the right class, from 0
    """
    loss = cross_entropy(logits, label)
    powers = exponentiate(logits)
    probabilities = normalize(powers)
    slopes = gradient(probabilities, label)
    torch_loss, torch_slopes = loss_and_gradient_by_pytorch(logits, label)

    names = CLASSES[: len(logits)]
    table = Table(
        ["class", "z", "e^(z - max)", "ŷ", "y", "∂J/∂z = ŷ - y"],
        [
            (name, z, power, share, float(k == label), slope)
            for k, (name, z, power, share, slope) in enumerate(
                zip(names, logits, powers, probabilities, slopes, strict=True)
            )
        ],
    )
    best = max(range(len(logits)), key=lambda k: probabilities[k])
    verdict = "right" if best == label else f"wrong: it is {names[label]}"
    difference = max(abs(loss - torch_loss), *(abs(a - b) for a, b in zip(slopes, torch_slopes, strict=True)))
    takeaways = [
        f"ŷ is largest for {names[best]}, {probabilities[best]:.1%}: {verdict}.",
        (
            f"J = -log {probabilities[label]:.4g} = {loss:.4g}; "
            f"guessing would cost log {len(logits)} = {math.log(len(logits)):.3g}."
        ),
        f"A step downhill raises z of {names[label]} and lowers the others, most of all the likely ones.",
        f"PyTorch's loss and gradient differ by {difference:.1g} at most.",
    ]
    present("softmax", [table], takeaways, plot(names, logits, probabilities, slopes, label))
    return loss


@rc_context(STYLE)
def plot(
    names: Sequence[str],
    logits: Sequence[float],
    probabilities: Sequence[float],
    slopes: Sequence[float],
    label: int,
) -> str:
    """Draw z, ŷ and the gradient of each class side by side; the right class is orange."""
    figure, panels = create_figure(0.9 + 0.25 * len(names), columns=(1, 1, 1))
    rows = range(len(names))
    colors = [ORANGE if k == label else BLUE for k in rows]
    for panel, values, title in (
        (panels[0], logits, "z, the sums"),
        (panels[1], probabilities, "ŷ, the probabilities"),
        (panels[2], slopes, "∂J/∂z = ŷ − y"),
    ):
        panel.barh(rows, values, color=colors, height=0.62)
        panel.axvline(0, color=MUTED, linewidth=1)
        reach = max(*map(abs, values), 1e-9)
        panel.set(ylim=(len(names) - 0.4, -0.6), yticks=[], xticks=[], title=title)
        panel.set_xlim(-1.9 * reach if min(values) < 0 else 0, 1.9 * reach)
        panel.title.set_size(10)
        panel.grid(visible=False)
        for k, value in enumerate(values):
            panel.annotate(
                format_number(value),
                (value, k),
                xytext=(-4 if value < 0 else 4, 0),
                textcoords="offset points",
                ha="right" if value < 0 else "left",
                va="center",
                fontsize=8,
                color=INK,
            )
    panels[0].set_yticks(rows, names)
    return render_svg(figure)


if __name__ == "__main__":
    softmax.fn()
