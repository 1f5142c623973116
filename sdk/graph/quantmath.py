"""The integer arithmetic of LiteRT's reference kernels, as pure functions on numpy arrays.

Real numbers become a 31-bit fraction and a power of two (`quantize_multiplier`); multiplying by one rounds twice, as
gemmlowp does. The interpreter computes with these functions and the kernel table packs the very same numbers for the
C kernels, so host and board cannot disagree about a constant. Integers wrap and saturate where int32 in C would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from sdk.errors import ModelError, UnsupportedOp
from sdk.graph.ir import Graph, Node, Quant, Tensor

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

#: Smallest and largest value of each integer type an activation may have.
RANGE: Mapping[str, tuple[int, int]] = {"int8": (-128, 127), "int16": (-32768, 32767), "int32": (INT32_MIN, INT32_MAX)}


def round_away(x: Any) -> Any:
    """Nearest integer, halves away from zero (C's `round`), in the type of `x`: 2.5 -> 3, -2.5 -> -3."""
    x = np.asarray(x)
    whole = np.trunc(x)
    # The fraction x - trunc(x) is exact in binary floating point; x + 0.5 is not (0.49999997 would become 1).
    return np.where(np.abs(x - whole) >= 0.5, whole + np.sign(x), whole).astype(x.dtype)


def wrap_int32(x: np.ndarray) -> np.ndarray:
    """int64 values reduced to what an int32 would hold after overflow, still as int64."""
    return ((x + 2**31) & 0xFFFFFFFF) - 2**31


def quantize_multiplier(real: float) -> tuple[int, int]:
    """`(mult, shift)` with `real = mult / 2**31 * 2**shift` and `mult` in [2**30, 2**31).

    Below 2**-32 both are 0. The shift is positive to the left. Example: `quantize_multiplier(0.5) == (2**30, 0)`.
    """
    real = float(real)
    if not math.isfinite(real):
        raise ModelError(f"a scale ratio is {real}; quantise the model again with finite scales")
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    mult = math.floor(abs(fraction) * 2.0**31 + 0.5)  # exact: the fraction has 53 bits, the product is below 2**53
    if mult == 2**31:
        mult, shift = 2**30, shift + 1
    if shift < -31:
        return 0, 0
    return (mult if fraction > 0 else -mult), shift


def doubling_high_mul(a: Any, b: Any) -> np.ndarray:
    """gemmlowp's SaturatingRoundingDoublingHighMul: `round(a * b / 2**31)` on int32 values (int64 arrays)."""
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    # gemmlowp nudges by the sign and truncates towards zero; for every product that equals this floor.
    return np.minimum((a * b + (1 << 30)) >> 31, INT32_MAX)


def rounding_divide_by_pot(x: Any, exponent: Any) -> np.ndarray:
    """gemmlowp's RoundingDivideByPOT: `x / 2**exponent`, halves away from zero. `exponent` in [0, 31]."""
    x, exponent = np.asarray(x, np.int64), np.asarray(exponent, np.int64)
    half = np.where(exponent > 0, (np.int64(1) << exponent) >> 1, 0)
    return (x + half - ((x < 0) & (exponent > 0))) >> exponent


def multiply_by_quantized_multiplier(x: Any, mult: Any, shift: Any) -> np.ndarray:
    """int32 `x * mult / 2**31 * 2**shift`, rounded twice. int64 array of int32 values; `mult`, `shift` broadcast to `x`."""
    x, mult, shift = (np.asarray(v, np.int64) for v in (x, mult, shift))
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    if left.any():
        x = wrap_int32(x << left)
    return rounding_divide_by_pot(doubling_high_mul(x, mult), right)


def multiply_by_quantized_multiplier_64(x: Any, mult: Any, shift: Any) -> np.ndarray:
    """The 64-bit accumulator's variant (int16 activations with int64 bias): a 16-bit multiplier and one rounding."""
    x, mult, shift = (np.asarray(v, np.int64) for v in (x, mult, shift))
    reduced = np.where(mult < 0x7FFF0000, (mult + (1 << 15)) >> 16, 0x7FFF)
    total = 15 - shift
    return wrap_int32((x * reduced + (np.int64(1) << (total - 1))) >> total)


def activation_range(activation: str, scale: float, zero_point: int, dtype: str) -> tuple[int, int]:
    """Smallest and largest quantised output that the fused `activation` lets through: relu, 0.1, -128, int8 -> (-128, 127)."""
    low, high = RANGE[dtype]
    limits: Mapping[str, tuple[float | None, float | None]] = {
        "none": (None, None), "relu": (0.0, None), "relu6": (0.0, 6.0), "relu_n1_to_1": (-1.0, 1.0)}  # fmt: skip
    if activation not in limits:
        raise ModelError(f"activation {activation!r} is unknown; known are {', '.join(limits)}")
    bottom, top = limits[activation]
    if bottom is not None:
        low = max(low, _quantised_limit(bottom, scale, zero_point))
    if top is not None:
        high = min(high, _quantised_limit(top, scale, zero_point))
    return low, high


def _quantised_limit(value: float, scale: float, zero_point: int) -> int:
    with np.errstate(over="ignore"):
        steps = float(round_away(np.float32(value) / np.float32(scale)))
    return zero_point + int(max(min(steps, 2.0**31), -(2.0**31)))


def output_range(node: Node, out: Tensor) -> tuple[int, int]:
    """`activation_range` of the node's fused activation on its output tensor."""
    if out.quant is None:  # int32 and int64 tensors without quantisation
        return RANGE.get(out.dtype, (INT32_MIN, INT32_MAX))
    return activation_range(node.attrs.get("activation", "none"), out.scale, out.zero_point, out.dtype)


# ---- constants of single ops -------------------------------------------------------------------------------------


def effective_scales(node: Node, graph: Graph | Mapping[str, Tensor]) -> tuple[float, ...]:
    """`input scale * weight scale / output scale`, in float64, one per output channel (one in all for batch_matmul)."""
    tensors = graph.tensors if isinstance(graph, Graph) else graph
    x, w, out = tensors[node.inputs[0]], tensors[node.inputs[1]], tensors[node.outputs[0]]
    if w.quant is None:
        raise ModelError(f"weight {w.name} of node {node.name} ({node.op}) has no quantisation; quantise the model again")
    channels = 1 if node.op == "batch_matmul" else out.shape[-1]
    scales = w.quant.scale if len(w.quant.scale) > 1 else w.quant.scale * channels
    if node.op == "batch_matmul":  # here LiteRT multiplies the two scales in float32
        return tuple(float(np.float32(x.scale) * np.float32(s)) / out.scale for s in scales)
    return tuple(x.scale * s / out.scale for s in scales)


def conv_multipliers(node: Node, graph: Graph | Mapping[str, Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`(mult[], shift[])`, one pair per output channel, for `multiply_by_quantized_multiplier`: conv2d, depthwise_conv2d, batch_matmul.

    A weight quantised as a whole gives every channel the same pair. dense rounds otherwise: see `dense_multipliers`.
    """
    pairs = [quantize_multiplier(s) for s in effective_scales(node, graph)]
    return tuple(m for m, _ in pairs), tuple(s for _, s in pairs)


def scale_once(x: Any, scale: Any) -> np.ndarray:
    """`round(x * scale)` in float64, saturated to int32: how LiteRT's reference dense (and 16x8 convolution) rescales."""
    return np.clip(round_away(np.asarray(x, np.float64) * scale), INT32_MIN, INT32_MAX).astype(np.int64)


def multiply_once(x: Any, mult: Any, shift: Any, bits: int = 31) -> np.ndarray:
    """`x * mult / 2**bits * 2**shift` rounded once, halves away from zero, in 64-bit integers: the device's `scale_once`.

    In C: `p = (int64_t)x * mult; (p + (1LL << (bits - 1 - shift)) - (p < 0)) >> (bits - shift)`. Floors of floors compose, so
    a core that keeps only the upper word must cut it (SMMLA), not round it (SMMLAR), before it adds the half and shifts.
    """
    product = np.asarray(x, np.int64) * np.asarray(mult, np.int64)
    total = bits - np.asarray(shift, np.int64)
    return (product + (np.int64(1) << (total - 1)) - (product < 0)) >> total


def dense_multipliers(node: Node, graph: Graph | Mapping[str, Tensor], bits: int = 31) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`(mult[], shift[])`, one pair per output channel, with which `multiply_once(x, mult, shift, bits)` gives dense's result.

    LiteRT's reference dense multiplies by a float64; each pair is proven to give the same output for every sum the weights allow.
    31 bits practically always suffice for int8 outputs, whose sums have some 24 bits. Raises UnsupportedOp when no multiplier of
    that many bits will do, as for most int16 outputs: multiply by `effective_scales` in float64 there.
    """
    tensors = graph.tensors if isinstance(graph, Graph) else graph
    out, largest = tensors[node.outputs[0]], min(_largest_sum(node, tensors), 2 ** (62 - bits))
    scales = effective_scales(node, tensors)
    found = {scale: proven_multiplier(scale, out, bits, largest) for scale in set(scales)}
    if None in found.values():
        raise UnsupportedOp(f"node {node.name} ({node.op}) has a scale that no multiplier of {bits} bits stands for exactly; quantise it with other data")
    pairs = [found[scale] or (0, 0) for scale in scales]
    return tuple(m for m, _ in pairs), tuple(s for _, s in pairs)


def _largest_sum(node: Node, tensors: Mapping[str, Tensor]) -> int:
    """Bound on the size of dense's accumulators: that of the constant weights and bias, else int32's."""
    x, w = tensors[node.inputs[0]], tensors[node.inputs[1]]
    bias = tensors.get(node.inputs[2]) if len(node.inputs) > 2 else None
    if w.data is None or w.quant is None or (bias is not None and bias.data is None):
        return INT32_MAX
    low, high = RANGE[x.dtype]
    rows = np.abs(w.data.astype(np.int64) - (w.quant.zero_point[0] if len(w.quant.scale) == 1 else 0)).sum(axis=1)
    start = np.abs(bias.data.astype(np.int64)) if bias is not None and bias.data is not None else 0
    return int((rows * max(x.zero_point - low, high - x.zero_point) + start).max(initial=0))


def proven_multiplier(scale: float, out: Tensor, bits: int = 31, largest: int = INT32_MAX) -> tuple[int, int] | None:
    """One pair for `multiply_once`, or None when the nearest multipliers all differ from `scale_once` somewhere."""
    fraction, shift = math.frexp(scale)
    mult = math.floor(fraction * 2.0**bits + 0.5)
    for nudge in (0, 1, -1, 2, -2):
        if rescales_exactly(partial(multiply_once, mult=mult + nudge, shift=shift, bits=bits), scale, out, largest):
            return mult + nudge, shift
    return None


def rescales_exactly(candidate: Callable[[np.ndarray], np.ndarray], scale: float, out: Tensor, largest: int = INT32_MAX) -> bool:
    """Whether `candidate`, which must never fall as its int64 sums rise, equals `scale_once` after the clamp to `out`.

    Both only change at the sums where a new output begins, so it is enough to look around those: at most 255 places for int8.
    Sums beyond `largest` do not occur.
    """
    low, high = RANGE[out.dtype]
    steps = np.arange(low - out.zero_point, high - out.zero_point + 1)
    around = np.round((steps - np.sign(steps) * 0.5) / scale)[:, None] + np.arange(-2, 3)
    x = np.unique(np.clip(around, -largest, largest)).astype(np.int64)
    have, want = (np.clip(v + out.zero_point, low, high) for v in (candidate(x), scale_once(x, scale)))
    return bool(np.array_equal(have, want))


@dataclass(frozen=True)
class AddParams:
    """int8/int16 add and sub: both inputs shifted left, brought to twice the larger scale, added, brought to the output's."""

    left_shift: int  # 20 for int8, 15 for int16
    mult: tuple[int, int]
    shift: tuple[int, int]
    out_mult: int
    out_shift: int


def add_params(a: Tensor, b: Tensor, out: Tensor) -> AddParams:
    """The constants of LiteRT's quantised ADD and SUB."""
    left_shift = 15 if out.dtype == "int16" else 20
    twice_max = 2.0 * max(a.scale, b.scale)
    mult, shift = zip(*(quantize_multiplier(t.scale / twice_max) for t in (a, b)), strict=True)
    out_mult, out_shift = quantize_multiplier(twice_max / ((1 << left_shift) * out.scale))
    return AddParams(left_shift, mult, shift, out_mult, out_shift)


def mul_multiplier(a: Tensor, b: Tensor, out: Tensor) -> tuple[int, int]:
    """`(mult, shift)` of LiteRT's quantised MUL; the scales are multiplied in float32."""
    return quantize_multiplier(float(np.float32(a.scale) * np.float32(b.scale) / np.float32(out.scale)))


def rescale_multiplier(source: Quant, target: Quant) -> tuple[int, int]:
    """`(mult, shift)` that takes values of one scale to another (requantize, relu): the ratio in float64."""
    return quantize_multiplier(source.scale[0] / target.scale[0])


def requantise(x: Any, mult: Any, shift: Any, zero_point: int, low: int, high: int, dtype: str) -> np.ndarray:
    """int32 accumulators to quantised outputs: multiply, add the zero point, clamp."""
    scaled = multiply_by_quantized_multiplier(x, mult, shift)
    return np.clip(scaled + zero_point, low, high).astype(dtype)


def quantise_array(x: np.ndarray, scale: float, zero_point: int, dtype: str) -> np.ndarray:
    """float32 to integers as LiteRT's reference QUANTIZE does: `round(x / scale) + zero_point`, clamped."""
    low, high = RANGE[dtype]
    with np.errstate(over="ignore", invalid="ignore"):
        steps = round_away(np.asarray(x, np.float32) / np.float32(scale)).astype(np.float64)
    return np.clip(np.nan_to_num(steps) + zero_point, low, high).astype(dtype)


def dequantise_array(q: np.ndarray, quant: Quant) -> np.ndarray:
    """Integers to float32: `scale * (q - zero_point)`, per channel along `quant.axis` when it has one."""
    if quant.axis is None:
        return np.float32(quant.scale[0]) * (q.astype(np.int32) - np.int32(quant.zero_point[0])).astype(np.float32)
    shape = [1] * q.ndim
    shape[quant.axis] = -1
    scale = np.array(quant.scale, np.float32).reshape(shape)
    return scale * (q.astype(np.int32) - np.array(quant.zero_point, np.int32).reshape(shape)).astype(np.float32)
