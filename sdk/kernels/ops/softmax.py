"""softmax."""

from __future__ import annotations

import math

from sdk.graph import fixedpoint as fp
from sdk.kernels.base import Call, Lowered, Ref, Refused, Site


def softmax_s8(site: Site) -> Lowered:
    """softmax on int8 along the last axis."""
    x = site.tensor(0)
    if site.node.attrs.get("axis", -1) not in (-1, len(x.shape) - 1):
        return Refused("it works along another axis than the last", "transpose around it")
    mult, shift, diff_min = fp.softmax_params(x.scale, float(site.node.attrs.get("beta", 1.0)))
    fields = (
        ("input", Ref("tensor", site.node.inputs[0])), ("output", Ref("tensor", site.node.outputs[0])),
        ("rows", math.prod(x.shape[:-1])), ("depth", x.shape[-1]),
        ("mult", mult), ("shift", shift), ("diff_min", diff_min),
    )  # fmt: skip
    # A row is read whole for its maximum and sum, then value by value while it is written.
    return Call(site.node.name, "embarq_softmax_s8", "embarq_softmax_s8_params", fields, overlap={0: 0}, sources=("softmax_s8.c",))
