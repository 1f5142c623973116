"""Depthwise convolution for cores with DSP instructions: rows in pairs, four channels at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sdk.kernels.base import Call, Lowered, Ref, Refused, Site
from sdk.kernels.fold import Folded, fold, to_int32
from sdk.kernels.geometry import conv_window, lay_down
from sdk.kernels.ops.conv import ends, refuse_variable_weights
from sdk.kernels.ops.conv_dsp import columns, depth_order
from sdk.kernels.sizing import Window, ask

GROUP = 4


def depthwise_s8(site: Site) -> Lowered:
    """depthwise_conv2d on int8 with one filter a channel; of a one-channel image it is a convolution."""
    refused = refuse_variable_weights(site)
    if refused:
        return refused
    weights = site.constant(1)
    assert weights is not None
    _, height, width, channels = weights.shape
    window = conv_window(site, (height, width))
    if window.in_c == 1:
        return columns(site, depth_order(weights.transpose(3, 1, 2, 0)), window)
    if site.node.attrs["multiplier"] != 1 or channels % GROUP:
        return Refused("it has several filters a channel, or channels that are not a multiple of 4", "use the portable kernel")
    if (window.dilation_h, window.dilation_w) != (1, 1):
        return Refused("it is dilated", "use the portable kernel")
    window = lay_down(window)
    height, width = window.kernel_h, window.kernel_w
    folded = fold(site, weights.reshape(height * width, channels).T)
    if isinstance(folded, Refused):
        return folded
    if (folded.low < -(2**30)).any() or (folded.high >= 2**30).any():
        return Refused("a channel's sum may leave 31 bits", "use the portable kernel")
    call = _call(site, window, folded, 0)
    kept_rows = ask("embarq_depthwise_s8_dsp_kept_rows", window)
    return replace(call, other=_call(site, window, folded, kept_rows)) if kept_rows else call


def _call(site: Site, window: Window, folded: Folded, kept_rows: int) -> Call:
    """The call that copies `kept_rows` rows of the input before it writes over them, or none."""
    fields = (
        *ends(site),
        ("scratch", Ref("scratch")),
        ("window", window.values()),
        ("input_zero_point", site.tensor(0).zero_point),
        ("low", folded.clamp[0]), ("high", folded.clamp[1]),
        ("kept_rows", kept_rows),
        ("stream", Ref("const", "stream")),
    )  # fmt: skip
    return Call(site.node.name, "embarq_depthwise_s8_dsp" + folded.rounding, "embarq_depthwise_s8_dsp_params", fields,
                {"stream": stream(folded, window.kernel_h, window.kernel_w)}, ask("embarq_depthwise_s8_dsp_scratch_bytes", window, kept_rows),
                {0: ask("embarq_depthwise_s8_dsp_overlap_bytes", window, kept_rows)},
                ("depthwise_s8_dsp.c", "depthwise_rows_s8_dsp.c"))  # fmt: skip


def stream(folded: Folded, height: int, width: int) -> np.ndarray:
    """int32: per group of four channels 4 starts, the words of the taps, then mult, offset, shift of each.

    A 3x3 kernel has a kernel column's pairs and single side by side; others have all pairs, then all singles.
    """
    channels = len(folded.weights)
    taps = 2 * folded.weights.reshape(channels // GROUP, GROUP, height, width)
    pairs = [_pair(taps[:, :, 2 * j], taps[:, :, 2 * j + 1]) for j in range(height // 2)]  # each [groups, 4, width]
    singles = [_pair(taps[:, (0, 1), -1], taps[:, (2, 3), -1])] if height % 2 else []  # [groups, 2, width]
    if (height, width) == (3, 3):
        words = np.concatenate([*pairs, *singles], axis=1).swapaxes(1, 2).reshape(channels // GROUP, -1)
    else:
        parts = [np.stack(pairs, axis=1).transpose(0, 3, 1, 2)] if pairs else []  # [groups, width, pair, 4]
        words = np.concatenate([p.reshape(channels // GROUP, -1) for p in (*parts, *(s.swapaxes(1, 2) for s in singles))], axis=1)
    start = 2 * folded.start.reshape(-1, GROUP)
    tail = np.stack([folded.mult, folded.offset, folded.shift], axis=1).reshape(-1, 3 * GROUP)
    return to_int32(np.concatenate([start, words, tail], axis=1).reshape(-1))


def _pair(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return (low & 0xFFFF) | ((high & 0xFFFF) << 16)
