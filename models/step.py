"""One training step, as in the talk's code demo and the toy `training_cycle`."""

from collections.abc import Callable

from torch import Tensor
from torch.optim import Optimizer


def training_step(
    model: Callable[[Tensor], Tensor],
    loss_function: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
) -> tuple[Tensor, Tensor]:
    """Forward pass, loss, backward pass, parameter update.

    Returns the predictions and the mean loss of the batch, both from before the update, detached.
    """
    optimizer.zero_grad()
    predictions = model(inputs)
    loss = loss_function(predictions, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return predictions.detach(), loss.detach()
