"""The last exercise: the training step, which trains the pipeline's network once it is right."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from models.step import training_step
from tasks.exercises.checking import AnswerError, Exercise

Step = Callable[..., Any]

BATCHES = (
    ([[1.0, 2.0], [0.5, -1.0], [-1.5, 0.25]], [[1.0], [-0.5], [2.0]]),
    ([[0.0, 1.0], [2.0, 1.5], [-0.75, 0.5]], [[0.5], [1.0], [-1.0]]),
)


def observe(step: Step, learning_rate: float) -> list[Any]:
    """Take two steps with a tiny network, and return the numbers that show what happened.

    Each step has its predictions, its loss, the parameters after it, and whether the results still hold their
    graph. Each update has the number of backward passes before it, and whether there were gradients.
    """
    network = nn.Linear(2, 1, dtype=torch.float64)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[0.5, -0.3]], dtype=torch.float64))
        network.bias.fill_(0.2)
    optimizer = SGD(network.parameters(), lr=learning_rate)
    num_backward = [0]

    def count(_parameter: Tensor) -> None:
        num_backward[0] += 1

    network.bias.register_post_accumulate_grad_hook(count)  # type: ignore[no-untyped-call]
    updates: list[list[float]] = []

    def record_update(*_: Any) -> None:
        updates.append([num_backward[0], float(network.bias.grad is not None)])

    optimizer.register_step_pre_hook(record_update)
    numbers: list[Any] = []
    for inputs, targets in BATCHES:
        results = step(
            network.__call__,  # a function, as in the trainer
            # It is not symmetric, so that exchanged arguments show.
            lambda predictions, targets: (predictions - 2 * targets).square().mean(),
            optimizer,
            torch.tensor(inputs, dtype=torch.float64),
            torch.tensor(targets, dtype=torch.float64),
        )
        if results is None:
            raise AnswerError(
                "It returns nothing: the last line is `return predictions.detach(), loss.detach()`."
            )
        if not isinstance(results, tuple | list) or len(results) != 2:
            raise AnswerError("It should return two values: the predictions and the loss.")
        if not all(isinstance(result, Tensor) for result in results):
            raise AnswerError("It should return tensors, not numbers: `.item()` or `float` is too much here.")
        values = [result.detach().reshape(-1).tolist() for result in results]
        parameters = [parameter.detach().reshape(-1).tolist() for parameter in network.parameters()]
        graphs = [float(result.requires_grad) for result in results]
        numbers.append([*values, *parameters, graphs])
    return [numbers, updates, num_backward[0]]


def _make_step(parts: str, *, detach: bool = True, exchange: bool = False) -> Step:
    """Build a training step of these parts, in this order."""

    def step(model: Any, loss_function: Any, optimizer: Any, inputs: Tensor, targets: Tensor) -> Any:
        predictions = loss = torch.zeros(())
        for part in parts.split():
            if part == "zero_grad":
                optimizer.zero_grad()
            elif part == "forward":
                predictions = model(inputs)
            elif part == "loss":
                loss = loss_function(predictions, targets)
            elif part == "exchanged_loss":
                loss = loss_function(targets, predictions)
            elif part == "uphill":
                (-loss).backward()  # type: ignore[no-untyped-call]
            elif part == "backward":
                loss.backward()  # type: ignore[no-untyped-call]
            else:
                optimizer.step()
        results = (predictions.detach(), loss.detach()) if detach else (predictions, loss)
        return results[::-1] if exchange else results

    return step


TRAINING_STEP = Exercise(
    training_step,
    cases=[(0.1,), (0.02,)],
    mistakes={
        "The gradients of the last step are still there and add up: call optimizer.zero_grad() first.": (
            _make_step("forward loss backward step")
        ),
        "zero_grad() erases the gradients that backward() has just computed: call it before backward().": (
            _make_step("forward loss backward zero_grad step")
        ),
        "Nothing is learned, since there are no gradients: loss.backward() is missing.": (
            _make_step("zero_grad forward loss step")
        ),
        "The gradients are there and nobody uses them: optimizer.step() is missing.": (
            _make_step("zero_grad forward loss backward")
        ),
        "step() comes before backward(), so each step uses no gradients: exchange the two.": (
            _make_step("zero_grad forward loss step backward")
        ),
        "step() comes before zero_grad() and backward(), so it uses the gradients of the last step.": (
            _make_step("forward loss step zero_grad backward")
        ),
        "The arguments of the loss are exchanged: loss_function(predictions, targets).": (
            _make_step("zero_grad forward exchanged_loss backward step")
        ),
        "The predictions are computed again after the update: return those from before.": (
            _make_step("zero_grad forward loss backward step forward")
        ),
        "Predictions and loss are computed again after the update: return those from before.": (
            _make_step("zero_grad forward loss backward step forward loss")
        ),
        "The results still hold the graph, and its memory: return predictions.detach(), loss.detach().": (
            _make_step("zero_grad forward loss backward step", detach=False)
        ),
        "The results are exchanged: return the predictions, then the loss.": (
            _make_step("zero_grad forward loss backward step", exchange=True)
        ),
        "step() is called twice, which moves the parameters twice as far.": (
            _make_step("zero_grad forward loss backward step step")
        ),
        "It climbs: call loss.backward(), without a minus sign.": (
            _make_step("zero_grad forward loss uphill step")
        ),
    },
    observe=observe,
)
