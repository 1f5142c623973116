"""Layers whose backward pass needs little: what is kept is up to a compressor, and weights learn the moment their gradient exists.

`sink(grad_weight, grad_bias)` is called in backward, after the input gradient was computed with the weights as they were: it may update
them in place, so no gradient outlives its layer. Without a sink, gradients go to autograd as usual. `anchor` is any tensor that requires
a gradient: it makes backward run where the input needs none. Input gradients are exact always. First derivatives only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sdk.training.nn.activations import gelu, hardsigmoid, hardswish, relu, relu6, scale_shift, silu, softmax
from sdk.training.nn.attention import scaled_dot_product_attention
from sdk.training.nn.compressors import Exact
from sdk.training.nn.conv_grad import Geometry, conv_bias_grad, conv_input_grad, conv_weight_grad, convolution
from sdk.training.nn.factors import Held
from sdk.training.nn.linear_grad import linear_bias_grad, linear_input_grad, linear_weight_grad
from sdk.training.nn.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from sdk.training.nn.saved import Compressor
from sdk.training.nn.subspace import AdapterConv2d, AdapterLinear, learn

__all__ = [
    "Geometry", "Sink", "adapter_conv2d", "adapter_linear", "adaptive_avg_pool2d", "avg_pool2d", "conv2d", "frozen_conv2d", "frozen_linear", "gelu",
    "hardsigmoid", "hardswish", "linear", "max_pool2d", "relu", "relu6", "scale_shift", "scaled_dot_product_attention", "silu", "softmax",
]  # fmt: skip

Sink = Callable[[Tensor | None, Tensor | None], None]


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, compressor: Compressor, sink: Sink | None = None, anchor: Tensor | None = None
) -> Tensor:
    """y [B, O, H', W'] of x [B, C, H, W], weight [O, C / groups, kh, kw] and bias [O]; keeps what the compressor keeps."""
    return _Conv2d.apply(x, weight, bias, anchor, geometry, compressor, sink)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, compressor: Compressor, sink: Sink | None = None, anchor: Tensor | None = None) -> Tensor:
    """y [B, .., O] of x [B, .., I] (two to four dimensions), weight [O, I] and bias [O]; keeps what the compressor keeps."""
    return _Linear.apply(x, weight, bias, anchor, compressor, sink)


def frozen_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, sink: Sink | None = None, anchor: Tensor | None = None) -> Tensor:
    """A convolution whose weight does not learn: nothing of x is kept. With a sink its bias learns: sink(None, grad_bias)."""
    return _FrozenConv2d.apply(x, weight, bias, anchor, geometry, sink)


def frozen_linear(x: Tensor, weight: Tensor, bias: Tensor | None, sink: Sink | None = None, anchor: Tensor | None = None) -> Tensor:
    """A linear layer whose weight does not learn: nothing of x is kept. With a sink its bias learns: sink(None, grad_bias)."""
    return _FrozenLinear.apply(x, weight, bias, anchor, sink)


def adapter_conv2d(
    x: Tensor, weight0: Tensor, bias: Tensor | None, p: Tensor, basis: Held, geometry: Geometry,
    sink: Sink | None = None, anchor: Tensor | None = None, compressor: Compressor | None = None,
) -> Tensor:  # fmt: skip
    """A convolution without groups by W0 + P U^T of which P learns: sink(grad_p, grad_bias). Keeps U^T x, or what the compressor keeps of it.

    weight0: [O, C, kh, kw], p: [O, K, kh, kw], basis U: [C, K].
    """
    if geometry.groups != 1:
        raise ValueError(f"a subspace adapter serves convolutions without groups and this one has {geometry.groups}; train its weight itself")
    return AdapterConv2d.apply(x, weight0, bias, p, anchor, basis, geometry, compressor or Exact(), sink)


def adapter_linear(
    x: Tensor, weight0: Tensor, bias: Tensor | None, p: Tensor, basis: Held,
    sink: Sink | None = None, anchor: Tensor | None = None, compressor: Compressor | None = None,
) -> Tensor:  # fmt: skip
    """A linear layer by W0 + P U^T of which P learns: sink(grad_p, grad_bias). Keeps x U. weight0: [O, I], p: [O, K], basis U: [I, K]."""
    return AdapterLinear.apply(x, weight0, bias, p, anchor, basis, compressor or Exact(), sink)


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, anchor: Tensor | None, geometry: Geometry, compressor: Compressor, sink: Any
    ) -> Tensor:
        saved = compressor.compress(x)  # before y exists, so that what it needs meanwhile does not add to y
        ctx.save_for_backward(weight, *saved.tensors)
        ctx.saved, ctx.geometry, ctx.sink, ctx.has_bias = saved.without_tensors(), geometry, sink, bias is not None
        return convolution(x, weight, bias, geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        weight, *tensors = ctx.saved_tensors
        geometry = ctx.geometry
        grad_weight = conv_weight_grad(ctx.saved.with_tensors(tensors), dy, geometry, tuple(weight.shape[2:]))
        grad_bias = conv_bias_grad(dy) if ctx.has_bias else None
        dx = conv_input_grad(dy, weight, ctx.saved.shape, geometry) if ctx.needs_input_grad[0] else None
        return dx, *learn(ctx.sink, grad_weight, grad_bias), None, None, None, None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, anchor: Tensor | None, compressor: Compressor, sink: Any) -> Tensor:
        saved = compressor.compress(x)
        ctx.save_for_backward(weight, *saved.tensors)
        ctx.saved, ctx.sink, ctx.has_bias = saved.without_tensors(), sink, bias is not None
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        weight, *tensors = ctx.saved_tensors
        grad_weight = linear_weight_grad(ctx.saved.with_tensors(tensors), dy)
        grad_bias = linear_bias_grad(dy) if ctx.has_bias else None
        dx = linear_input_grad(dy, weight) if ctx.needs_input_grad[0] else None
        return dx, *learn(ctx.sink, grad_weight, grad_bias), None, None, None


class _FrozenConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, anchor: Tensor | None, geometry: Geometry, sink: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.geometry, ctx.sink = x.shape, geometry, sink
        return convolution(x, weight, bias, geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        grad_bias = conv_bias_grad(dy) if ctx.sink or ctx.needs_input_grad[2] else None
        dx = conv_input_grad(dy, ctx.saved_tensors[0], ctx.shape, ctx.geometry) if ctx.needs_input_grad[0] else None
        return dx, *learn(ctx.sink, None, grad_bias), None, None, None


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, anchor: Tensor | None, sink: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.sink = sink
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        grad_bias = linear_bias_grad(dy) if ctx.sink or ctx.needs_input_grad[2] else None
        dx = linear_input_grad(dy, ctx.saved_tensors[0]) if ctx.needs_input_grad[0] else None
        return dx, *learn(ctx.sink, None, grad_bias), None, None
