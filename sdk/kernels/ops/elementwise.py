"""Ops on two tensors, element by element."""

from __future__ import annotations

import numpy as np

from sdk.graph import quantmath as qm
from sdk.graph.ir import Tensor
from sdk.kernels.base import Call, Lowered, Ref, Refused, Site, source
from sdk.kernels.geometry import broadcast
from sdk.kernels.linear import fit


def in_place(site: Site) -> dict[int, int]:
    """Inputs as large as the output are read just before it is written, element by element: distance 0."""
    return {i: 0 for i in (0, 1) if site.tensor(i).shape == site.output.shape and not site.tensor(i).is_const}


def add_s8(site: Site) -> Lowered:
    """add and sub on int8."""
    cast = broadcast(site)
    if isinstance(cast, Refused):
        return cast
    a, b, out = site.tensor(0), site.tensor(1), site.output
    p, (low, high) = qm.add_params(a, b, out), qm.output_range(site.node, out)
    constants: dict[str, np.ndarray] = {}
    fields = (
        ("a", source(site, 0, constants)), ("b", source(site, 1, constants)), ("output", Ref("tensor", out.name)),
        ("broadcast", cast),
        ("a_zero_point", a.zero_point), ("b_zero_point", b.zero_point), ("out_zero_point", out.zero_point),
        ("left_shift", p.left_shift),
        ("a_mult", p.mult[0]), ("a_shift", p.shift[0]), ("b_mult", p.mult[1]), ("b_shift", p.shift[1]),
        ("out_mult", p.out_mult), ("out_shift", p.out_shift),
        ("sign", 1 if site.node.op == "add" else -1),
        ("low", low), ("high", high),
    )  # fmt: skip
    return Call(site.node.name, "embarq_add_s8", "embarq_add_s8_params", fields, constants, overlap=in_place(site), sources=("add_s8.c",))


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


def _all_sums(a: Tensor, b: Tensor, out: Tensor, sign: int) -> np.ndarray:
    """int64 [256, 256]: LiteRT's result for every pair of bytes, saturated to int8."""
    p, every = qm.add_params(a, b, out), np.arange(-128, 128)
    left, right = (
        qm.multiply_by_quantized_multiplier((every - t.zero_point) << p.left_shift, p.mult[i], p.shift[i]) for i, t in enumerate((a, b))
    )
    total = left[:, None] + sign * right[None, :]
    return qm.requantise(total, p.out_mult, p.out_shift, out.zero_point, -128, 127, "int8").astype(np.int64)
