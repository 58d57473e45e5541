"""12. The training step, in PyTorch: forward pass, loss, backward pass, update.

Three calls are yours to order. `optimizer.zero_grad()` forgets the gradients of the step before,
`loss.backward()` computes ∇J by backpropagation, and `optimizer.step()` computes θ ← θ - α·∇J. Once your step
is right, `cifarflow learn training_step` trains the pipeline's network with it.
"""

from torch import Tensor


def training_step(model, loss_function, optimizer, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Take one step. Return the predictions ŷ and the loss J, both from before the update.

    `model(inputs)` gives ŷ, and `loss_function(predictions, targets)` gives J. Return `.detach()` of both:
    these are the numbers without the graph that led to them.
    """
    raise NotImplementedError  # Write your answer in place of this line.
