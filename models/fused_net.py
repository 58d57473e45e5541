"""`FusedNet` trains `Net` on a CPU with convolution, max pooling and ReLU in one operator."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class FusedNet(nn.Module):
    """A training step takes about half the time of `net`; outputs and gradients are equal up to rounding.

    The parameters are those of `net`. Images must be float32 and on a CPU. The library that is built from
    fused_net.cpp must have been loaded into PyTorch.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net: Any = net  # it is a `Net`, which imports this module

    def forward(self, x: Tensor) -> Tensor:
        for conv in (self.net.conv1, self.net.conv2):
            x = _ConvPoolReLU.apply(x, conv.weight, conv.bias)  # type: ignore[no-untyped-call]
        return self.net.classify(x)  # type: ignore[no-any-return]


class _ConvPoolReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        weight, bias = weight.contiguous(memory_format=torch.channels_last), bias.contiguous()
        height, width = ((side - 4) // 2 for side in x.shape[2:])
        size = (len(x), len(weight), height, width)
        out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        # Per output, the operator notes which of the four pooled values was the greatest, or that ReLU gave
        # 0: this is all that the backward pass has to know of the forward pass.
        argmax = torch.empty_like(out, dtype=torch.uint8)
        torch.ops.cifarflow.conv_pool_relu(x, weight, bias, out, argmax)
        ctx.save_for_backward(x, weight, argmax)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight, argmax = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        # Images need no gradient; an empty tensor tells the operator to skip it.
        x_gradient = torch.empty_like(x) if ctx.needs_input_grad[0] else x.new_empty(0)
        weight_gradient, bias_gradient = torch.empty_like(weight), weight.new_empty(len(weight))
        torch.ops.cifarflow.conv_pool_relu_backward(
            x, weight, gradient, argmax, x_gradient, weight_gradient, bias_gradient
        )
        return x_gradient if ctx.needs_input_grad[0] else None, weight_gradient, bias_gradient
