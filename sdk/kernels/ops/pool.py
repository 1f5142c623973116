"""Pooling."""

from __future__ import annotations

from dataclasses import replace

from sdk.graph import quantmath as qm
from sdk.kernels.base import Call, Lowered, Refused, Site
from sdk.kernels.geometry import conv_window
from sdk.kernels.ops.conv import ends, raster_overlap
from sdk.kernels.quant import item, real_range


def pool_int(site: Site) -> Lowered:
    """avg_pool2d and max_pool2d on int8 and int16."""
    window = conv_window(site, site.node.attrs["kernel"])
    low, high = qm.output_range(site.node, site.output)
    size = item(site.tensor(0).dtype)
    fields = (
        *ends(site),
        ("window", window.values()),
        ("item", size),
        ("count_pad", _count_pad(site)),
        ("zero_point", site.tensor(0).zero_point),
        ("low", low),
        ("high", high),
    )
    return Call(site.node.name, f"embarq_{_kind(site)}_int", "embarq_pool_int_params", fields,
                overlap=raster_overlap(window, size, size), sources=("pool_int.c",))  # fmt: skip


def avg_pool_s8_dsp(site: Site) -> Lowered:
    """avg_pool2d on int8, four channels at a time."""
    height, width = site.node.attrs["kernel"]
    if site.tensor(0).shape[3] % 4 or height * width > 255:
        return Refused("its channels are not a multiple of 4, or its window has more than 255 values", "use the portable kernel")
    if _count_pad(site):
        return Refused("it counts the padding", "use the portable kernel")
    call = pool_int(site)
    assert isinstance(call, Call)
    return replace(call, function="embarq_avg_pool_s8_dsp", sources=("avg_pool_s8_dsp.c",))


def pool_f32(site: Site) -> Lowered:
    """avg_pool2d and max_pool2d on float32."""
    window = conv_window(site, site.node.attrs["kernel"])
    low, high = real_range(site.node.attrs.get("activation", "none"))
    fields = (*ends(site), ("window", window.values()), ("count_pad", _count_pad(site)), ("low", low), ("high", high))
    return Call(site.node.name, f"embarq_{_kind(site)}_f32", "embarq_pool_f32_params", fields,
                overlap=raster_overlap(window, 4, 4), sources=("rows_f32.c",))  # fmt: skip


def _kind(site: Site) -> str:
    return "avg_pool" if site.node.op == "avg_pool2d" else "max_pool"


def _count_pad(site: Site) -> int:
    return int(bool(site.node.attrs.get("count_include_pad", False)))
