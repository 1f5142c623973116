"""Pooling over windows of an image [N, H, W, C]."""

from __future__ import annotations

import numpy as np

from sdk.graph import quantmath as qm
from sdk.graph.ops.base import Op, Shape, Use, float_activation, is_quantised, same_quant


def pool_shape(use: Use) -> Shape:
    """[N, OH, OW, C]."""
    x, kernel, stride, padding = use.input(0).shape, use.attr("kernel"), use.attr("stride"), use.attr("padding")
    if len(x) != 4:
        raise use.wrong(f"its input has shape {list(x)}; it must be [N, H, W, C]")
    if min(*kernel, *stride) < 1 or min(*padding[0], *padding[1]) < 0:
        raise use.wrong("kernel and stride must be at least 1, padding at least 0")
    if any(max(padding[i]) >= kernel[i] for i in (0, 1)):
        raise use.wrong(f"padding {padding} is not smaller than the kernel {kernel}, so a window could be empty")
    h, w = ((x[1 + i] + sum(padding[i]) - kernel[i]) // stride[i] + 1 for i in (0, 1))
    return (x[0], max(h, -1), max(w, -1), x[3])


def _taps(x: np.ndarray, use: Use, fill: float) -> list[np.ndarray]:
    """One view [N, OH, OW, C] per position in the window, the image padded with `fill`."""
    kernel, stride, padding = use.attr("kernel"), use.attr("stride"), use.attr("padding")
    x = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill) if any(map(any, padding)) else x
    oh, ow = ((x.shape[1 + i] - kernel[i]) // stride[i] + 1 for i in (0, 1))
    return [
        x[:, i : i + (oh - 1) * stride[0] + 1 : stride[0], j : j + (ow - 1) * stride[1] + 1 : stride[1]]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _max(x: np.ndarray, use: Use, lowest: float) -> np.ndarray:
    taps = _taps(x, use, lowest)
    best = taps[0].copy()
    for tap in taps[1:]:
        np.maximum(best, tap, out=best)
    return best


def max_pool_float(use: Use) -> np.ndarray:
    """Largest value of each window; padding never wins."""
    return float_activation(_max(use.value(0), use, -np.inf), use.node.attrs.get("activation", "none"))


def max_pool_int(use: Use) -> np.ndarray:
    """The same on quantised values, then the activation's clamp."""
    x, out = use.value(0), use.output()
    low, high = qm.output_range(use.node, out)
    return np.clip(_max(x, use, qm.RANGE[out.dtype][0]), low, high).astype(out.dtype)


def _counts(use: Use, x: np.ndarray) -> np.ndarray:
    """[1, OH, OW, 1]: how many values each window averages."""
    if use.node.attrs.get("count_include_pad", False):
        kernel = use.attr("kernel")
        return np.full((1, 1, 1, 1), kernel[0] * kernel[1], np.int64)
    return np.sum(_taps(np.ones((1, *x.shape[1:3], 1), np.int64), use, 0), axis=0)


def _sums(x: np.ndarray, use: Use) -> np.ndarray:
    taps = _taps(x, use, 0)
    total = taps[0].copy()
    for tap in taps[1:]:
        total += tap
    return total


def avg_pool_float(use: Use) -> np.ndarray:
    """Mean of each window over the values inside the image (or over the whole window with count_include_pad)."""
    x = use.value(0)
    mean = _sums(x, use) / _counts(use, x).astype(np.float32)
    return float_activation(mean, use.node.attrs.get("activation", "none"))


def divide_rounded(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Integer quotient rounded to nearest, halves away from zero; `count` positive."""
    quotient = (np.abs(total) + count // 2) // count
    return np.where(total < 0, -quotient, quotient)


def avg_pool_int(use: Use) -> np.ndarray:
    """Sum of the quantised values divided by their number, rounded away from zero; padding counts as the zero point."""
    x, out, count = use.value(0).astype(np.int64), use.output(), _counts(use, use.value(0))
    low, high = qm.output_range(use.node, out)
    if use.node.attrs.get("count_include_pad", False):
        zero = use.input(0).zero_point
        return np.clip(divide_rounded(_sums(x - zero, use), count) + zero, low, high).astype(out.dtype)
    return np.clip(divide_rounded(_sums(x, use), count), low, high).astype(out.dtype)


def pool_quant(use: Use) -> str | None:
    """int8, int16: input and output share one scale and zero point."""
    return same_quant(use) if is_quantised(use.input(0)) else None


_ATTRS = {
    "kernel": "(h, w)",
    "stride": "(h, w)",
    "padding": "((top, bottom), (left, right)), each smaller than the kernel",
    "activation": "none, relu, relu6 or relu_n1_to_1",
}

OPS = (
    Op("max_pool2d", "Largest value of each window of x [N, H, W, C].", ("x",), pool_shape,
       {"float32": max_pool_float, "int8": max_pool_int, "int16": max_pool_int}, attrs=_ATTRS, constraints=(pool_quant,)),
    Op("avg_pool2d", "Mean of each window of x [N, H, W, C].", ("x",), pool_shape,
       {"float32": avg_pool_float, "int8": avg_pool_int, "int16": avg_pool_int},
       attrs={**_ATTRS, "count_include_pad": "divide by the whole window (default: by what lies inside the image)"},
       constraints=(pool_quant,)),
)  # fmt: skip
