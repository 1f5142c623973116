"""From observed values to a scale and a zero point, in LiteRT's rules.

int8: `real = scale * (q - zero_point)`, q in [-128, 127], zero exactly representable.
int16: zero point 0, q in [-32767, 32767], the scale a power of two. Three ways to choose the range that the integers span: everything seen
(`minmax`), a share of it (`percentile`), or the range of least mean square error (`mse`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from sdk.errors import UsageError
from sdk.graph.ir import Quant

#: Bins of a histogram; they span [-limit, limit], so that a range takes at least a quarter of them: 8 bins a step.
BINS = 8192
_TINY = 1e-30


@dataclass(frozen=True)
class Histogram:
    """Counts of values in BINS equal bins over [-limit, limit]; `limit` is a power of two and doubles when needed."""

    limit: float
    counts: np.ndarray  # [BINS] int64

    @staticmethod
    def of(x: np.ndarray) -> Histogram:
        """The histogram of finite values."""
        peak = float(np.max(np.abs(x), initial=0.0))
        limit = float(2.0 ** np.ceil(np.log2(max(peak, 1e-20))))
        return Histogram(limit, _count(x, limit))

    def add(self, x: np.ndarray) -> Histogram:
        """This histogram with more values in it."""
        other = Histogram.of(x)
        limit = max(self.limit, other.limit)
        return Histogram(limit, self.grown(limit).counts + other.grown(limit).counts)

    def grown(self, limit: float) -> Histogram:
        """The same counts over [-limit, limit], `limit` a power of two times this one's: neighbouring bins are merged."""
        counts, have = self.counts, self.limit
        while have < limit:
            merged = counts.reshape(-1, 2).sum(1)
            counts = np.pad(merged, BINS // 4)
            have *= 2
        return Histogram(have, counts)

    @property
    def edges(self) -> np.ndarray:
        """[BINS + 1] bin edges."""
        return np.linspace(-self.limit, self.limit, BINS + 1)


def _count(x: np.ndarray, limit: float) -> np.ndarray:
    index = ((x.ravel().astype(np.float64) + limit) * (BINS / (2 * limit))).astype(np.int64)
    return np.bincount(np.clip(index, 0, BINS - 1), minlength=BINS)


def minmax(low: float, high: float, histogram: Histogram | None, percentile: float) -> tuple[float, float]:
    """Everything that was seen."""
    return low, high


def percentile_range(low: float, high: float, histogram: Histogram | None, percentile: float) -> tuple[float, float]:
    """All but `100 - percentile` per cent of the values on either side."""
    if histogram is None or histogram.counts.sum() == 0:
        return low, high
    total = np.cumsum(histogram.counts)
    tail = (1 - percentile / 100) * total[-1]
    first = int(np.searchsorted(total, tail, side="right"))
    last = int(np.searchsorted(total, total[-1] - tail, side="left"))
    return max(low, float(histogram.edges[first])), min(high, float(histogram.edges[min(last, BINS - 1) + 1]))


def mse_range(low: float, high: float, histogram: Histogram | None, percentile: float) -> tuple[float, float]:
    """The range inside [low, high] with the least mean square error of rounding and clipping to 8 bits, [low, high] itself included."""
    if histogram is None or histogram.counts.sum() == 0:
        return low, high
    used = np.flatnonzero(histogram.counts)
    centres = (histogram.edges[:-1] + histogram.edges[1:])[used] / 2
    weights = histogram.counts[used].astype(np.float64)
    low, high = min(low, 0.0), max(high, 0.0)
    best = (low, high)
    for span in (np.linspace(1.0, 0.1, 19), np.linspace(1.06, 0.94, 13)):  # coarse over the whole, then fine around the best
        lows = sorted({max(low, best[0] * s) for s in span})
        highs = sorted({min(high, best[1] * s) for s in span})
        best = min(((a, b) for a in lows for b in highs), key=lambda r: (_mse(centres, weights, *r), r[0] - r[1]))
    return best


def _mse(x: np.ndarray, weights: np.ndarray, low: float, high: float) -> float:
    """Sum of squared errors of values `x`, each as often as `weights` says, in the very code that [low, high] gives."""
    if high <= low:
        return float("inf")
    quant = int8_quant(low, high)
    scale, zero_point = quant.scale[0], quant.zero_point[0]
    error = np.clip(np.rint(x / scale), -128 - zero_point, 127 - zero_point) * scale - x
    return float(np.dot(weights, error * error))


Chooser = Callable[[float, float, "Histogram | None", float], tuple[float, float]]
#: The ways to choose a range, by the name the options know them under.
CHOOSERS: MappingProxyType[str, Chooser] = MappingProxyType({"minmax": minmax, "percentile": percentile_range, "mse": mse_range})


def chooser(name: str) -> Chooser:
    """The function that chooses a range; UsageError for an unknown name."""
    if name not in CHOOSERS:
        raise UsageError(f"range {name!r} is unknown; choose one of {', '.join(CHOOSERS)}")
    return CHOOSERS[name]


def int8_quant(low: float, high: float) -> Quant:
    """Asymmetric int8 for [low, high], widened to hold 0: `int8_quant(0, 2.55)` is scale 0.01, zero point -128."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = float(np.float32((high - low) / 255))
    if scale < _TINY:  # only zeros were seen: any scale will do
        return Quant((1 / 255,), (-128,))
    return Quant((scale,), (int(np.clip(np.round(-128 - low / scale), -128, 127)),))


def int16_quant(low: float, high: float) -> Quant:
    """Symmetric int16 for [low, high]: zero point 0, the scale the smallest power of two that holds the larger side.

    Powers of two cost at most one of the eight bits more than int8 has, and buy exactness: a dense layer between two of them is
    rescaled by its weight's scale and a shift, 24 bits of fraction, which firmware multiplies by without any rounding of its own.
    `int16_quant(-1, 3)` is scale 2**-13: 3 is 24,576.
    """
    peak = max(abs(float(low)), abs(float(high)))
    if peak / 32767 < _TINY:
        return Quant((2.0**-15,), (0,))
    return Quant((float(2.0 ** np.ceil(np.log2(peak / 32767))),), (0,))


def quant_for(dtype: str, low: float, high: float) -> Quant:
    """`int8_quant` or `int16_quant`."""
    return int16_quant(low, high) if dtype == "int16" else int8_quant(low, high)
