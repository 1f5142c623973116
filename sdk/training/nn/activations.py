"""Activations that keep one bit a value for backward (hard-swish: two bytes), and others that keep the least that is exact.

With inplace=True the result takes the place of x: for a caller who knows that x is read by nobody else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sdk.training.nn import masks
from sdk.training.nn.factors import own
from sdk.training.nn.modes import channels_last, dense

#: Bits kept for backward per value.
KEPT_BITS = {"relu": 1, "relu6": 1, "hardsigmoid": 1, "hardswish": 16, "gelu": 32, "silu": 32, "sigmoid": 32, "tanh": 32, "softmax": 32}
#: 16-bit steps of hard-swish's slope, which lies in [-0.5, 1.5]: an error of at most 1.6e-5 of the gradient.
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
    """x hardsigmoid(x). Its slope x / 3 + 1/2 between -3 and 3 is kept in 16 bits, which is wrong by at most 1.6e-5 of the gradient.

    precise: keep x itself instead, 32 bits. One bit cannot do here: the slope takes all values in [-0.5, 1.5].
    """
    return _Hardswish.apply(x, inplace, precise)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution at x; keeps x. The slope needs all of x, and no output of it can be turned back."""
    return F.gelu(x, approximate=approximate)


def silu(x: Tensor) -> Tensor:
    """x times sigmoid(x); keeps x."""
    return F.silu(x)


def softmax(x: Tensor, dim: int) -> Tensor:
    """exp(x) over its sum along `dim`; keeps its result, which the next layer often keeps too."""
    return torch.softmax(x, dim)


class _Masked(torch.autograd.Function):
    """An activation whose slope is `scale` where `passes(x)` holds and 0 elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, passes: Callable[[Tensor], Tensor], act: Callable[[Tensor, bool], Tensor], scale: float, inplace: bool) -> Tensor:
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


class _Hardswish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, inplace: bool, precise: bool) -> Tensor:
        laid = _laid(x)
        kept = (laid.clone(memory_format=torch.preserve_format) if inplace else own(laid)) if precise else _slopes(laid)
        ctx.save_for_backward(kept)
        ctx.last, ctx.precise = channels_last(laid), precise
        if inplace:
            ctx.mark_dirty(x)
        return F.hardswish(x, inplace)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        (kept,) = ctx.saved_tensors
        dy = masks.in_order_of(dy, ctx.last)
        if ctx.precise:
            return torch.ops.aten.hardswish_backward(dy, kept), None, None
        dx = torch.empty_like(dy)
        source, target = masks.flat(dy), masks.flat(dx)
        for start in range(0, source.numel(), masks.CHUNK):
            piece = slice(start, start + masks.CHUNK)
            torch.mul(source[piece], kept[piece].to(dy.dtype).mul_(1.5 / _SLOPE_STEPS), out=target[piece])
        return dx, None, None


def _slopes(x: Tensor) -> Tensor:
    """int16 [N], in memory order: hard-swish's slope at x in steps of 1.5 / 32767."""
    values = masks.flat(x)
    slopes = torch.empty(values.numel(), dtype=torch.int16)
    for start in range(0, values.numel(), masks.CHUNK):
        piece = values[start : start + masks.CHUNK]
        slope = (piece / 3.0 + 0.5).masked_fill_(piece < -3.0, 0.0).masked_fill_(piece > 3.0, 1.0)
        slopes[start : start + masks.CHUNK] = slope.mul_(_SLOPE_STEPS / 1.5).round_().to(torch.int16)
    return slopes


def _laid(x: Tensor) -> Tensor:
    """x in one of the two memory orders that masks know: itself nearly always."""
    return x if x.is_contiguous() or channels_last(x) else dense(x).contiguous()


def _positive(x: Tensor) -> Tensor:
    return x > 0


def _inside_six(x: Tensor) -> Tensor:
    return (x > 0).logical_and_(x < 6)


def _inside_three(x: Tensor) -> Tensor:
    return (x > -3).logical_and_(x < 3)


def _relu(x: Tensor, inplace: bool) -> Tensor:
    return x.relu_() if inplace else x.relu()


def _relu6(x: Tensor, inplace: bool) -> Tensor:
    return F.relu6(x, inplace)


def _hardsigmoid(x: Tensor, inplace: bool) -> Tensor:
    return F.hardsigmoid(x, inplace)
