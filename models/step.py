"""`training_step` is written as in the talk's code demo and in the toy `training_cycle`."""

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
    """Run the forward pass, the loss, the backward pass and the update of the parameters.

    Returns the predictions and the batch's mean loss, both computed before the update and both detached.
    """
    optimizer.zero_grad()
    predictions = model(inputs)
    loss = loss_function(predictions, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return predictions.detach(), loss.detach()
