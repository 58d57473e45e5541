"""`build_optimizer` and `build_lr_scheduler` build what `train.optimizer` and `train.lr_schedule` name.

Muon is an optimizer that orthogonalizes the momentum of a matrix of weights before each update.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tasks.training.network import find_early_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn

    from tasks.params.train import TrainConfig

SGD_MOMENTUM = 0.85  # for the head and the biases, which SGD trains beside Muon, as in airbench

# The coefficients a, b, c of the polynomial a x + b x³ + c x⁵, which is applied to the singular values x
# repeatedly. They are chosen for a steep slope at 0: three steps bring all but the smallest singular values
# close to 1, which works as well as exactly 1 (Jordan et al., "Muon", 2024,
# https://kellerjordan.github.io/posts/muon/).
NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NS_STEPS = 3

_foreach_add = torch._foreach_add  # noqa: SLF001 - underscore and all, it is in PyTorch's documentation


def build_optimizer(model: nn.Module, config: TrainConfig, *, compiled: bool) -> torch.optim.Optimizer:
    """Build the optimizer; with `compiled`, Muon's Newton-Schulz iteration goes through `torch.compile`."""
    kwargs: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    match config.optimizer:
        case "adam":
            return torch.optim.Adam(model.parameters(), **kwargs)
        case "adamw":
            return torch.optim.AdamW(model.parameters(), **kwargs)
        case "sgd":
            return torch.optim.SGD(model.parameters(), momentum=config.momentum, nesterov=True, **kwargs)
        case "muon":
            return _build_muon(model, config, compiled=compiled)


def _build_muon(model: nn.Module, config: TrainConfig, *, compiled: bool) -> MuonWithAuxSGD:
    """Build Muon for filters, and SGD for matrices such as the head (`head_lr`) and all else (`bias_lr`).

    airbench sums the gradients of biases and head over the batch, so that a larger batch takes larger steps.
    The loss here is the mean, so the learning rate is multiplied by the batch size. `weight_decay` is the
    share that a weight loses per step, so it is divided by the learning rate, with which SGD multiplies it.
    """
    early = find_early_parameters(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Early parameters have a group of their own, since their learning rate ends with their epochs.
    lasting = [parameter for parameter in trainable if parameter not in early]
    filters = [parameter for parameter in lasting if parameter.ndim == 4]
    matrices = [parameter for parameter in lasting if parameter.ndim == 2]
    others = [parameter for parameter in lasting if parameter.ndim not in {2, 4}]
    groups: list[dict[str, Any]] = [
        {"params": filters, "lr": config.lr, "momentum": config.momentum, "use_muon": True}
    ]
    for parameters, base_lr, mark in (
        (matrices, config.head_lr, {}),
        (others, config.bias_lr, {}),
        ([parameter for parameter in trainable if parameter in early], config.bias_lr, {"early": True}),
    ):
        if parameters:
            lr = base_lr * config.batch_size
            weight_decay = config.weight_decay / lr
            group = {"params": parameters, "lr": lr, "momentum": SGD_MOMENTUM, "weight_decay": weight_decay}
            groups.append(group | mark)
    return MuonWithAuxSGD(
        groups,
        torch.compile(zeropower_via_newtonschulz, dynamic=False) if compiled else zeropower_via_newtonschulz,
    )


def build_lr_scheduler(optimizer: Optimizer, config: TrainConfig, steps_per_epoch: int) -> LambdaLR:
    """Build the scheduler; parameter groups with `early` set have a schedule of their own."""
    return LambdaLR(
        optimizer,
        [
            early_lr_lambda(config, steps_per_epoch)
            if group.get("early")
            else lr_lambda(config, steps_per_epoch)
            for group in optimizer.param_groups
        ],
    )


def lr_lambda(config: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Return a function from the step, counted from 0, to the factor by which `lr` is multiplied.

    A linear warm-up comes first, then `lr_schedule`: `cosine` falls along half a cosine (Loshchilov and
    Hutter, "SGDR", 2017, without restarts), `linear` along a straight line. Both would reach 0 one step after
    the last.
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    decay_steps = max(config.epochs * steps_per_epoch - warmup_steps, 1)

    def compute_factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if config.lr_schedule == "constant":
            return 1.0
        progress = min((step - warmup_steps) / decay_steps, 1.0)
        return 1 - progress if config.lr_schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))

    return compute_factor


def early_lr_lambda(config: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the same for parameters of the first epochs: the factor decays to 0 before they are frozen."""
    steps = config.whiten_bias_epochs * steps_per_epoch
    return lambda step: 1 - step / steps if step < steps else 0.0


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
