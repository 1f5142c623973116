"""Pooling that keeps a byte per output (maximum) or nothing but sizes (average)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Pair = tuple[int, int]

#: Values of an input whose windows are searched at once.
CHUNK = 1 << 17


def max_pool2d(x: Tensor, kernel: Pair, stride: Pair, padding: Pair = (0, 0), dilation: Pair = (1, 1), ceil_mode: bool = False) -> Tensor:
    """The largest value of each window; keeps which one it was: a byte per output for windows of up to 256 values, else two."""
    return _MaxPool2d.apply(x, tuple(kernel), tuple(stride), tuple(padding), tuple(dilation), ceil_mode)


def avg_pool2d(x: Tensor, kernel: Pair, stride: Pair, padding: Pair = (0, 0), ceil_mode: bool = False, count_include_pad: bool = True) -> Tensor:
    """The mean of each window; keeps nothing. (torch's keeps its input.)"""
    return _AvgPool2d.apply(x, tuple(kernel), tuple(stride), tuple(padding), ceil_mode, count_include_pad)


def adaptive_avg_pool2d(x: Tensor, size: Pair) -> Tensor:
    """Means over `size` windows; keeps nothing."""
    if tuple(size) == (1, 1):
        return x.mean((2, 3), keepdim=True)
    return _AdaptiveAvgPool2d.apply(x, tuple(size))


class _MaxPool2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool) -> Tensor:
        outputs, kept = [], []
        window = (kernel, stride, padding, dilation)
        # torch's indices are 8 bytes a value: those of a few samples at a time
        for sample in x.split(max(1, CHUNK // max(1, x[0].numel()))):
            y, where = F.max_pool2d(sample, *window, ceil_mode, return_indices=True)
            outputs.append(y)
            kept.append(_to_taps(where, x.shape[3], *window))
        ctx.save_for_backward(torch.cat(kept))
        ctx.shape, ctx.window, ctx.ceil_mode = x.shape, window, ceil_mode
        return torch.cat(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        (taps,) = ctx.saved_tensors
        dx = dy.new_zeros(ctx.shape)
        step = max(1, CHUNK // max(1, dx[0].numel()))
        for some, tap, dy_some in zip(dx.split(step), taps.split(step), dy.split(step), strict=True):
            some.flatten(2).scatter_add_(2, _to_positions(tap, ctx.shape[3], *ctx.window).flatten(2), dy_some.flatten(2))
        return dx, None, None, None, None, None


def _corners(where: Tensor, stride: Pair, padding: Pair) -> tuple[Tensor, Tensor]:
    """Row and column of each window's first value in the input, which may lie in the padding."""
    rows = torch.arange(where.shape[-2])[:, None] * stride[0] - padding[0]
    return rows, torch.arange(where.shape[-1]) * stride[1] - padding[1]


def _to_taps(where: Tensor, width: int, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """The number of the value within its window, from its position in the input's plane."""
    top, left = _corners(where, stride, padding)
    u = (where.div(width, rounding_mode="floor") - top).div_(dilation[0], rounding_mode="floor")
    v = (where % width - left).div_(dilation[1], rounding_mode="floor")
    return (u * kernel[1] + v).to(torch.uint8 if kernel[0] * kernel[1] <= 256 else torch.int16)


def _to_positions(taps: Tensor, width: int, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """The reverse of `_to_taps`."""
    top, left = _corners(taps, stride, padding)
    taps = taps.to(torch.int64)
    u = taps.div(kernel[1], rounding_mode="floor")
    return (u * dilation[0] + top) * width + (taps % kernel[1]) * dilation[1] + left


class _AvgPool2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Pair, stride: Pair, padding: Pair, ceil_mode: bool, include: bool) -> Tensor:
        ctx.shape, ctx.window = x.shape, (kernel, stride, padding, ceil_mode, include, None)
        return F.avg_pool2d(x, kernel, stride, padding, ceil_mode, include)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        dx = torch.ops.aten.avg_pool2d_backward(dy, _only_sizes(dy, ctx.shape), *ctx.window)
        return dx, None, None, None, None, None


class _AdaptiveAvgPool2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: Pair) -> Tensor:
        ctx.shape = x.shape
        return F.adaptive_avg_pool2d(x, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        return torch.ops.aten._adaptive_avg_pool2d_backward(dy, _only_sizes(dy, ctx.shape)), None


def _only_sizes(like: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of this shape that has one value of memory: torch's backward kernels read nothing but its sizes."""
    return like.new_empty(1).expand(*shape)
