"""Ops on two tensors, element by element."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sdk.graph import quantmath as qm
from sdk.graph.ir import Tensor
from sdk.kernels.base import Call, Fields, Lowered, Ref, Refused, Site, source
from sdk.kernels.geometry import broadcast
from sdk.kernels.linear import fit
from sdk.kernels.quant import item, real_range


def in_place(site: Site) -> dict[int, int]:
    """Inputs as large as the output are read just before it is written, element by element: distance 0."""
    return {i: 0 for i in (0, 1) if site.tensor(i).shape == site.output.shape and not site.tensor(i).is_const}


def arithmetic_int(site: Site) -> Lowered:
    """add, sub, mul, div, maximum, minimum, squared_difference on int8 and int16."""
    cast = broadcast(site)
    if isinstance(cast, Refused):
        return cast
    a, b, out, op = site.tensor(0), site.tensor(1), site.output, site.node.op
    zeros = (0, 0, 0) if op in ("maximum", "minimum") else (a.zero_point, b.zero_point, out.zero_point)
    low, high = qm.output_range(site.node, out)
    constants: dict[str, np.ndarray] = {}
    fields = (
        ("a", source(site, 0, constants)), ("b", source(site, 1, constants)), ("output", Ref("tensor", out.name)),
        ("broadcast", cast), ("item", item(out.dtype)),
        ("a_zero_point", zeros[0]), ("b_zero_point", zeros[1]), ("out_zero_point", zeros[2]),
        *_multipliers(op, a, b, out),
        ("sign", -1 if op == "sub" else 1),
        ("low", low), ("high", high),
    )  # fmt: skip
    name = "add" if op == "sub" else op
    return Call(site.node.name, f"embarq_{name}_int", "embarq_arithmetic_int_params", fields, constants,
                overlap=in_place(site), sources=("arithmetic_int.c",))  # fmt: skip


def _multipliers(op: str, a: Tensor, b: Tensor, out: Tensor) -> Fields:
    match op:
        case "add" | "sub":
            p = qm.add_params(a, b, out)
            pairs = (p.mult[0], p.shift[0]), (p.mult[1], p.shift[1]), (p.out_mult, p.out_shift)
            left = p.left_shift
        case "squared_difference":
            twice_max, left = 2.0 * max(a.scale, b.scale), 7
            last = twice_max * twice_max / ((1 << 14) * out.scale)
            pairs = (qm.quantize_multiplier(a.scale / twice_max), qm.quantize_multiplier(b.scale / twice_max), qm.quantize_multiplier(last))
        case "mul":
            pairs, left = ((0, 0), (0, 0), qm.mul_multiplier(a, b, out)), 0
        case "div":
            ratio = float(np.float32(a.scale) / (np.float32(b.scale) * np.float32(out.scale)))
            pairs, left = ((0, 0), (0, 0), qm.quantize_multiplier(ratio)), 0
        case _:
            pairs, left = ((0, 0), (0, 0), (0, 0)), 0
    names = ("a", "b", "out")
    return ("left_shift", left), *((f"{n}_{k}", v) for n, pair in zip(names, pairs, strict=True) for k, v in zip(("mult", "shift"), pair, strict=True))


def arithmetic_f32(site: Site) -> Lowered:
    """The same ops, and prelu, on float32."""
    cast = broadcast(site)
    if isinstance(cast, Refused):
        return cast
    low, high = real_range(site.node.attrs.get("activation", "none"))
    constants: dict[str, np.ndarray] = {}
    fields = (
        ("a", source(site, 0, constants)), ("b", source(site, 1, constants)), ("output", Ref("tensor", site.output.name)),
        ("broadcast", cast), ("low", low), ("high", high),
    )  # fmt: skip
    return Call(site.node.name, f"embarq_{site.node.op}_f32", "embarq_arithmetic_f32_params", fields, constants,
                overlap=in_place(site), sources=("elementwise_f32.c",))  # fmt: skip


def prelu_s8(site: Site) -> Lowered:
    """prelu on int8."""
    cast = broadcast(site)
    if isinstance(cast, Refused):
        return cast
    x, alpha, out = site.tensor(0), site.tensor(1), site.output
    same = qm.quantize_multiplier(float(np.float32(x.scale) / np.float32(out.scale)))
    less = qm.quantize_multiplier(float(np.float32(x.scale) * np.float32(alpha.scale) / np.float32(out.scale)))
    constants: dict[str, np.ndarray] = {}
    fields = (
        ("a", source(site, 0, constants)), ("b", source(site, 1, constants)), ("output", Ref("tensor", out.name)), ("broadcast", cast),
        ("a_zero_point", x.zero_point), ("b_zero_point", alpha.zero_point), ("out_zero_point", out.zero_point),
        ("same_mult", same[0]), ("same_shift", same[1]), ("less_mult", less[0]), ("less_shift", less[1]),
    )  # fmt: skip
    return Call(site.node.name, "embarq_prelu_s8", "embarq_prelu_s8_params", fields, constants, overlap=in_place(site), sources=("prelu_s8.c",))


def add_s8_dsp(site: Site) -> Lowered:
    """add and sub on int8 of equal shapes, as a linear form proven on every pair of bytes."""
    a, b, out = site.tensor(0), site.tensor(1), site.output
    if a.shape != out.shape or b.shape != out.shape:
        return Refused("it broadcasts", "use the portable kernel")
    sign = 1 if site.node.op == "add" else -1
    ratio = a.scale / out.scale, sign * b.scale / out.scale
    constant = out.zero_point - a.zero_point * ratio[0] - b.zero_point * ratio[1]
    linear = fit(_all_sums(a, b, out, sign), *ratio, constant)
    if linear is None:
        return Refused("no linear form equals it for all inputs", "use the portable kernel")
    low, high = qm.output_range(site.node, out)
    constants: dict[str, np.ndarray] = {}
    fields = (
        ("x", source(site, 0, constants)), ("y", source(site, 1, constants)), ("output", Ref("tensor", out.name)),
        ("count", out.size),
        ("a", linear.a), ("b", linear.b), ("c", linear.c), ("shift", linear.shift),
        ("low", low), ("high", high),
    )  # fmt: skip
    return Call(site.node.name, "embarq_add_s8_dsp", "embarq_add_s8_dsp_params", fields, constants, overlap=in_place(site), sources=("add_s8_dsp.c",))


def add_exact_s8_dsp(site: Site) -> Lowered:
    """add and sub on int8 of equal shapes, in LiteRT's own steps."""
    a, b, out = site.tensor(0), site.tensor(1), site.output
    if a.shape != out.shape or b.shape != out.shape:
        return Refused("it broadcasts", "use the portable kernel")
    if qm.add_params(a, b, out).out_shift > 0:
        return Refused("its output's scale is far below its inputs'", "use the portable kernel")
    call = arithmetic_int(site)
    return replace(call, function="embarq_add_exact_s8_dsp", sources=("add_exact_s8_dsp.c",)) if isinstance(call, Call) else call


def _all_sums(a: Tensor, b: Tensor, out: Tensor, sign: int) -> np.ndarray:
    """int64 [256, 256]: LiteRT's result for every pair of bytes, saturated to int8."""
    p, every = qm.add_params(a, b, out), np.arange(-128, 128)
    left, right = (
        qm.multiply_by_quantized_multiplier((every - t.zero_point) << p.left_shift, p.mult[i], p.shift[i]) for i, t in enumerate((a, b))
    )
    total = left[:, None] + sign * right[None, :]
    return qm.requantise(total, p.out_mult, p.out_shift, out.zero_point, -128, 127, "int8").astype(np.int64)
