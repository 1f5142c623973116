"""gemmlowp's fixed-point exponential and reciprocal, and the softmaxes LiteRT builds of them.

A number with `i` integer bits is an int32 `raw` standing for `raw / 2**(31 - i)`. Everything is int64 arrays of int32 values.
"""

from __future__ import annotations

import numpy as np

from sdk.graph import lut16
from sdk.graph import quantmath as qm
from sdk.graph.ir import Tensor

_ONE = qm.INT32_MAX  # 1.0 with no integer bits, as near as it gets
_DIFF_BITS = 5  # integer bits of a scaled difference to the row's maximum
_SUM_BITS = 12  # integer bits of the sum of exponentials


def _times_pot(x: np.ndarray, exponent: int) -> np.ndarray:
    """x * 2**exponent: saturating to the left, rounding to the right."""
    if exponent < 0:
        return qm.rounding_divide_by_pot(x, -exponent)
    return np.clip(np.asarray(x, np.int64) << exponent, qm.INT32_MIN, qm.INT32_MAX)


def _exp_last_quarter(a: np.ndarray) -> np.ndarray:
    """exp(a) for a in [-1/4, 0), no integer bits: a Taylor series around -1/8."""
    x = a + (1 << 28)
    x2 = qm.doubling_high_mul(x, x)
    x3 = qm.doubling_high_mul(x2, x)
    x4_over_4 = _times_pot(qm.doubling_high_mul(x2, x2), -2)
    tail = _times_pot(qm.doubling_high_mul(x4_over_4 + x3, 715827883) + x2, -1)  # 1/3
    return 1895147668 + qm.doubling_high_mul(1895147668, x + tail)  # exp(-1/8)


#: exp(-2**k) with no integer bits, for k = -2..4.
_EXP_POWERS = ((-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308), (2, 39332535), (3, 720401), (4, 242))


def exp_on_negative(a: np.ndarray) -> np.ndarray:
    """exp(a) with no integer bits, for a <= 0 with `_DIFF_BITS` integer bits."""
    a = np.asarray(a, np.int64)
    quarter = 1 << (31 - _DIFF_BITS - 2)
    rest = (a & (quarter - 1)) - quarter
    result = _exp_last_quarter(_times_pot(rest, _DIFF_BITS))
    remainder = rest - a
    for power, factor in _EXP_POWERS:
        bit = 1 << (31 - _DIFF_BITS + power)
        result = np.where(remainder & bit, qm.doubling_high_mul(result, factor), result)
    return np.where(a == 0, _ONE, result)


def one_over_one_plus(x: np.ndarray) -> np.ndarray:
    """1 / (1 + x) for x in [0, 1), no integer bits: three Newton steps."""
    half = (x + _ONE + 1) >> 1  # (x + 1) / 2, rounded; both are positive
    y = 1515870810 + qm.doubling_high_mul(half, -1010580540)  # 48/17 - 32/17 * half, two integer bits
    for _ in range(3):
        error = (1 << 29) - qm.doubling_high_mul(half, y)
        y = y + _times_pot(qm.doubling_high_mul(y, error), 2)
    return _times_pot(y, 1)


def count_leading_zeros(x: np.ndarray) -> np.ndarray:
    """Of each value as an unsigned 32-bit number."""
    return 32 - np.frexp(np.asarray(x, np.float64))[1].astype(np.int64)


def _input_multiplier(scale: float, beta: float) -> tuple[int, int, int]:
    """`(mult, shift, diff_min)`: below diff_min an exponential counts as zero."""
    real = min(float(np.float64(beta) * scale * (1 << (31 - _DIFF_BITS))), 2.0**31 - 1)
    mult, shift = qm.quantize_multiplier(real)
    radius = int(np.floor(((1 << _DIFF_BITS) - 1) * float(1 << (31 - _DIFF_BITS)) / float(1 << max(shift, 0))))
    return mult, shift, -radius


def softmax_params(scale: float, beta: float) -> tuple[int, int, int]:
    """`(mult, shift, diff_min)` of int8 softmax, for the kernel table."""
    return _input_multiplier(scale, beta)


def softmax_int8(x: np.ndarray, scale: float, beta: float, out: Tensor) -> np.ndarray:
    """x [..., C] int8 -> probabilities of 1/256 as int8, along the last axis."""
    mult, shift, diff_min = _input_multiplier(scale, beta)
    diff = x.astype(np.int64)
    diff = diff - diff.max(axis=-1, keepdims=True)
    counted = diff >= diff_min
    powers = exp_on_negative(qm.multiply_by_quantized_multiplier(np.where(counted, diff, 0), mult, shift))
    total = np.where(counted, qm.rounding_divide_by_pot(powers, _SUM_BITS), 0).sum(axis=-1, keepdims=True)
    headroom = count_leading_zeros(total)
    scale_q31 = one_over_one_plus((total << headroom) - (1 << 31))
    exponent = (_SUM_BITS - headroom) + 31 - 8
    share = qm.rounding_divide_by_pot(qm.doubling_high_mul(scale_q31, powers), exponent)
    return np.clip(np.where(counted, share, 0) - 128, -128, 127).astype(out.dtype)


def softmax_int16(x: np.ndarray, scale: float, beta: float) -> np.ndarray:
    """x [..., C] int16 -> probabilities of 1/32768 as int16, along the last axis, by two tables."""
    mult, shift = qm.quantize_multiplier(float(np.float32(scale) * np.float32(beta) / (10.0 / 65535.0)))
    exp_table, reciprocal_table = softmax_int16_tables()
    diff = x.astype(np.int64)
    diff = diff - diff.max(axis=-1, keepdims=True)
    place = np.clip(qm.multiply_by_quantized_multiplier(diff, mult, shift) + 32767, -32768, 32767)
    powers = lut16.lookup(place, exp_table)
    total = powers.sum(axis=-1, keepdims=True)
    headroom = count_leading_zeros(total)
    fraction = ((total << (headroom - 1)) + (1 << 13)) >> 14
    share = lut16.lookup(np.clip(fraction - (1 << 15) - (1 << 16), -32768, 32767), reciprocal_table)
    right = 31 - headroom
    return np.clip((powers * share + (np.int64(1) << (right - 1))) >> right, 0, 32767).astype(np.int16)


def softmax_int16_tables() -> tuple[np.ndarray, np.ndarray]:
    """`(exp(x) over [-10, 0], 1 / (1 + x) over [0, 1])`, int16[513] each, for the kernel table."""
    exp = lut16.build(np.exp, 10 / 65535, 2 / 65535, 32767, np.float64)
    reciprocal = lut16.build(lambda v: 1 / (1 + v), 1 / 65535, 2 / 65535, -32768, np.float64)
    return exp, reciprocal


# ---- logarithm and log_softmax -------------------------------------------------------------------------------------


def _log_sum(total: np.ndarray) -> np.ndarray:
    """log(x) with `_DIFF_BITS` integer bits, for x >= 1 with `_SUM_BITS` integer bits: x = 2**k * r, a rational function of r."""
    sqrt_half, sqrt_sqrt_half, log_2, quarter = 1518500250, 1805811301, 1488522236, 1 << (31 - 2 - _DIFF_BITS - 1)
    bits = 31 - _DIFF_BITS - 1
    headroom = count_leading_zeros(total)
    r_a = _times_pot(qm.doubling_high_mul(_shift_left(total, headroom - 1), sqrt_half), 1)
    power_a = np.clip(_shift_left(_SUM_BITS - headroom, bits) + quarter, qm.INT32_MIN, qm.INT32_MAX)
    headroom_b = count_leading_zeros(qm.doubling_high_mul(total, sqrt_half)) - 1
    r_b = _shift_left(total, headroom_b)
    power_b = np.clip(_shift_left(_SUM_BITS - headroom_b, bits) - quarter, qm.INT32_MIN, qm.INT32_MAX)
    r, power = np.minimum(r_a, r_b), np.maximum(power_a, power_b)
    half_sum = (r + sqrt_sqrt_half + 1) >> 1
    q = (r - sqrt_sqrt_half) * 2
    square = qm.doubling_high_mul(q, q)
    over = qm.doubling_high_mul(q, r) + qm.doubling_high_mul(qm.doubling_high_mul(q, square), 117049297)
    under = qm.doubling_high_mul(half_sum, 1057819769 + q + qm.doubling_high_mul(127690142, square)) + qm.doubling_high_mul(638450708, q)
    ratio = qm.doubling_high_mul(_times_pot(over, -_DIFF_BITS - 1), one_over_one_plus(under))
    return _times_pot(qm.doubling_high_mul(power, log_2) + ratio, 1)


def _shift_left(x: np.ndarray, by: np.ndarray | int) -> np.ndarray:
    """Saturating left shift."""
    return np.clip(np.asarray(x, np.int64) << by, qm.INT32_MIN, qm.INT32_MAX)


def log_softmax_int8(x: np.ndarray, scale: float) -> np.ndarray:
    """x [..., C] int8 -> logarithms of probabilities with scale 1/16 and zero point 127, along the last axis."""
    mult, shift, diff_min = _input_multiplier(scale, 1.0)
    back_mult, back_shift = qm.quantize_multiplier((1 << (31 - shift)) / mult)
    diff = x.astype(np.int64)
    diff = diff - diff.max(axis=-1, keepdims=True)
    fine = qm.multiply_by_quantized_multiplier(diff, mult, shift)
    counted = diff >= diff_min
    powers = exp_on_negative(np.where(counted, fine, 0))
    total = np.where(counted, qm.rounding_divide_by_pot(powers, _SUM_BITS), 0).sum(axis=-1, keepdims=True)
    log_total = _log_sum(total)
    lowest = np.maximum(diff_min - 1, qm.multiply_by_quantized_multiplier(log_total + qm.INT32_MIN, back_mult, back_shift))
    result = qm.rounding_divide_by_pot(qm.wrap_int32(fine - log_total), 31 - _DIFF_BITS - 4) + 127
    return np.where(diff > lowest, np.clip(result, -128, 127), -128).astype(np.int8)


def reciprocal(x: np.ndarray, integer_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """`(raw, shift)` with `1 / x = raw / 2**31 / 2**shift`, for positive x with that many integer bits."""
    headroom = count_leading_zeros(x)
    return one_over_one_plus((np.asarray(x, np.int64) << headroom) - (1 << 31)), integer_bits - headroom


def inverse_sqrt(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(mult, right_shift)` with `1 / sqrt(x) = mult / 2**31 / 2**right_shift`, for whole x >= 2: five Newton steps from 1."""
    x = np.asarray(x, np.int64)
    pairs = (count_leading_zeros(x) - 1) // 2 - 1
    whole = (x << (2 * pairs)) >> 1  # three integer bits from here on
    half, y = qm.rounding_divide_by_pot(whole, 1), np.full_like(x, 1 << 28)
    for _ in range(5):
        cube = _times_pot(qm.doubling_high_mul(qm.doubling_high_mul(y, y), y), 6)
        y = _times_pot(qm.doubling_high_mul((1 << 28) + (1 << 27), y) - qm.doubling_high_mul(half, cube), 3)
    y, right = qm.doubling_high_mul(y, 1518500250), 11 - pairs
    return np.where(right < 0, y << np.maximum(-right, 0), y), np.maximum(right, 0)
