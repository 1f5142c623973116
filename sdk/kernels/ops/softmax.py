"""softmax and log_softmax, along the last axis."""

from __future__ import annotations

import math

import numpy as np

from sdk.graph import fixedpoint as fp
from sdk.graph import quantmath as qm
from sdk.kernels.base import Call, Fields, Lowered, Ref, Refused, Site
from sdk.kernels.ops.conv import ends


def _rows(site: Site) -> Fields | Refused:
    shape = site.tensor(0).shape
    if site.node.attrs.get("axis", -1) not in (-1, len(shape) - 1):
        return Refused("it works along another axis than the last", "transpose around it")
    return ("rows", math.prod(shape[:-1])), ("depth", shape[-1])


def softmax_s8(site: Site) -> Lowered:
    """softmax on int8, gemmlowp's fixed point. A row is read whole for its sum, then value by value while it is written."""
    rows = _rows(site)
    if isinstance(rows, Refused):
        return rows
    mult, shift, diff_min = fp.softmax_params(site.tensor(0).scale, float(site.node.attrs.get("beta", 1.0)))
    fields = (*ends(site), *rows, ("mult", mult), ("shift", shift), ("diff_min", diff_min))
    return Call(site.node.name, "embarq_softmax_s8", "embarq_softmax_s8_params", fields, overlap={0: 0}, sources=("softmax_s8.c",))


def log_softmax_s8(site: Site) -> Lowered:
    """log_softmax on int8."""
    rows = _rows(site)
    if isinstance(rows, Refused):
        return rows
    mult, shift, diff_min = fp.softmax_params(site.tensor(0).scale, 1.0)
    back_mult, back_shift = qm.quantize_multiplier((1 << (31 - shift)) / mult)
    fields = (*ends(site), *rows, ("mult", mult), ("shift", shift), ("diff_min", diff_min), ("back_mult", back_mult), ("back_shift", back_shift))
    return Call(site.node.name, "embarq_log_softmax_s8", "embarq_log_softmax_s8_params", fields, overlap={0: 0}, sources=("log_softmax_s8.c",))


def softmax_s16(site: Site) -> Lowered:
    """softmax on int16 by two tables."""
    rows = _rows(site)
    if isinstance(rows, Refused):
        return rows
    beta = float(site.node.attrs.get("beta", 1.0))
    mult, shift = qm.quantize_multiplier(float(np.float32(site.tensor(0).scale) * np.float32(beta) / (10.0 / 65535.0)))
    exponentials, reciprocals = fp.softmax_int16_tables()
    fields = (
        *ends(site), *rows, ("mult", mult), ("shift", shift),
        ("exponentials", Ref("const", "exponentials")), ("reciprocals", Ref("const", "reciprocals")),
    )  # fmt: skip
    constants = {"exponentials": exponentials, "reciprocals": reciprocals}
    return Call(site.node.name, "embarq_softmax_s16", "embarq_softmax_s16_params", fields, constants, overlap={0: 0}, sources=("softmax_s16.c",))


def softmax_f32(site: Site) -> Lowered:
    """softmax and log_softmax on float32."""
    rows = _rows(site)
    if isinstance(rows, Refused):
        return rows
    function = f"embarq_{site.node.op}_f32"
    beta = float(site.node.attrs.get("beta", 1.0)) if site.node.op == "softmax" else 1.0
    return Call(site.node.name, function, "embarq_softmax_f32_params", (*ends(site), *rows, ("beta", beta)), overlap={0: 0}, sources=("rows_f32.c",))
