"""The arithmetic that makes the fast kernels exact, checked against LiteRT's integers; and that what cannot be folded is refused."""

from __future__ import annotations

import numpy as np
import pytest

from sdk.graph import quantmath as qm
from sdk.graph.ir import Quant, Tensor
from sdk.kernels.base import Refused, Site
from sdk.kernels.fold import MOST_SHIFT, SUM_24, Folded, fold, pairs, stream
from sdk.kernels.linear import fit
from sdk.kernels.ops.conv_dsp import depth_order
from sdk.kernels.ops.elementwise import _all_sums
from tests.kernel_cases import NONE, Maker
from tests.kernel_harness import DSP, Case


def conv(weights: np.ndarray, bias: np.ndarray, scale: float = 0.001, zero: tuple[int, int] = (-3, 5), activation: str = "none") -> Case:
    """A 1x1 convolution of a 2x3 image; `scale` is what a sum is multiplied by."""
    make = Maker()
    channels, depth = weights.shape
    w = Tensor("w", (channels, 1, 1, depth), "int8", Quant((1.0,), (0,)), weights.reshape(channels, 1, 1, depth).astype(np.int8))
    b = Tensor("b", (channels,), "int32", None, bias.astype(np.int32))
    x = make.tensor("x", (1, 2, 3, depth), "int8", scale, zero[0])
    return make.case("conv2d", [x, w, b], DSP, None, Quant((1.0,), (zero[1],)), stride=(1, 1), padding=NONE, activation=activation)


def folded(case: Case) -> Folded | Refused:
    """`fold` of the case's node."""
    weights = case.graph["w"].data
    assert weights is not None
    return fold(Site(case.graph, case.node), weights.reshape(len(weights), -1))


def device(f: Folded, sums: np.ndarray) -> np.ndarray:
    """What the instructions compute from exact sums [..., N]: SMMLAR or SMMLA, ASR, SSAT."""
    product = 2 * sums * f.mult
    high = product >> 32 if f.rounding == "_once" else (product + (1 << 31)) >> 32
    correction = (sums >> 31) if f.rounding == "" else 0
    total = high + f.offset + correction
    assert np.abs(total).max() < 2**31, "an intermediate value leaves int32"
    return np.clip(np.clip(total >> f.shift, -128, 127), *f.clamp)


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_folded_rounding_is_litert_s(activation: str) -> None:
    rng = np.random.default_rng(5)
    for scale in (*np.exp(rng.uniform(np.log(2.0**-20), np.log(0.49), 60)), 0.25, 0.125, 2.0**-9, 0.49999, 0.2500001):
        zero = int(rng.integers(-128, 128))
        f = folded(conv(np.ones((1, 1)), np.zeros(1), float(scale), (0, zero), activation))
        assert isinstance(f, Folded)
        if f.mult[0] == 0:
            continue  # a constant
        steps = np.round((np.arange(-260, 261) + 0.5) / f.mult[0] * 2.0 ** (31 + f.shift[0])).astype(np.int64)  # where the output changes
        sums = np.clip(np.unique(np.concatenate([steps + d for d in range(-3, 4)] + [rng.integers(-(2**23), 2**23, 500), np.arange(-300, 300)])), *SUM_24)
        want = qm.requantise(sums, f.mult[0], -f.shift[0], zero, *f.clamp, "int8")
        np.testing.assert_array_equal(device(f, sums[:, None])[:, 0], want)


def test_dense_is_rounded_once() -> None:
    make, rng = Maker(), np.random.default_rng(6)
    for scale in np.exp(rng.uniform(np.log(2.0**-18), np.log(0.4), 60)):
        zero = int(rng.integers(-128, 128))
        w = Tensor("w", (1, 1), "int8", Quant((1.0,), (0,)), np.ones((1, 1), np.int8))
        case = make.case("dense", [make.tensor("x", (1, 1), "int8", float(scale)), w], DSP, None, Quant((1.0,), (zero,)), activation="none")
        f = folded(case)
        assert isinstance(f, Folded) and f.rounding == "_once"
        sums = rng.integers(*SUM_24, 3000)
        exact = qm.effective_scales(case.node, case.graph)[0]
        np.testing.assert_array_equal(device(f, sums[:, None])[:, 0], np.clip(qm.scale_once(sums, exact) + zero, -128, 127))


def test_pairs_hold_the_exact_sum() -> None:
    """256 A = SMLAD(h, U) + SMLAD(e, Y) + start, modulo 2**32, for the operands the kernel makes of the bytes."""
    rng = np.random.default_rng(7)
    weights, x = rng.integers(-127, 128, (5, 30)), rng.integers(-128, 128, 30).astype(np.int8)
    f = folded(conv(weights, rng.integers(-9000, 9000, 5), zero=(-77, 5)))
    assert isinstance(f, Folded)
    packed = pairs(f)
    assert isinstance(packed, tuple)
    words, start = packed
    raw = np.zeros(32, np.int8)
    raw[:30], raw[30:] = x, (91, -91)  # what lies behind the input meets weights of 0
    bytes_ = raw.view(np.uint8).astype(np.int64).reshape(-1, 4)
    word = bytes_ @ (256 ** np.arange(4))
    halves = np.stack([word & 0xFFFF, word >> 16], axis=1)
    u = ((halves & 0xFF) ^ 0x80) - 0x80
    y = ((halves ^ 0x7F) ^ 0x8000) - 0x8000
    h = words.view(np.int16).reshape(5, -1, 2).astype(np.int64)
    e = ((h & 0xFF) ^ 0x80) - 0x80
    total = start + (h * u).sum(axis=(1, 2)) + (e * y).sum(axis=(1, 2))
    wrapped = ((total + 2**31) & 0xFFFFFFFF) - 2**31
    np.testing.assert_array_equal(wrapped >> 8, f.start + weights @ x.astype(np.int64))


def test_depth_order_is_whole_words_of_each_row_then_the_rest() -> None:
    weights = np.arange(18).reshape(1, 2, 3, 3)
    assert depth_order(weights).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 8, 17]]


def test_stream_marks_its_ends() -> None:
    f = folded(conv(np.ones((5, 8)), np.zeros(5)))
    assert isinstance(f, Folded)
    packed = pairs(f)
    assert isinstance(packed, tuple)
    words = stream(*packed, f, 2).reshape(3, -1)
    assert (words[:, -1] < 0).tolist() == [False, True, True]  # the last whole pair, and the odd channel's own


def test_constant_channels_do_not_slow_a_layer() -> None:
    """A pruned channel: no weights, a scale and a bias that would leave every range."""
    weights, bias = np.ones((2, 4)), np.array([2**31 - 1, 0])
    weights[0] = 0
    case = conv(weights, bias)
    f = folded(case)
    assert isinstance(f, Folded) and f.mult[0] == 0 and f.start[0] == 0
    assert device(f, np.zeros((1, 2), np.int64))[0, 0] == 127
    assert case.call.function == "embarq_conv2d_s8_dsp"


@pytest.mark.parametrize(
    ("weights", "bias", "scale", "why"),
    [
        (np.full((1, 8), 127), 2**23, 1e-6, "24 bits"),
        (np.full((1, 2), -128), 0, 0.001, "-128 stand side by side"),
        (np.full((1, 8), 3), 0, 0.7, "half or more"),
        (np.full((1, 1200), 127), 0, 2.0**-24, "2**22"),
    ],
)
def test_what_does_not_fold_is_refused_and_computed_portably(weights: np.ndarray, bias: int, scale: float, why: str) -> None:
    case = conv(weights, np.array([bias]), scale)
    f = folded(case)
    refused = f if isinstance(f, Refused) else pairs(f)
    assert isinstance(refused, Refused) and why in refused.reason
    assert case.call.function == "embarq_conv2d_s8"


def test_shift_bound_keeps_offsets_in_int32() -> None:
    assert (127 << MOST_SHIFT) + 2**23 + (1 << MOST_SHIFT) < 2**31


def test_linear_forms_are_proven_or_absent() -> None:
    rng = np.random.default_rng(8)
    found = 0
    for _ in range(25):
        scales, zeros = rng.uniform(0.01, 0.1, 3), rng.integers(-128, 128, 3)
        a, b, out = (Tensor(n, (4,), "int8", Quant((float(s),), (int(z),))) for n, s, z in zip("abo", scales, zeros, strict=True))
        want = _all_sums(a, b, out, 1)
        ratio = a.scale / out.scale, b.scale / out.scale
        linear = fit(want, *ratio, out.zero_point - a.zero_point * ratio[0] - b.zero_point * ratio[1])
        if linear is None:
            continue
        found += 1
        x, y = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128), indexing="ij")
        np.testing.assert_array_equal(linear(x, y), want)
        assert np.abs(x * linear.a).max() + np.abs(y * linear.b).max() + abs(linear.c) < 2**31
    assert found >= 20
    assert fit(rng.integers(-128, 128, (256, 256)), 0.5, 0.5, 0.0) is None
