"""Normalisation over the last axis."""

from __future__ import annotations

import math

import numpy as np

from sdk.kernels.base import Call, Fields, Lowered, Ref, Refused, Site
from sdk.kernels.ops.conv import ends
from sdk.kernels.quant import item


def _parameters(site: Site, count: int) -> list[np.ndarray] | Refused:
    values = [site.constant(i) for i in range(1, count)]
    found = [v.astype(np.float32) for v in values if v is not None]
    return found if len(found) == count - 1 else Refused("its parameters are computed at run time", "make them constants")


def _rows(site: Site) -> Fields:
    shape = site.tensor(0).shape
    return ("rows", math.prod(shape[:-1])), ("depth", shape[-1])


def layer_norm_int(site: Site) -> Lowered:
    """layer_norm on int8 and int16. A row is read whole, then value by value while it is written."""
    found = _parameters(site, 3)
    if isinstance(found, Refused):
        return found
    x, out = site.tensor(0), site.output
    fields: Fields = (
        *ends(site), *_rows(site), ("item", item(x.dtype)), ("in_zero_point", x.zero_point), ("out_zero_point", out.zero_point),
        ("in_scale", x.scale), ("out_scale", out.scale), ("eps", float(site.node.attrs["eps"])),
        ("gamma", Ref("const", "gamma")), ("beta", Ref("const", "beta")),
    )  # fmt: skip
    return Call(site.node.name, "embarq_layer_norm_int", "embarq_layer_norm_int_params", fields, {"gamma": found[0], "beta": found[1]},
                overlap={0: 0}, sources=("normalise_int.c",))  # fmt: skip


def layer_norm_f32(site: Site) -> Lowered:
    """layer_norm on float32."""
    found = _parameters(site, 3)
    if isinstance(found, Refused):
        return found
    fields = (*ends(site), *_rows(site), ("eps", float(site.node.attrs["eps"])), ("gamma", Ref("const", "gamma")), ("beta", Ref("const", "beta")))
    return Call(site.node.name, "embarq_layer_norm_f32", "embarq_layer_norm_f32_params", fields, {"gamma": found[0], "beta": found[1]},
                overlap={0: 0}, sources=("rows_f32.c",))  # fmt: skip


def batch_norm_f32(site: Site) -> Lowered:
    """batch_norm on float32 that no pass could fold into a convolution."""
    found = _parameters(site, 5)
    if isinstance(found, Refused):
        return found
    gamma, beta, mean, var = found
    scale = (gamma / np.sqrt(var + np.float32(site.node.attrs["eps"]))).astype(np.float32)
    fields = (*ends(site), *_rows(site), *((name, Ref("const", name)) for name in ("scale", "shift", "mean")))
    return Call(site.node.name, "embarq_batch_norm_f32", "embarq_batch_norm_f32_params", fields, {"scale": scale, "shift": beta, "mean": mean},
                overlap={0: 0}, sources=("rows_f32.c",))  # fmt: skip
