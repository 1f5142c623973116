"""Ops of one tensor, value by value: tables for int8, interpolated tables or a rescaling for int16, functions for float32."""

from __future__ import annotations

import numpy as np

from sdk.graph import quantmath as qm
from sdk.graph import unary
from sdk.kernels.base import Call, Lowered, Ref, Refused, Site
from sdk.kernels.ops.conv import ends
from sdk.kernels.quant import REAL_MAX, item


def _quants(site: Site) -> tuple[qm.Quant, qm.Quant]:
    return site.tensor(0)._one(), site.output._one()


def table_s8(site: Site) -> Lowered:
    """Any elementwise int8 op, and requantize from int8 to int8."""
    source, target = _quants(site)
    every = np.arange(-128, 128)
    if site.node.op == "requantize":
        if site.output.dtype != "int8":
            return Refused("its output is not int8", "use the rescaling kernel")
        mult, shift = qm.rescale_multiplier(source, target)
        table = qm.requantise(every - source.zero_point[0], mult, shift, target.zero_point[0], -128, 127, "int8")
    else:
        table = unary.unary_table(site.node.op, site.node.attrs, source, target)
    fields = (*ends(site), ("count", site.output.size), ("table", Ref("const", "table")))
    return Call(site.node.name, "embarq_table_s8", "embarq_table_s8_params", fields, {"table": table}, overlap={0: 0}, sources=("table_s8.c",))


#: int16 ops that are a rescaling: op -> (sign, factor of the multiplier).
RESCALED = {"relu": 0, "relu6": 0, "relu_n1_to_1": 0, "clip": 0, "abs": 1, "neg": 2}


def unary_s16(site: Site) -> Lowered:
    """Elementwise int16 ops."""
    op, (source, target) = site.node.op, _quants(site)
    if op in RESCALED:
        return _rescaled_s16(site)
    if op in unary.INTEGER or op in unary.INTEGER_16:
        return Refused("int16 has no kernel for it", "keep this layer at int8 or float32")
    table = unary.unary_table_int16(op, site.node.attrs, source, target)
    fields = (*ends(site), ("count", site.output.size), ("table", Ref("const", "table")))
    return Call(site.node.name, "embarq_table_s16", "embarq_table_s16_params", fields, {"table": table}, overlap={0: 0}, sources=("table_s16.c",))


def _rescaled_s16(site: Site) -> Call:
    op, (source, target) = site.node.op, _quants(site)
    mult, shift = qm.quantize_multiplier(float(np.float32(source.scale[0]) / np.float32(target.scale[0])))
    if op == "clip":
        real = np.array([site.node.attrs["min"], site.node.attrs["max"]], np.float32)
        low, high = (int(v) for v in qm.quantise_array(real, target.scale[0], target.zero_point[0], "int16"))
    else:
        low, high = qm.activation_range(op if op.startswith("relu") else "none", target.scale[0], target.zero_point[0], "int16")
    return _requantize(site, mult, shift, RESCALED[op], low, high)


def requantize_int(site: Site) -> Lowered:
    """Between integer types and scales."""
    mult, shift = qm.rescale_multiplier(*_quants(site))
    return _requantize(site, mult, shift, 0, *qm.RANGE[site.output.dtype])


def _requantize(site: Site, mult: int, shift: int, sign: int, low: int, high: int) -> Call:
    x, out = site.tensor(0), site.output
    sizes = item(x.dtype), item(out.dtype)
    fields = (
        *ends(site), ("count", out.size), ("in_item", sizes[0]), ("out_item", sizes[1]),
        ("in_zero_point", x.zero_point), ("out_zero_point", out.zero_point),
        ("mult", mult), ("shift", shift), ("sign", sign), ("low", low), ("high", high),
    )  # fmt: skip
    return Call(site.node.name, "embarq_requantize_int", "embarq_requantize_int_params", fields,
                overlap=resized_in_place(out.size, *sizes), sources=("rescale_int.c",))  # fmt: skip


def resized_in_place(count: int, in_item: int, out_item: int) -> dict[int, int]:
    """Value i is read just before it is written: d >= (i + 1) * out_item - (i + 1) * in_item for every value but the last."""
    return {0: max(0, (count - 1) * (out_item - in_item))}


def quantize_f32(site: Site) -> Lowered:
    """float32 to int8, int16 or int32."""
    x, out = site.tensor(0), site.output
    low, high = qm.RANGE[out.dtype]
    fields = (("real", Ref("tensor", x.name)), ("whole", Ref("tensor", out.name)), ("count", out.size), ("item", item(out.dtype)),
              ("scale", out.scale), ("zero_point", out.zero_point), ("low", low), ("high", high))  # fmt: skip
    return Call(site.node.name, "embarq_quantize_f32", "embarq_quantize_params", fields,
                overlap=resized_in_place(out.size, 4, item(out.dtype)), sources=("rescale_int.c",))  # fmt: skip


def dequantize_int(site: Site) -> Lowered:
    """int8, int16 or int32 with one scale to float32."""
    x, out = site.tensor(0), site.output
    if x.quant is None or len(x.quant.scale) != 1:
        return Refused("it has a scale per channel", "quantise the tensor as a whole")
    fields = (("real", Ref("tensor", out.name)), ("whole", Ref("tensor", x.name)), ("count", out.size), ("item", item(x.dtype)),
              ("scale", x.scale), ("zero_point", x.zero_point), ("low", 0), ("high", 0))  # fmt: skip
    return Call(site.node.name, "embarq_dequantize_int", "embarq_quantize_params", fields,
                overlap=resized_in_place(out.size, item(x.dtype), 4), sources=("rescale_int.c",))  # fmt: skip


#: float32 ops that are a clamp -> its ends.
CLAMPS = {"relu": (0.0, REAL_MAX), "relu6": (0.0, 6.0), "relu_n1_to_1": (-1.0, 1.0)}


def unary_f32(site: Site) -> Lowered:
    """Elementwise float32 ops."""
    op, attrs = site.node.op, site.node.attrs
    first, second, name = 0.0, 0.0, op
    if op in CLAMPS:
        name, (first, second) = "clip", CLAMPS[op]
    elif op == "clip":
        first, second = (float(np.clip(attrs[key], -REAL_MAX, REAL_MAX)) for key in ("min", "max"))
    elif op == "leaky_relu":
        first = float(attrs["alpha"])
    elif op == "gelu" and attrs.get("approximate", False):
        name = "gelu_tanh"
    fields = (*ends(site), ("count", site.output.size), ("first", first), ("second", second))
    return Call(site.node.name, f"embarq_{name}_f32", "embarq_unary_f32_params", fields, overlap={0: 0}, sources=("elementwise_f32.c",))


#: embarq_dtype in embarq.h
DTYPES = {"float32": 0, "int8": 1, "uint8": 2, "int16": 3, "int32": 4, "int64": 5, "bool": 6}


def cast(site: Site) -> Lowered:
    """Any type to any type."""
    x, out = site.tensor(0), site.output
    fields = (*ends(site), ("count", out.size), ("from", DTYPES[x.dtype]), ("to", DTYPES[out.dtype]))
    return Call(site.node.name, "embarq_cast", "embarq_cast_params", fields,
                overlap=resized_in_place(out.size, item(x.dtype), item(out.dtype)), sources=("cast.c",))  # fmt: skip
