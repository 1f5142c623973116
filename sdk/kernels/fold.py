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


@dataclass(frozen=True)
class Folded:
    """`out = (smmlar(2 A, mult, offset - (A < 0 if signed)) >> shift)` saturated to int8, per channel.

    start: bias with the input's zero point folded in, int64 [N]; weights int64 [N, K]; low, high: worst case of A, int64 [N].
    """

    weights: np.ndarray
    start: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mult: np.ndarray
    offset: np.ndarray
    shift: np.ndarray
    signed: bool  # halves below zero must be rounded away from it
    clamp: tuple[int, int]


def fold(site: Site, weights: np.ndarray) -> Folded | Refused:
    """Fold zero points into bias and offset. `weights` [N, K] int8, K in the order the kernel multiplies in."""
    wide = weights.astype(np.int64)
    start = bias(site, len(wide)).astype(np.int64) - site.tensor(0).zero_point * wide.sum(axis=1)
    low = start + np.where(wide > 0, -128 * wide, 127 * wide).sum(axis=1)
    high = start + np.where(wide > 0, 127 * wide, -128 * wide).sum(axis=1)
    mult, shift = (np.array(v, np.int64) for v in qm.conv_multipliers(site.node, site.graph))
    clamp, zero = qm.output_range(site.node, site.output), site.output.zero_point
    ends = [qm.requantise(qm.wrap_int32(v), mult, shift, zero, *clamp, "int8").astype(np.int64) for v in (low, high)]
    same = (ends[0] == ends[1]) & (np.maximum(-low, high) < 2**31)
    wide, start, low, high = (np.where(same[:, None] if v.ndim == 2 else same, 0, v) for v in (wide, start, low, high))
    right = np.where(same, 1, -shift)
    signed = clamp[0] < zero
    if (right < (1 if signed else 0)).any():
        return Refused("its scales multiply the sum by half or more, which the folded rounding cannot", "use the portable kernel")
    if (right > MOST_SHIFT).any():
        return Refused("its scales shrink a channel's sum by more than 2**22", "use the portable kernel")
    half = (np.int64(1) << right) >> 1
    offset = np.where(same, 2 * ends[0] + 1, half + (zero << right))  # a channel that is constant is its value and a half
    return Folded(wide, start, low, high, np.where(same, 0, mult), offset, right, signed, clamp)


def pairs(folded: Folded) -> tuple[np.ndarray, np.ndarray] | Refused:
    """`(words, start)` for the pair trick of matrix_s8_dsp.h: int32 [N, K / 4 rounded up] weights, int32 [N] accumulator starts."""
    if (folded.low < -(2**23)).any() or (folded.high >= 2**23).any():
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
