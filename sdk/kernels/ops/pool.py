"""Pooling."""

from __future__ import annotations

from sdk.graph import quantmath as qm
from sdk.kernels.base import Call, Lowered, Ref, Site
from sdk.kernels.geometry import conv_window
from sdk.kernels.ops.conv import raster_overlap


def pool_s8(site: Site) -> Lowered:
    """avg_pool2d and max_pool2d on int8."""
    window = conv_window(site, site.node.attrs["kernel"])
    low, high = qm.output_range(site.node, site.output)
    function = "embarq_avg_pool_s8" if site.node.op == "avg_pool2d" else "embarq_max_pool_s8"
    fields = (
        ("input", Ref("tensor", site.node.inputs[0])),
        ("output", Ref("tensor", site.node.outputs[0])),
        ("window", window.values()),
        ("count_pad", int(bool(site.node.attrs.get("count_include_pad", False)))),
        ("zero_point", site.tensor(0).zero_point),
        ("low", low),
        ("high", high),
    )
    return Call(site.node.name, function, "embarq_pool_s8_params", fields, overlap=raster_overlap(window, 1, 1), sources=("pool_s8.c",))
