"""Ops that make one value of many: mean, sum, reduce_max, argmax."""

from __future__ import annotations

import math

import numpy as np

from sdk.graph import quantmath as qm
from sdk.graph.ops.base import Op, Shape, Use, axes_of, axis_of, fixed, is_quantised, same_quant


def reduce_shape(use: Use) -> Shape:
    """The axes removed, or 1 with keep_dims."""
    x = use.input(0).shape
    axes = axes_of(use, len(x))
    if any(x[a] == 0 for a in axes):
        raise use.wrong(f"its input has shape {list(x)}; there is nothing to reduce")
    if use.node.attrs.get("keep_dims", False):
        return tuple(1 if i in axes else d for i, d in enumerate(x))
    return tuple(d for i, d in enumerate(x) if i not in axes)


def _args(use: Use) -> dict:
    return {"axis": axes_of(use, use.value(0).ndim), "keepdims": bool(use.node.attrs.get("keep_dims", False))}


def _count(use: Use) -> int:
    x = use.value(0).shape
    return math.prod(x[a] for a in axes_of(use, len(x)))


def mean_float(use: Use) -> np.ndarray:
    """float32 mean."""
    return use.value(0).mean(dtype=np.float32, **_args(use))


def mean_int(use: Use) -> np.ndarray:
    """Sum of the offsets times (scale ratio / count), with the division folded into the multiplier."""
    x, out, count = use.input(0), use.output(), _count(use)
    total = use.value(0).astype(np.int64).sum(**_args(use)) - x.zero_point * count
    mult, shift = mean_multiplier(x.scale, out.scale, count)
    return qm.requantise(total, mult, shift, out.zero_point, *qm.RANGE[out.dtype], out.dtype)


def mean_multiplier(source: float, target: float, count: int) -> tuple[int, int]:
    """`(mult, shift)` of `source / target / count`: LiteRT divides the integer multiplier, keeping its upper bits."""
    mult, shift = qm.quantize_multiplier(source / target)
    room = min(max(count, 1).bit_length() - 1, 32, 31 + shift)  # as many bits as the division takes away
    return (mult << room) // max(count, 1), shift - room


def sum_float(use: Use) -> np.ndarray:
    """float32 sum."""
    return use.value(0).sum(dtype=np.float32, **_args(use))


def sum_int(use: Use) -> np.ndarray:
    """Exact sum of the offsets, rescaled. Our own: LiteRT's reference int8 SUM leaves its output unwritten."""
    x, out = use.input(0), use.output()
    total = use.value(0).astype(np.int64).sum(**_args(use)) - x.zero_point * _count(use)
    mult, shift = qm.rescale_multiplier(x._one(), out._one())
    return qm.requantise(total, mult, shift, out.zero_point, *qm.RANGE[out.dtype], out.dtype)


def reduce_max(use: Use) -> np.ndarray:
    """Largest value; quantised values keep their scale."""
    return use.value(0).max(**_args(use))


def argmax_shape(use: Use) -> Shape:
    """The axis removed."""
    x = use.input(0).shape
    axis = axis_of(use, use.attr("axis"), len(x))
    if x[axis] == 0:
        raise use.wrong(f"its input has shape {list(x)}; there is nothing to search")
    return x[:axis] + x[axis + 1 :]


def argmax(use: Use) -> np.ndarray:
    """Index of the first largest value."""
    return np.argmax(use.value(0), axis=use.attr("axis")).astype(argmax_dtype(use))


def argmax_dtype(use: Use) -> str:
    """int32, or int64 when the attribute `dtype` says so."""
    return str(use.node.attrs.get("dtype", "int32"))


def max_quant(use: Use) -> str | None:
    """int8, int16: input and output share one scale and zero point."""
    return same_quant(use) if is_quantised(use.input(0)) else None


_ATTRS = {"axes": "dimensions to reduce", "keep_dims": "leave them as size 1"}

OPS = (
    Op("mean", "Mean over axes.", ("x",), reduce_shape, {"float32": mean_float, "int8": mean_int, "int16": mean_int}, attrs=_ATTRS),
    Op("sum", "Sum over axes.", ("x",), reduce_shape, {"float32": sum_float, "int8": sum_int, "int16": sum_int}, attrs=_ATTRS),
    Op("reduce_max", "Largest value over axes.", ("x",), reduce_shape, fixed(("float32", "int8", "int16", "int32"), reduce_max), attrs=_ATTRS,
       constraints=(max_quant,)),
    Op("argmax", "Index of the first largest value along an axis.", ("x",), argmax_shape, fixed(("float32", "int8", "int16", "int32"), argmax),
       dtype=argmax_dtype, attrs={"axis": "dimension to search", "dtype": "int32 (default) or int64"}),
)  # fmt: skip
