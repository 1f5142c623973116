"""Many values to one: mean, sum, reduce_max, argmax."""

from __future__ import annotations

import math

from sdk.graph import quantmath as qm
from sdk.graph.ops.reduce import mean_multiplier
from sdk.kernels.base import Call, Fields, Lowered, Refused, Site, Value
from sdk.kernels.geometry import merge, padded, strides
from sdk.kernels.ops.conv import ends
from sdk.kernels.quant import item

RANK = 3  # of each half of embarq_reduction


def _axes(site: Site) -> tuple[int, ...]:
    rank = len(site.tensor(0).shape)
    if site.node.op == "argmax":
        return (site.node.attrs["axis"] % rank,)
    axes = site.node.attrs.get("axes")
    return tuple(range(rank)) if axes is None else tuple(sorted({a % rank for a in axes}))


def _reduction(site: Site) -> Value | Refused:
    shape = site.tensor(0).shape
    steps, axes = strides(shape), _axes(site)
    parts: list[Value] = []
    for keep in (True, False):
        own = [i for i in range(len(shape)) if (i not in axes) == keep]
        dims, walks = merge(tuple(shape[i] for i in own), [steps[i] for i in own])
        fitted = padded(dims, walks, RANK)
        if fitted is None:
            return Refused("its axes alternate too often", "transpose it so that the reduced axes stand together")
        parts += [fitted[0], fitted[1][0]]
    return tuple(parts)


def reduce_int(site: Site) -> Lowered:
    """mean, sum and reduce_max on int8 and int16."""
    reduction = _reduction(site)
    if isinstance(reduction, Refused):
        return reduction
    x, out = site.tensor(0), site.output
    mult, shift = _multiplier(site)
    low, high = qm.RANGE[out.dtype]
    fields: Fields = (
        *ends(site), ("reduction", reduction), ("item", item(x.dtype)), ("in_zero_point", x.zero_point), ("out_zero_point", out.zero_point),
        ("mult", mult), ("shift", shift), ("low", low), ("high", high),
    )  # fmt: skip
    function = "embarq_reduce_max_int" if site.node.op == "reduce_max" else "embarq_sum_int"
    return Call(site.node.name, function, "embarq_reduce_int_params", fields, sources=("reduce_int.c",))


def _count(site: Site) -> int:
    return math.prod(site.tensor(0).shape[a] for a in _axes(site))


def _multiplier(site: Site) -> tuple[int, int]:
    x, out = site.tensor(0), site.output
    match site.node.op:
        case "mean":
            return mean_multiplier(x.scale, out.scale, _count(site))
        case "sum":
            return qm.rescale_multiplier(x._one(), out._one())
    return 0, 0


def reduce_f32(site: Site) -> Lowered:
    """mean, sum and reduce_max on float32."""
    reduction = _reduction(site)
    if isinstance(reduction, Refused):
        return reduction
    function = "embarq_reduce_max_f32" if site.node.op == "reduce_max" else "embarq_sum_f32"
    fields = (*ends(site), ("reduction", reduction), ("divisor", float(_count(site)) if site.node.op == "mean" else 1.0))
    return Call(site.node.name, function, "embarq_reduce_f32_params", fields, sources=("rows_f32.c",))


def argmax(site: Site) -> Lowered:
    """argmax on int8, int16 and float32."""
    reduction = _reduction(site)
    if isinstance(reduction, Refused):
        return reduction
    dtype = site.tensor(0).dtype
    function, source = ("embarq_argmax_f32", "rows_f32.c") if dtype == "float32" else ("embarq_argmax_int", "reduce_int.c")
    fields = (*ends(site), ("reduction", reduction), ("item", item(dtype)), ("out_words", item(site.output.dtype) // 4))
    return Call(site.node.name, function, "embarq_argmax_params", fields, sources=(source,))
