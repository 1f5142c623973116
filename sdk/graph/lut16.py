"""int16 functions by table: 513 values and a straight line between them, as LiteRT computes them.

A table covers the 65536 possible inputs in 512 steps of 128; `lookup` interpolates in integers, so a device that is given the
table gives the same result.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sdk.graph import quantmath as qm

_STEPS = 512


def build(function: Callable[[np.ndarray], np.ndarray], in_scale: float, out_scale: float, zero_in: int = 0, kind: type = np.float32) -> np.ndarray:
    """int16[513] of `function` (arrays of `kind` to arrays of `kind`). Each sample leans to halve the error between two samples."""
    low, high = kind(in_scale) * kind(-32768 - zero_in), kind(in_scale) * kind(32767 - zero_in)
    step = (high - low) / kind(_STEPS)
    per_unit = kind(65536) / (kind(out_scale) * kind(32767) - kind(out_scale) * kind(-32768))
    index: np.ndarray = np.arange(_STEPS).astype(kind)
    with np.errstate(all="ignore"):
        here, middle = function(low + index * step), function(low + index * step + step / kind(2))
        after = function(low + (index + kind(1)) * step)
        sample = qm.round_away(here * per_unit)
        line = qm.round_away((after * per_unit + sample) / kind(2))
        lean = qm.round_away((line - qm.round_away(middle * per_unit)) / kind(2))
        last = qm.round_away(function(np.array([high], kind)) * per_unit)
        table = np.concatenate([sample - lean, last])
    return np.clip(np.nan_to_num(table, nan=0.0), -32768, 32767).astype(np.int16)


def lookup(q: np.ndarray, table: np.ndarray) -> np.ndarray:
    """`table` at the int16 inputs `q`; int64 array of int16 values."""
    q, table = np.asarray(q, np.int64), table.astype(np.int64)
    index = 256 + (q >> 7)
    base = table[index]
    slope = ((table[index + 1] - base + 32768) & 0xFFFF) - 32768  # an int16 in LiteRT: a jump over the whole range wraps
    return base + ((slope * (q & 0x7F) + 64) >> 7)


def sigmoid_table() -> np.ndarray:
    """sigmoid(i / 24) * 2**16 for i = 0..255, of which `sigmoid` and `tanh` are made; leaning as in `build`."""
    index = np.arange(256)
    here, middle, after = (65536 / (1 + np.exp(-(index + part) / 24)) for part in (0, 0.5, 1))
    table = np.floor(here + (middle - (here + after) / 2) / 2 + 0.5).astype(np.int64)
    table[255] = 65535
    return table


def _input_multiplier(scale: float, shifts: tuple[int, ...]) -> tuple[int, int]:
    """`(mult, right_shift)` that takes the input to steps of 1 / (3 * 4096), exactly for the scales named by `shifts`."""
    power = float(np.round(np.log2(scale)))
    if abs(np.log2(scale) - power) < 1e-3 and 12 + power in shifts:
        return 3 << int(12 + power), 0
    real, shift = scale * 4096.0 * 3.0, 0
    while real <= 32767.0 / 2.0 and shift <= 30:
        real, shift = real * 2.0, shift + 1
    return int(real), shift


def _steps(q: np.ndarray, mult: int, shift: int) -> np.ndarray:
    return (np.asarray(q, np.int64) * mult + ((1 << shift) >> 1)) >> shift


def _interpolate(size: np.ndarray, bits: int, top: int) -> np.ndarray:
    table, index = sigmoid_table(), np.minimum(size >> bits, 254)
    line = (table[index] << bits) + (size & ((1 << bits) - 1)) * (table[index + 1] - table[index])
    return np.where(size >> bits >= 255, top, line)


def sigmoid(q: np.ndarray, scale: float) -> np.ndarray:
    """sigmoid of int16 values; the result's scale is 1 / 32768."""
    x = _steps(q, *_input_multiplier(scale, (0,)))
    part = _interpolate(np.abs(x), 9, 0x7FFF << 10)
    return np.where(x >= 0, part + (1 << 9), (1 << 25) - part + (1 << 9) - 1) >> 10


def tanh(q: np.ndarray, scale: float) -> np.ndarray:
    """tanh of int16 values as 2 * sigmoid(2 x) - 1; the result's scale is 1 / 32768."""
    x = _steps(q, *_input_multiplier(scale, (0, 1)))
    part = _interpolate(np.abs(x), 8, 0xFFFF << 8)
    return np.where(x >= 0, part - (1 << 23) + (1 << 7), (1 << 23) - part + (1 << 7) - 1) >> 8
