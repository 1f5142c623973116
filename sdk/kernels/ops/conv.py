"""Convolutions and dense layers for the portable kernels: weights as they are, per-channel multipliers beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sdk.graph import quantmath as qm
from sdk.kernels.base import Call, Fields, Lowered, Ref, Refused, Site, source
from sdk.kernels.geometry import conv_window
from sdk.kernels.quant import bias, real_range, requant, requant_64
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
    """Overlap of a kernel that writes pixels in raster order and reads a pixel's window while it writes it."""
    return {0: ask("embarq_raster_overlap_bytes", window, in_item, out_item)}


def dense_overlap(rows: int, depth: int, channels: int, in_item: int = 1, out_item: int = 1) -> dict[int, int]:
    """Row r is read until its last channel is written: d = max over r of (r + 1) * channels - r * depth, in bytes."""
    last = [(r + 1) * channels * out_item - r * depth * in_item for r in (0, rows - 1)]
    return {0: max(last)}


def _weights(site: Site) -> np.ndarray:
    weights = site.constant(1)
    assert weights is not None  # refuse_variable_weights has seen to it
    return weights


def _groups(site: Site) -> int:
    return int(site.node.attrs.get("groups", 1))


# ---- int8 ----------------------------------------------------------------------------------------------------------


def conv2d_s8(site: Site) -> Lowered:
    """conv2d on int8, any geometry."""
    return _image_s8(site, "conv2d", "groups", _groups(site), 0)


def depthwise_s8(site: Site) -> Lowered:
    """depthwise_conv2d on int8, any geometry."""
    return _image_s8(site, "depthwise", "multiplier", site.node.attrs["multiplier"], 3)


def _image_s8(site: Site, kernel: str, option: str, value: int, axis: int) -> Lowered:
    refused = refuse_variable_weights(site)
    if refused:
        return refused
    weights = _weights(site)
    window = conv_window(site, weights.shape[1:3])
    constants = {"weights": weights, "bias": bias(site, weights.shape[axis])}
    fields = (
        *ends(site),
        ("window", window.values()),
        (option, value),
        ("input_zero_point", site.tensor(0).zero_point),
        ("weights", Ref("const", "weights")),
        ("bias", Ref("const", "bias")),
        ("requant", requant(site, constants)),
    )
    return Call(site.node.name, f"embarq_{kernel}_s8", f"embarq_{kernel}_s8_params", fields, constants,
                overlap=raster_overlap(window, 1, 1), sources=(f"{kernel}_s8.c",))  # fmt: skip


def _rows(site: Site) -> tuple[int, int, int]:
    """(rows, depth, channels) of a dense layer."""
    channels, depth = site.tensor(1).shape
    return math.prod(site.tensor(0).shape[:-1]), depth, channels


def _weight_zero_point(site: Site) -> int:
    quant = site.tensor(1).quant
    return quant.zero_point[0] if quant and len(quant.scale) == 1 else 0


def dense_s8(site: Site) -> Lowered:
    """dense on int8."""
    refused = refuse_variable_weights(site)
    if refused:
        return refused
    rows, depth, channels = _rows(site)
    constants = {"weights": _weights(site), "bias": bias(site, channels)}
    fields = (
        *ends(site),
        ("rows", rows), ("depth", depth), ("channels", channels),
        ("input_zero_point", site.tensor(0).zero_point),
        ("weight_zero_point", _weight_zero_point(site)),
        ("weights", Ref("const", "weights")),
        ("bias", Ref("const", "bias")),
        ("requant", requant(site, constants)),
    )  # fmt: skip
    return Call(site.node.name, "embarq_dense_s8", "embarq_dense_s8_params", fields, constants,
                overlap=dense_overlap(rows, depth, channels), sources=("dense_s8.c",))  # fmt: skip


# ---- int16 ---------------------------------------------------------------------------------------------------------


def conv2d_s16(site: Site) -> Lowered:
    """conv2d on int16 activations and int8 weights."""
    return _image_s16(site, "conv2d", {"groups": _groups(site), "multiplier": 1}, 0)


def depthwise_s16(site: Site) -> Lowered:
    """depthwise_conv2d on int16 activations and int8 weights."""
    return _image_s16(site, "depthwise", {"groups": 1, "multiplier": site.node.attrs["multiplier"]}, 3)


def _image_s16(site: Site, kernel: str, options: Mapping[str, int], axis: int) -> Lowered:
    refused = refuse_variable_weights(site) or _refuse_zero_point(site)
    if refused:
        return refused
    weights = _weights(site)
    window = conv_window(site, weights.shape[1:3])
    wide = not site.has(2) or site.tensor(2).dtype == "int64"
    constants = {"weights": weights, "bias": bias(site, weights.shape[axis]).astype(np.int64)}
    fields: Fields = (
        *ends(site),
        ("window", window.values()),
        *options.items(),
        ("wide", int(wide)),
        ("weights", Ref("const", "weights")),
        ("bias", Ref("const", "bias")),
        ("requant", requant_64(site, constants) if wide else requant(site, constants)),
    )
    return Call(site.node.name, f"embarq_{kernel}_s16", "embarq_conv_s16_params", fields, constants,
                overlap=raster_overlap(window, 2, 2), sources=("conv_s16.c",))  # fmt: skip


def _refuse_zero_point(site: Site) -> Refused | None:
    if site.tensor(0).zero_point:
        return Refused("its int16 input has a zero point", "quantise int16 activations symmetrically")
    return None


def dense_s16(site: Site) -> Lowered:
    """dense on int16 activations and int8 weights."""
    refused = refuse_variable_weights(site) or _refuse_zero_point(site)
    if refused:
        return refused
    rows, depth, channels = _rows(site)
    constants = {"weights": _weights(site), "bias": bias(site, channels).astype(np.int64)}
    fields = (
        *ends(site),
        ("rows", rows), ("depth", depth), ("channels", channels),
        ("weight_zero_point", _weight_zero_point(site)),
        ("weights", Ref("const", "weights")),
        ("bias", Ref("const", "bias")),
        ("requant", requant(site, constants)),
    )  # fmt: skip
    return Call(site.node.name, "embarq_dense_s16", "embarq_dense_s16_params", fields, constants,
                overlap=dense_overlap(rows, depth, channels, 2, 2), sources=("conv_s16.c",))  # fmt: skip


# ---- float32 -------------------------------------------------------------------------------------------------------


def conv2d_f32(site: Site) -> Lowered:
    """conv2d on float32."""
    return _image_f32(site, "conv2d", {"groups": _groups(site), "multiplier": 1}, 0)


def depthwise_f32(site: Site) -> Lowered:
    """depthwise_conv2d on float32."""
    return _image_f32(site, "depthwise", {"groups": 1, "multiplier": site.node.attrs["multiplier"]}, 3)


def _image_f32(site: Site, kernel: str, options: Mapping[str, int], axis: int) -> Lowered:
    refused = refuse_variable_weights(site)
    if refused:
        return refused
    weights = _weights(site)
    window = conv_window(site, weights.shape[1:3])
    constants = {"weights": weights, "bias": bias(site, weights.shape[axis]).astype(np.float32)}
    fields: Fields = (*ends(site), ("window", window.values()), *options.items(), *_real_end(site))
    return Call(site.node.name, f"embarq_{kernel}_f32", "embarq_conv_f32_params", fields, constants,
                overlap=raster_overlap(window, 4, 4), sources=("conv_f32.c",))  # fmt: skip


def _real_end(site: Site) -> Fields:
    low, high = real_range(site.node.attrs.get("activation", "none"))
    return ("weights", Ref("const", "weights")), ("bias", Ref("const", "bias")), ("low", low), ("high", high)


def dense_f32(site: Site) -> Lowered:
    """dense on float32."""
    refused = refuse_variable_weights(site)
    if refused:
        return refused
    rows, depth, channels = _rows(site)
    constants = {"weights": _weights(site), "bias": bias(site, channels).astype(np.float32)}
    fields: Fields = (*ends(site), ("rows", rows), ("depth", depth), ("channels", channels), *_real_end(site))
    return Call(site.node.name, "embarq_dense_f32", "embarq_dense_f32_params", fields, constants,
                overlap=dense_overlap(rows, depth, channels, 4, 4), sources=("conv_f32.c",))  # fmt: skip


# ---- products of two activations -----------------------------------------------------------------------------------


def batch_matmul_int(site: Site) -> Lowered:
    """batch_matmul on int8 or int16."""
    a, b, out = site.tensor(0), site.tensor(1), site.output
    shape = _product(site)
    if isinstance(shape, Refused):
        return shape
    (mult,), (shift,) = qm.conv_multipliers(site.node, site.graph)
    low, high = qm.output_range(site.node, out)
    constants: dict[str, np.ndarray] = {}
    sources = _two_sources(site, constants)
    fields = (
        *sources, ("output", Ref("tensor", out.name)), *shape, ("item", 1 if a.dtype == "int8" else 2),
        ("a_zero_point", a.zero_point), ("b_zero_point", b.zero_point), ("out_zero_point", out.zero_point),
        ("mult", mult if a.dtype == "int8" else _narrow(mult)), ("shift", shift), ("low", low), ("high", high),
    )  # fmt: skip
    return Call(site.node.name, "embarq_batch_matmul_int", "embarq_batch_matmul_int_params", fields, constants, sources=("batch_matmul_int.c",))


def batch_matmul_f32(site: Site) -> Lowered:
    """batch_matmul on float32."""
    shape = _product(site)
    if isinstance(shape, Refused):
        return shape
    constants: dict[str, np.ndarray] = {}
    fields = (*_two_sources(site, constants), ("output", Ref("tensor", site.output.name)), *shape)
    return Call(site.node.name, "embarq_batch_matmul_f32", "embarq_batch_matmul_f32_params", fields, constants, sources=("conv_f32.c",))


def _narrow(mult: int) -> int:
    """A 31-bit multiplier in 16 bits, as LiteRT's 64-bit rescaling takes it."""
    return (mult + (1 << 15)) >> 16 if mult < 0x7FFF0000 else 0x7FFF


def _two_sources(site: Site, constants: dict[str, np.ndarray]) -> Fields:
    return ("a", source(site, 0, constants)), ("b", source(site, 1, constants))


def _product(site: Site) -> Fields | Refused:
    """Sizes and strides: the leading dimensions as one batch, with a stride of 0 where one side repeats."""
    a, b = site.tensor(0).shape, site.tensor(1).shape
    lead = [math.prod(s[:-2]) for s in (a, b)]
    batch = math.prod(site.output.shape[:-2])
    if any(n not in (1, batch) for n in lead):
        return Refused("it broadcasts some of its leading dimensions", "repeat or reshape its inputs")
    ta, tb = bool(site.node.attrs.get("transpose_a", False)), bool(site.node.attrs.get("transpose_b", False))
    rows, columns = site.output.shape[-2:]
    depth = a[-2] if ta else a[-1]
    return (
        ("batch", batch), ("rows", rows), ("depth", depth), ("columns", columns),
        ("a_batch", rows * depth if lead[0] == batch > 1 else 0), ("a_row", 1 if ta else depth), ("a_depth", rows if ta else 1),
        ("b_batch", depth * columns if lead[1] == batch > 1 else 0), ("b_depth", 1 if tb else columns), ("b_column", depth if tb else 1),
    )  # fmt: skip
