"""Convolutions and dense layers for cores with DSP instructions: weights in pairs, zero points folded away."""

from __future__ import annotations

import math

import numpy as np

from sdk.kernels.base import Call, Lowered, Ref, Refused, Site
from sdk.kernels.fold import Folded, fold, pairs, stream
from sdk.kernels.geometry import conv_window, flatten_pointwise
from sdk.kernels.ops.conv import dense_overlap, ends, refuse_variable_weights
from sdk.kernels.sizing import Window, ask


def conv2d_s8(site: Site) -> Lowered:
    """conv2d on int8: columns of three pixels; a single output pixel is a dense layer."""
    refused = refuse_variable_weights(site)
    if refused:
        return refused
    weights = site.constant(1)
    assert weights is not None
    if site.node.attrs.get("groups", 1) != 1:
        return Refused("it has groups", "use the portable kernel")
    window = flatten_pointwise(conv_window(site, weights.shape[1:3]))
    vector = weights.reshape(len(weights), -1)
    sees_all = weights.shape[1:3] == (window.in_h, window.in_w) and (window.pad_top, window.pad_left) == (0, 0)
    if (window.out_h, window.out_w) == (1, 1) and (sees_all or window.in_h * window.in_w == 1):
        return _vector(site, vector, window.batch)
    return columns(site, depth_order(weights), window)


def depth_order(weights: np.ndarray) -> np.ndarray:
    """Weights [O, KH, KW, C] as [O, K] in the order conv2d_s8_dsp.c unpacks: whole words of every kernel row, then the bytes left of each."""
    rows = weights.reshape(len(weights), weights.shape[1], -1)
    whole = rows.shape[2] // 4 * 4
    return np.concatenate([rows[:, :, :whole].reshape(len(rows), -1), rows[:, :, whole:].reshape(len(rows), -1)], axis=1)


def dense_s8(site: Site) -> Lowered:
    """dense on int8: one vector without scratch; several rows are the pixels of a 1x1 convolution."""
    refused = refuse_variable_weights(site)
    if refused:
        return refused
    weights, quant = site.constant(1), site.tensor(1).quant
    assert weights is not None and quant is not None
    if any(quant.zero_point):
        return Refused("its weights have a zero point", "quantise the weights symmetrically")
    channels, depth = weights.shape
    rows = math.prod(site.tensor(0).shape[:-1])
    if rows < 3:
        return _vector(site, weights, rows)
    return columns(site, weights, Window(1, 1, rows, depth, 1, rows, channels, 1, 1, 1, 1, 1, 1, 0, 0))


def _packed(site: Site, matrix: np.ndarray, group: int) -> tuple[Folded, np.ndarray] | Refused:
    folded = fold(site, matrix)
    if isinstance(folded, Refused):
        return folded
    packed = pairs(folded)
    if isinstance(packed, Refused):
        return packed
    return folded, stream(*packed, folded, group)


def columns(site: Site, matrix: np.ndarray, window: Window) -> Lowered:
    """The call of conv2d_s8_dsp for weights [N, K], K in the order of the window."""
    packed = _packed(site, matrix, 2)
    if isinstance(packed, Refused):
        return packed
    folded, constants = packed
    fields = (
        *ends(site),
        ("scratch", Ref("scratch")),
        ("window", window.values()),
        ("input_zero_point", site.tensor(0).zero_point),
        ("low", folded.clamp[0]), ("high", folded.clamp[1]),
        ("stream", Ref("const", "stream")),
    )  # fmt: skip
    return Call(site.node.name, "embarq_conv2d_s8_dsp" + folded.rounding, "embarq_conv2d_s8_dsp_params", fields,
                {"stream": constants}, ask("embarq_conv2d_s8_dsp_scratch_bytes", window), {0: ask("embarq_conv2d_s8_dsp_overlap_bytes", window)},
                ("conv2d_s8_dsp.c", "matrix_s8_dsp.c"))  # fmt: skip


def _vector(site: Site, matrix: np.ndarray, rows: int) -> Lowered:
    packed = _packed(site, matrix, 4)
    if isinstance(packed, Refused):
        return packed
    folded, constants = packed
    channels, depth = matrix.shape
    fields = (
        *ends(site),
        ("scratch", Ref("scratch")),
        ("rows", rows), ("depth", depth), ("channels", channels),
        ("low", folded.clamp[0]), ("high", folded.clamp[1]),
        ("stream", Ref("const", "stream")),
    )  # fmt: skip
    return Call(site.node.name, "embarq_dense_s8_dsp" + folded.rounding, "embarq_dense_s8_dsp_params", fields,
                {"stream": constants}, -(-depth // 4) * 4 if depth % 4 else 0, dense_overlap(rows, depth, channels),
                ("dense_s8_dsp.c", "matrix_s8_dsp.c"))  # fmt: skip
