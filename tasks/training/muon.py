"""Muon is an optimizer that orthogonalizes the momentum of a matrix of weights before each update."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# The coefficients a, b, c of the polynomial a x + b x³ + c x⁵, which is applied to the singular values x
# repeatedly. They are chosen for a steep slope at 0: three steps bring all but the smallest singular values
# close to 1, which works as well as exactly 1 (Jordan et al., "Muon", 2024,
# https://kellerjordan.github.io/posts/muon/).
NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NS_STEPS = 3

_foreach_add = torch._foreach_add  # noqa: SLF001 - underscore and all, it is in PyTorch's documentation


def zeropower_via_newtonschulz(matrices: Tensor) -> Tensor:
    """Compute approximately U Vᵀ for each matrix U S Vᵀ, `(B, M, N)`, by Newton-Schulz iteration.

    The iteration needs matrix products only, whereas a singular value decomposition is slow on a GPU.
    """
    a, b, c = NS_COEFFICIENTS
    # The Frobenius norm is at least the largest singular value, so all singular values are now at most 1, for
    # which the coefficients are chosen.
    norms = torch.linalg.matrix_norm(matrices, keepdim=True)
    x: Tensor = matrices / (norms + 1e-7)
    if x.device.type == "cuda":
        x = x.bfloat16()  # precise enough for a direction, and it runs on the tensor cores
    # Of X Xᵀ and Xᵀ X, the product with fewer rows is cheaper.
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    for _ in range(NS_STEPS):
        # With G = X Xᵀ, the next X is a X + (b G + c G²) X: the polynomial of the singular values.
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)


class MuonWithAuxSGD(Optimizer):
    """The optimizer is Muon for filters of convolutions, and SGD for all else, with Nesterov momentum.

    Plain gradient descent mostly moves along the few directions in which gradients are large. An orthogonal
    update moves equally along all directions, so that a filter bank learns in fewer steps (Jordan et al.
    2024; Bernstein and Newhouse, "Old Optimizer, New Norm", 2024, https://arxiv.org/abs/2409.20325). Filters
    that are followed by batch normalization have no scale of their own: before each step they are rescaled to
    an average norm of 1 per filter, so that only the learning rate determines how far a step rotates them,
    and they need no weight decay (`airbench94_muon.py` of https://github.com/KellerJordan/cifar10-airbench).

    A group has `params`, `lr`, `momentum` and `weight_decay` as in PyTorch's SGD, and `use_muon` for a group
    of filters `(O, I, H, W)`. Filters of equal shape are orthogonalized in one batch.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        orthogonalize: Callable[[Tensor], Tensor] = zeropower_via_newtonschulz,
    ) -> None:
        super().__init__(groups, {"weight_decay": 0.0, "use_muon": False})
        self._orthogonalize = orthogonalize

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            # Weight decay is added to the gradients, as in PyTorch's SGD. The foreach functions take a few
            # kernels for all tensors instead of one per tensor.
            if group["weight_decay"]:
                gradients = list(_foreach_add(gradients, parameters, alpha=group["weight_decay"]))
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            momentum_buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
            # Nesterov momentum: the update looks one step ahead of the buffer.
            torch._foreach_mul_(momentum_buffers, group["momentum"])
            torch._foreach_add_(momentum_buffers, gradients)
            updates = list(_foreach_add(gradients, momentum_buffers, alpha=group["momentum"]))
            if group["use_muon"]:
                # The average norm of a filter becomes 1 (see the class's docstring).
                for parameter in parameters:
                    parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
                updates = self._orthogonalize_batched(updates)
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _orthogonalize_batched(self, updates: list[Tensor]) -> list[Tensor]:
        # A filter bank is a matrix with a row per filter. The order of its columns does not matter to the
        # result, so channels come last, as in memory, which needs no copy.
        channels_last = [update.permute(0, 2, 3, 1) for update in updates]
        orthogonal = list(updates)
        # Matrices of equal shape go through the iteration together: few large products are faster on a GPU.
        for shape in sorted({update.shape for update in channels_last}):
            indices = [i for i, update in enumerate(channels_last) if update.shape == shape]
            matrices = torch.stack([channels_last[i].flatten(1) for i in indices])
            for i, matrix in zip(indices, self._orthogonalize(matrices), strict=True):
                orthogonal[i] = matrix.view(shape).permute(0, 3, 1, 2)
        return orthogonal
