"""Subspace adapters: a weight W0 + P U^T of which only P learns. U is a fixed basis of the input's channels, so only U^T x is kept.

Gradient descent on P walks the path that descent on W walks when the input is kept in the span of U (and there is no weight decay).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sdk.training.nn.conv_grad import Geometry, conv_bias_grad, conv_input_grad, conv_weight_grad, convolution
from sdk.training.nn.factors import Held
from sdk.training.nn.linear_grad import linear_bias_grad, linear_input_grad, linear_weight_grad
from sdk.training.nn.modes import mode_product
from sdk.training.nn.saved import Compressor


def merged(weight0: Tensor, p: Tensor, basis: Tensor) -> Tensor:
    """W0 + P U^T. weight0: [O, I, ..], p: [O, K, ..], basis: [I, K]."""
    if p.dim() == 2:
        return torch.addmm(weight0, p, basis.t())
    return weight0 + torch.einsum("okuv,ck->ocuv", p, basis)


class AdapterConv2d(torch.autograd.Function):
    """A convolution without groups with weight W0 + P U^T; see `functions.adapter_conv2d`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight0: Tensor, bias: Tensor | None, p: Tensor, anchor: Tensor | None,
        held: Held, geometry: Geometry, compressor: Compressor, sink: Any,
    ) -> Tensor:  # fmt: skip
        """y [B, O, H', W']."""
        basis = held.tensor(x.dtype)
        saved = compressor.compress(mode_product(x, basis, 1))
        ctx.save_for_backward(weight0, p, *saved.tensors)
        ctx.saved, ctx.held, ctx.geometry, ctx.sink, ctx.shape = saved.without_tensors(), held, geometry, sink, x.shape
        ctx.has_bias = bias is not None
        return convolution(x, merged(weight0, p, basis), bias, geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        """dx, and the gradients of P and the bias to the sink."""
        weight0, p, *tensors = ctx.saved_tensors
        grad_p = conv_weight_grad(ctx.saved.with_tensors(tensors), dy, ctx.geometry, tuple(p.shape[2:]))
        grad_bias = conv_bias_grad(dy) if ctx.has_bias else None
        dx = conv_input_grad(dy, merged(weight0, p, ctx.held.tensor(p.dtype)), ctx.shape, ctx.geometry) if ctx.needs_input_grad[0] else None
        for_p, for_bias = learn(ctx.sink, grad_p, grad_bias)
        return dx, None, for_bias, for_p, None, None, None, None, None


class AdapterLinear(torch.autograd.Function):
    """A linear layer with weight W0 + P U^T; see `functions.adapter_linear`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight0: Tensor, bias: Tensor | None, p: Tensor, anchor: Tensor | None,
        held: Held, compressor: Compressor, sink: Any,
    ) -> Tensor:  # fmt: skip
        """y [B, .., O]."""
        basis = held.tensor(x.dtype)
        saved = compressor.compress(x @ basis)
        ctx.save_for_backward(weight0, p, *saved.tensors)
        ctx.saved, ctx.held, ctx.sink, ctx.has_bias = saved.without_tensors(), held, sink, bias is not None
        return F.linear(x, merged(weight0, p, basis), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        """dx, and the gradients of P and the bias to the sink."""
        weight0, p, *tensors = ctx.saved_tensors
        grad_p = linear_weight_grad(ctx.saved.with_tensors(tensors), dy)
        grad_bias = linear_bias_grad(dy) if ctx.has_bias else None
        dx = linear_input_grad(dy, merged(weight0, p, ctx.held.tensor(p.dtype))) if ctx.needs_input_grad[0] else None
        for_p, for_bias = learn(ctx.sink, grad_p, grad_bias)
        return dx, None, for_bias, for_p, None, None, None, None


def learn(sink: Any, grad_weight: Tensor | None, grad_bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Hand the gradients to the sink; without one, back to autograd."""
    if sink is None:
        return grad_weight, grad_bias
    sink(grad_weight, grad_bias)
    return None, None
