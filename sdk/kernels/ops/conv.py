"""Convolutions and dense layers for the portable kernels: weights as they are, per-channel multipliers beside them."""

from __future__ import annotations

import math

from sdk.kernels.base import Call, Lowered, Ref, Refused, Site
from sdk.kernels.geometry import conv_window
from sdk.kernels.quant import bias, requant
from sdk.kernels.sizing import Window, ask


def refuse_variable_weights(site: Site) -> Refused | None:
    """Kernels want weights and bias at compile time."""
    for index in (1, 2):
        if site.has(index) and site.constant(index) is None:
            return Refused(f"its input {index} ({site.tensor(index).name}) is computed at run time", "make it a constant, or use batch_matmul")
    if site.constant(0) is not None:
        return Refused("its input is a constant", "fold constants first")
    return None


def ends(site: Site) -> tuple[tuple[str, Ref], tuple[str, Ref]]:
    """The fields `input` and `output`."""
    return ("input", Ref("tensor", site.node.inputs[0])), ("output", Ref("tensor", site.node.outputs[0]))


def raster_overlap(window: Window, in_item: int, out_item: int) -> dict[int, int]:
    """Overlap of a kernel that writes pixels in raster order. One that reads a pixel for every channel it writes needs a pixel more."""
    return {0: ask("embarq_raster_overlap_bytes", window, in_item, out_item)}


def conv2d_s8(site: Site) -> Lowered:
    """conv2d on int8, any geometry."""
    refused = refuse_variable_weights(site)
    if refused:
        return refused
    weights = site.constant(1)
    assert weights is not None
    window = conv_window(site, weights.shape[1:3])
    constants = {"weights": weights, "bias": bias(site, weights.shape[0])}
    fields = (
        *ends(site),
        ("window", window.values()),
        ("groups", site.node.attrs.get("groups", 1)),
        ("input_zero_point", site.tensor(0).zero_point),
        ("weights", Ref("const", "weights")),
        ("bias", Ref("const", "bias")),
        ("requant", requant(site, constants)),
    )
    return Call(site.node.name, "embarq_conv2d_s8", "embarq_conv2d_s8_params", fields, constants,
                overlap=raster_overlap(window, 1, 1), sources=("conv2d_s8.c",))  # fmt: skip


def depthwise_s8(site: Site) -> Lowered:
    """depthwise_conv2d on int8, any geometry."""
    refused = refuse_variable_weights(site)
    if refused:
        return refused
    weights = site.constant(1)
    assert weights is not None
    window = conv_window(site, weights.shape[1:3])
    constants = {"weights": weights, "bias": bias(site, weights.shape[3])}
    fields = (
        *ends(site),
        ("window", window.values()),
        ("multiplier", site.node.attrs["multiplier"]),
        ("input_zero_point", site.tensor(0).zero_point),
        ("weights", Ref("const", "weights")),
        ("bias", Ref("const", "bias")),
        ("requant", requant(site, constants)),
    )
    return Call(site.node.name, "embarq_depthwise_s8", "embarq_depthwise_s8_params", fields, constants,
                overlap=raster_overlap(window, 1, 1), sources=("depthwise_s8.c",))  # fmt: skip


def dense_overlap(rows: int, depth: int, channels: int, in_item: int = 1, out_item: int = 1) -> dict[int, int]:
    """Row r is read until its last channel is written: d = max over r of (r + 1) * channels - r * depth, in bytes."""
    last = [(r + 1) * channels * out_item - r * depth * in_item for r in (0, rows - 1)]
    return {0: max(last)}


def dense_s8(site: Site) -> Lowered:
    """dense on int8."""
    refused = refuse_variable_weights(site)
    if refused:
        return refused
    weights = site.constant(1)
    assert weights is not None
    channels, depth = weights.shape
    rows = math.prod(site.tensor(0).shape[:-1])
    quant = site.tensor(1).quant
    zero = quant.zero_point[0] if quant and len(quant.scale) == 1 else 0
    constants = {"weights": weights, "bias": bias(site, channels)}
    fields = (
        *ends(site),
        ("rows", rows), ("depth", depth), ("channels", channels),
        ("input_zero_point", site.tensor(0).zero_point),
        ("weight_zero_point", zero),
        ("weights", Ref("const", "weights")),
        ("bias", Ref("const", "bias")),
        ("requant", requant(site, constants)),
    )  # fmt: skip
    return Call(site.node.name, "embarq_dense_s8", "embarq_dense_s8_params", fields, constants,
                overlap=dense_overlap(rows, depth, channels), sources=("dense_s8.c",))  # fmt: skip
