"""Linear forms in integers that equal an int8 function of two bytes for every pair of inputs.

A quantised sum has 65,536 possible inputs, so a cheaper formula can be proven by trying them all.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

#: Small changes tried on the two factors, nearest first.
NUDGES = sorted(itertools.product(range(-3, 4), repeat=2), key=lambda n: abs(n[0]) + abs(n[1]))


@dataclass(frozen=True)
class Linear:
    """`clip((x * a + y * b + c) >> shift, -128, 127)`."""

    a: int
    b: int
    c: int
    shift: int

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.clip((x * self.a + y * self.b + self.c) >> self.shift, -128, 127)


def fit(want: np.ndarray, ratio_x: float, ratio_y: float, constant: float) -> Linear | None:
    """A `Linear` equal to `want` [256, 256] (x, y from -128 up) everywhere, near `ratio_x * x + ratio_y * y + constant`; None if none is found."""
    span = 128 * (abs(ratio_x) + abs(ratio_y)) + abs(constant) + 1
    shift = 30 - int(np.ceil(np.log2(span)))
    if not 8 <= shift <= 30:
        return None
    x, y = (v.astype(np.int64) for v in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128), indexing="ij"))
    real = ratio_x * x + ratio_y * y + constant
    close = np.abs(real - np.floor(real) - 0.5) < 2.0**-10  # only near a step can formulas differ
    xs, ys, wants = x[close], y[close], want[close]
    for candidate in _candidates(xs, ys, wants, ratio_x, ratio_y, constant, shift):
        if np.array_equal(candidate(x, y), want):
            return candidate
    return None


def _candidates(x: np.ndarray, y: np.ndarray, want: np.ndarray, ratio_x: float, ratio_y: float, constant: float, shift: int) -> Iterator[Linear]:
    """For each pair of factors the constant, if any, that puts every given point on its side of its step."""
    one = 1 << shift
    for nudge_x, nudge_y in NUDGES:
        a, b = round(ratio_x * one) + nudge_x, round(ratio_y * one) + nudge_y
        linear = x * a + y * b
        # want <= (linear + c) / 2**shift < want + 1, except that saturated outputs are bounded on one side only
        least = np.where(want > -128, want * one - linear, np.iinfo(np.int64).min).max(initial=np.iinfo(np.int64).min)
        most = np.where(want < 127, (want + 1) * one - 1 - linear, np.iinfo(np.int64).max).min(initial=np.iinfo(np.int64).max)
        middle = round((constant + 0.5) * one)
        if least <= most:
            yield Linear(a, b, int(min(max(middle, least), most)), shift)
