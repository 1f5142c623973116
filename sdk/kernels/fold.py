"""Weights and multipliers folded for the DSP kernels, with the proofs that make folding exact.

Everything is int64 arithmetic on the exact worst case: per output channel the accumulator lies in [low, high] for every
possible input, so a channel either is proven to fit the fast kernel or the layer is given to the portable one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdk.graph import quantmath as qm
from sdk.kernels.base import Refused, Site
from sdk.kernels.quant import bias

#: Largest right shift the folded rounding takes: (zero_point << e) and the sum with it stay inside int32.
MOST_SHIFT = 22


#: Sums the pair trick can hold.
SUM_24 = (-(2**23), 2**23 - 1)


@dataclass(frozen=True)
class Folded:
    """`out = (high(2 A * mult) + offset) >> shift` saturated to int8, per channel; `rounding` says how `high` takes the upper word.

    start: bias with the input's zero point folded in, int64 [N]; weights int64 [N, K]; low, high: worst case of A, int64 [N].
    """

    weights: np.ndarray
    start: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mult: np.ndarray
    offset: np.ndarray
    shift: np.ndarray
    rounding: str  # "": rounded, and halves below zero away from it; "_relu": rounded; "_once": cut
    clamp: tuple[int, int]


def fold(site: Site, weights: np.ndarray) -> Folded | Refused:
    """Fold zero points into bias and offset. `weights` [N, K] int8, K in the order the kernel multiplies in."""
    wide = weights.astype(np.int64)
    start = bias(site, len(wide)).astype(np.int64) - site.tensor(0).zero_point * wide.sum(axis=1)
    low = start + np.where(wide > 0, -128 * wide, 127 * wide).sum(axis=1)
    high = start + np.where(wide > 0, 127 * wide, -128 * wide).sum(axis=1)
    if max(-low.min(initial=0), high.max(initial=0)) >= 2**31:
        return Refused("a channel's sum may leave 32 bits", "use the portable kernel")
    scaling = _scale_once(site) if site.node.op == "dense" else _scale_twice(site, low, high)
    if isinstance(scaling, Refused):
        return scaling
    mult, shift, ends, rounding = scaling
    clamp, zero = qm.output_range(site.node, site.output), site.output.zero_point
    # A channel whose result is the same for every input is a constant: no weights, and an offset of that value and a half.
    # Pruned channels are such; their scales would not fit the folded rounding.
    same = (ends[0] == ends[1]) if ends else np.zeros(len(wide), bool)
    wide, start, low, high = (np.where(same[:, None] if v.ndim == 2 else same, 0, v) for v in (wide, start, low, high))
    right = np.where(same, 1, -shift)
    if (right < (0 if rounding else 1)).any():
        return Refused("its scales multiply the sum by half or more, which the folded rounding cannot", "use the portable kernel")
    if (right > MOST_SHIFT).any():
        return Refused("its scales shrink a channel's sum by more than 2**22", "use the portable kernel")
    offset = ((np.int64(1) << right) >> 1) + (zero << right)
    if ends:
        offset = np.where(same, 2 * ends[0] + 1, offset)
    return Folded(wide, start, low, high, np.where(same, 0, mult), offset, right, rounding, clamp)


Scaling = tuple[np.ndarray, np.ndarray, "tuple[np.ndarray, np.ndarray] | None", str]


def _scale_twice(site: Site, low: np.ndarray, high: np.ndarray) -> Scaling:
    """Convolutions: LiteRT's multipliers, and the outputs at both ends of each channel's range."""
    mult, shift = (np.array(v, np.int64) for v in qm.conv_multipliers(site.node, site.graph))
    clamp, zero = qm.output_range(site.node, site.output), site.output.zero_point
    ends = [qm.requantise(v, mult, shift, zero, *clamp, "int8").astype(np.int64) for v in (low, high)]
    return mult, shift, (ends[0], ends[1]), "" if clamp[0] < zero else "_relu"


def _scale_once(site: Site) -> Scaling | Refused:
    """dense: multipliers with which cutting gives LiteRT's float64 rounding for every sum of 24 bits."""
    out, found = site.output, {}
    scales = qm.effective_scales(site.node, site.graph)
    for scale in dict.fromkeys(scales):
        pair = _cut_multiplier(scale, out.zero_point)
        if pair is None:
            return Refused("its scale cannot be rounded once in 32 bits", "use the portable kernel")
        found[scale] = pair
    mult, shift = (np.array([found[s][i] for s in scales], np.int64) for i in (0, 1))
    return mult, shift, None, "_once"


def _cut_multiplier(scale: float, zero: int) -> tuple[int, int] | None:
    """A multiplier for which `((2 A * mult >> 32) + offset) >> -shift` is `round(A * scale) + zero`; both grow with A, so it is
    enough that they agree on both sides of every step."""
    mult, shift = qm.quantize_multiplier(scale)
    right = -shift
    if not 1 <= right <= MOST_SHIFT:
        return None
    steps = np.arange(-128 - zero, 129 - zero)
    centre = np.round((steps - 0.5) / scale)[:, None] + np.arange(-2, 3)
    sums = np.unique(np.clip(centre, *SUM_24)).astype(np.int64)
    want = np.clip(qm.scale_once(sums, scale) + zero, -128, 127)
    offset = (1 << right >> 1) + (zero << right)
    for nudge in (0, 1, -1, 2, -2):
        have = np.clip(((2 * sums * (mult + nudge) >> 32) + offset) >> right, -128, 127)
        if np.array_equal(have, want):
            return mult + nudge, shift
    return None


def pairs(folded: Folded) -> tuple[np.ndarray, np.ndarray] | Refused:
    """`(words, start)` for the pair trick of matrix_s8_dsp.h: int32 [N, K / 4 rounded up] weights, int32 [N] accumulator starts."""
    if (folded.low < SUM_24[0]).any() or (folded.high > SUM_24[1]).any():
        return Refused("a channel's sum may leave 24 bits", "use the portable kernel")
    count, depth = folded.weights.shape
    quads = np.zeros((count, -(-depth // 4) * 4), np.int64)
    quads[:, :depth] = folded.weights
    even, odd = quads[:, 0::2], quads[:, 1::2]
    halves = 256 * even + odd
    if (halves < -32768).any():
        return Refused("weights of -128 stand side by side", "quantise the weights to -127..127")
    words = (halves[:, 0::2] & 0xFFFF) | ((halves[:, 1::2] & 0xFFFF) << 16)
    start = 256 * folded.start - 127 * odd.sum(axis=1)
    return to_int32(words), to_int32(start)


def to_int32(values: np.ndarray) -> np.ndarray:
    """int64 modulo 2**32 as int32."""
    return (np.asarray(values, np.int64) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def stream(words: np.ndarray, start: np.ndarray, folded: Folded, group: int) -> np.ndarray:
    """The constants of a matrix kernel in the order it reads them, `group` channels at a time.

    Per group: starts, then the words of the channels interleaved, then mult, offset, shift of each channel. Bit 31 of the
    last shift marks the end of the whole groups, and of the last group that dummy channels fill up.
    """
    channels, quads = words.shape
    whole = channels // group * group
    total = -(-channels // group) * group
    out = np.zeros((total // group, group * (4 + quads)), np.int64)
    for index in range(total // group):
        own = slice(index * group, min((index + 1) * group, channels))
        size = own.stop - own.start
        block = np.zeros((group, quads), np.int64)
        block[:size] = words[own]
        tail = np.zeros((group, 3), np.int64)
        tail[:size] = np.stack([folded.mult[own], folded.offset[own], folded.shift[own]], axis=1)
        if (index + 1) * group in (whole, total):
            tail[-1, 2] |= 1 << 31
        out[index, :size] = start[own]
        out[index, group : group + group * quads] = block.T.reshape(-1)
        out[index, group + group * quads :] = tail.reshape(-1)
    return to_int32(out.reshape(-1))
