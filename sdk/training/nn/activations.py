"""Activations that keep one bit a value for backward (hard-swish: two bytes), and others that keep the least that is exact.

With inplace=True the result takes the place of x: for a caller who knows that x is read by nobody else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sdk.training.nn import masks
from sdk.training.nn.modes import channels_last, dense

#: Bits kept for backward per value.
KEPT_BITS = {"relu": 1, "relu6": 1, "hardsigmoid": 1, "hardswish": 16, "gelu": 16, "silu": 16, "softmax": 32}
#: Slopes between -1.5 and 1.5 in 16 bits: at most 2.3e-5 beside the true slope, less than a float32 convolution's own rounding.
_SLOPE_MAX = 1.5
_SLOPE_STEPS = 32767.0


def relu(x: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0); keeps one bit a value."""
    return _Masked.apply(x, _positive, _relu, 1.0, inplace)


def relu6(x: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6); keeps one bit a value."""
    return _Masked.apply(x, _inside_six, _relu6, 1.0, inplace)


def hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x + 3, 0), 6) / 6; keeps one bit a value."""
    return _Masked.apply(x, _inside_three, _hardsigmoid, 1.0 / 6.0, inplace)


def hardswish(x: Tensor, inplace: bool = False, precise: bool = False) -> Tensor:
    """x hardsigmoid(x). Its slope takes all values in [-0.5, 1.5], so a bit cannot do: it is kept in 16 bits (precise: x is kept, 32 bits)."""
    return _Sloped.apply(x, _hardswish_slope, _hardswish, inplace) if not precise else F.hardswish(x)


def gelu(x: Tensor, approximate: str = "none", precise: bool = False) -> Tensor:
    """x times the normal distribution at x; its slope, in [-0.13, 1.13], is kept in 16 bits (precise: x is kept, 32 bits)."""
    if precise:
        return F.gelu(x, approximate=approximate)
    return _Sloped.apply(x, *_GELU[approximate], False)


def silu(x: Tensor, precise: bool = False) -> Tensor:
    """x sigmoid(x); its slope, in [-0.1, 1.1], is kept in 16 bits (precise: x is kept, 32 bits)."""
    return F.silu(x) if precise else _Sloped.apply(x, _silu_slope, _silu, False)


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x scale + shift for every channel, a batch norm that does not learn; keeps the scale. x: [B, C, ..], scale and shift: [C]."""
    return _ScaleShift.apply(x, scale, shift)


def softmax(x: Tensor, dim: int) -> Tensor:
    """exp(x) over its sum along `dim`; keeps its result, which the next layer often keeps too."""
    return torch.softmax(x, dim)


class _Masked(torch.autograd.Function):
    """An activation whose slope is `scale` where `passes(x)` holds and 0 elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, passes: Callable[[np.ndarray], np.ndarray], act: Callable[[Tensor, bool], Tensor], scale: float, inplace: bool) -> Tensor:
        laid = _laid(x)
        ctx.save_for_backward(masks.pack(laid, passes))
        ctx.scale, ctx.last = scale, channels_last(laid)
        if inplace:
            ctx.mark_dirty(x)
        return act(x, inplace)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        (bits,) = ctx.saved_tensors
        return masks.masked(masks.in_order_of(dy, ctx.last), bits, ctx.scale), None, None, None, None


class _Sloped(torch.autograd.Function):
    """An activation of which the slope is kept in 16 bits; `slope(x)` is computed a piece at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Callable[[Tensor], Tensor], act: Callable[[Tensor, bool], Tensor], inplace: bool) -> Tensor:
        laid = _laid(x)
        values = masks.flat(laid)
        kept = torch.empty(values.numel(), dtype=torch.int16)
        for piece in masks.pieces(values):
            kept[piece] = slope(values[piece]).mul_(_SLOPE_STEPS / _SLOPE_MAX).round_().to(torch.int16)
        ctx.save_for_backward(kept)
        ctx.last = channels_last(laid)
        if inplace:
            ctx.mark_dirty(x)
        return act(x, inplace)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        (kept,) = ctx.saved_tensors
        dy = masks.in_order_of(dy, ctx.last)
        dx = torch.empty_like(dy)
        source, target = masks.flat(dy), masks.flat(dx)
        for piece in masks.pieces(source):
            torch.mul(source[piece], kept[piece].to(dy.dtype).mul_(_SLOPE_MAX / _SLOPE_STEPS), out=target[piece])
        return dx, None, None, None


class _ScaleShift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        across = (-1, *[1] * (x.dim() - 2))
        ctx.save_for_backward(scale)
        return (x * scale.view(across)).add_(shift.view(across))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        (scale,) = ctx.saved_tensors
        return dy * scale.view(-1, *[1] * (dy.dim() - 2)), None, None


def _hardswish_slope(x: Tensor) -> Tensor:
    return torch.ops.aten.hardswish_backward(torch.ones_like(x), x)


def _gelu_slope(x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward(torch.ones_like(x), x)


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward(torch.ones_like(x), x, approximate="tanh")


def _silu_slope(x: Tensor) -> Tensor:
    return torch.ops.aten.silu_backward(torch.ones_like(x), x)


def _laid(x: Tensor) -> Tensor:
    """x in one of the two memory orders that masks know: itself nearly always."""
    return x if x.is_contiguous() or channels_last(x) else dense(x).contiguous()


def _positive(x: np.ndarray) -> np.ndarray:
    return x > 0


def _inside_six(x: np.ndarray) -> np.ndarray:
    return (x > 0) & (x < 6)


def _inside_three(x: np.ndarray) -> np.ndarray:
    return (x > -3) & (x < 3)


def _relu(x: Tensor, inplace: bool) -> Tensor:
    return x.relu_() if inplace else x.relu()


def _relu6(x: Tensor, inplace: bool) -> Tensor:
    return F.relu6(x, inplace)


def _hardsigmoid(x: Tensor, inplace: bool) -> Tensor:
    return F.hardsigmoid(x, inplace)


def _hardswish(x: Tensor, inplace: bool) -> Tensor:
    return F.hardswish(x, inplace)


def _gelu(x: Tensor, inplace: bool) -> Tensor:
    return F.gelu(x)


def _gelu_tanh(x: Tensor, inplace: bool) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _silu(x: Tensor, inplace: bool) -> Tensor:
    return F.silu(x, inplace)


_GELU = {"none": (_gelu_slope, _gelu), "tanh": (_gelu_tanh_slope, _gelu_tanh)}
