"""Choosing the range that 8 bits span: laws that hold for any data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.errors import UsageError
from sdk.graph.quantmath import dequantise_array, quantise_array
from sdk.passes.ranges import BINS, CHOOSERS, Histogram, chooser, int8_quant, int16_quant
from tests.strategies import seeds


@st.composite
def data(draw: st.DrawFn) -> np.ndarray:
    """Values as activations have them: normal, rectified, heavy-tailed, few distinct, with an outlier, tiny or huge."""
    rng = np.random.default_rng(draw(seeds))
    x = rng.standard_normal(draw(st.integers(1, 3000)))
    kind = draw(st.sampled_from(["normal", "relu", "cauchy", "few", "outlier", "offset"]))
    match kind:
        case "relu":
            x = np.maximum(x, 0)
        case "cauchy":
            x = np.clip(x / np.maximum(np.abs(rng.standard_normal(x.size)), 1e-3), -1e3, 1e3)
        case "few":
            x = np.round(x)
        case "outlier":
            x[0] = 100.0
        case "offset":
            x = x + 20
    return (x * 10.0 ** draw(st.integers(-6, 6))).astype(np.float32)


def rms(x: np.ndarray, low: float, high: float) -> float:
    """What quantising `x` in the range costs, measured on the values themselves."""
    quant = int8_quant(low, high)
    error = dequantise_array(quantise_array(x, quant.scale[0], quant.zero_point[0], "int8"), quant).astype(np.float64) - x
    return float(np.sqrt(np.mean(error**2)))


@settings(max_examples=60, deadline=None)
@given(data())
def test_mse_is_never_worse_than_minmax(x: np.ndarray) -> None:
    """Exactly so on the histogram; on the values, which lie half a bin from their bin's middle, within one bin."""
    histogram, low, high = Histogram.of(x), float(x.min()), float(x.max())
    chosen = chooser("mse")(low, high, histogram, 99.9)
    middles = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    seen = np.repeat(middles, histogram.counts)
    assert rms(seen, *chosen) <= rms(seen, low, high) * (1 + 1e-6)
    assert rms(x, *chosen) <= rms(x, low, high) * (1 + 1e-6) + 2 * histogram.limit / BINS


def test_mse_cuts_off_an_outlier_and_keeps_an_even_spread() -> None:
    rng = np.random.default_rng(0)
    bulk = rng.standard_normal(20_000).astype(np.float32)
    often = Histogram(64.0, Histogram.of(bulk).grown(64.0).counts * 1000)  # one value in twenty million is an outlier
    low, high = chooser("mse")(float(bulk.min()), 40.0, often.add(np.array([40.0], np.float32)), 99.9)
    assert float(bulk.max()) * 0.8 < high < 12 and rms(bulk, low, high) < 0.4 * rms(bulk, float(bulk.min()), 40.0)
    even = rng.uniform(-1, 1, 20_000).astype(np.float32)
    low, high = chooser("mse")(-1, 1, Histogram.of(even), 99.9)
    assert high - low > 1.96


@settings(max_examples=60, deadline=None)
@given(data(), st.floats(60, 100))
def test_percentile_lies_inside_minmax_and_keeps_its_share(x: np.ndarray, percentile: float) -> None:
    histogram, low, high = Histogram.of(x), float(x.min()), float(x.max())
    a, b = chooser("percentile")(low, high, histogram, percentile)
    assert low <= a and b <= high
    tail = (1 - percentile / 100) * x.size + 1e-6
    bin_width = 2 * histogram.limit / BINS
    assert (x < a - bin_width).sum() <= tail and (x > b + bin_width).sum() <= tail


@settings(max_examples=40, deadline=None)
@given(data(), data())
def test_a_histogram_of_two_batches_is_that_of_all(x: np.ndarray, y: np.ndarray) -> None:
    both, all_ = Histogram.of(x).add(y), Histogram.of(np.concatenate([x, y]))
    assert both.limit == all_.limit and both.counts.sum() == all_.counts.sum() == x.size + y.size
    # a bin of the smaller histogram may be cut on either side of an edge of the larger one: never further
    assert np.abs(np.cumsum(both.counts) - np.cumsum(all_.counts)).max() <= all_.counts.max() + both.counts.max()


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_int8_holds_zero_exactly_and_both_ends_within_a_step(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    quant = int8_quant(low, high)
    zero = quantise_array(np.zeros(1, np.float32), quant.scale[0], quant.zero_point[0], "int8")
    assert dequantise_array(zero, quant)[0] == 0.0
    ends = np.array([low, high], np.float32)
    error = dequantise_array(quantise_array(ends, quant.scale[0], quant.zero_point[0], "int8"), quant) - ends
    assert np.abs(error).max() <= quant.scale[0] * 1.001


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_int16_is_symmetric_with_the_smallest_power_of_two_that_fits(a: float, b: float) -> None:
    quant, peak = int16_quant(min(a, b), max(a, b)), max(abs(a), abs(b))
    scale = quant.scale[0]
    assert quant.zero_point == (0,) and np.frexp(scale)[0] == 0.5
    if peak > 1e-20:
        assert scale * 32767 >= peak * 0.9999 and scale / 2 * 32767 < peak * 1.0001


def test_values_that_are_all_zero_get_some_scale() -> None:
    assert int8_quant(0, 0).scale[0] > 0 and int16_quant(0, 0).scale[0] > 0
    for choose in CHOOSERS.values():
        assert choose(0.0, 0.0, Histogram.of(np.zeros(5, np.float32)), 99.9) == (0.0, 0.0)


def test_an_unknown_choice_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="range 'entropy' is unknown; choose one of minmax, percentile, mse"):
        chooser("entropy")
