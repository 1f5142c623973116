"""Ops on two tensors, element by element, with numpy's broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sdk.graph import fixedpoint as fp
from sdk.graph import quantmath as qm
from sdk.graph.ops.base import Meaning, Op, Use, broadcast_shape, fixed, float_activation, same_quant

Binary = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _real(function: Binary) -> Meaning:
    """float32 meaning of a binary function, with the fused activation."""

    def meaning(use: Use) -> np.ndarray:
        with np.errstate(all="ignore"):
            result = function(use.value(0), use.value(1)).astype(np.float32, copy=False)
        return float_activation(result, use.node.attrs.get("activation", "none"))

    return meaning


def _whole(function: Binary) -> Meaning:
    """int32 and int64 meaning: plain integers, no quantisation; overflow wraps."""

    def meaning(use: Use) -> np.ndarray:
        with np.errstate(all="ignore"):
            return function(use.value(0), use.value(1)).astype(use.input(0).dtype)

    return meaning


def _trunc_divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    safe = np.where(b == 0, 1, b)
    quotient = np.abs(a) // np.abs(safe)
    return np.where((a < 0) ^ (safe < 0), -quotient, quotient)


def _scaled_pair(use: Use) -> tuple[np.ndarray, np.ndarray, qm.AddParams]:
    """Both inputs on the common scale of quantised add and sub."""
    a, b = use.input(0), use.input(1)
    p = qm.add_params(a, b, use.output())
    scaled = [
        qm.multiply_by_quantized_multiplier((use.value(i).astype(np.int64) - t.zero_point) << p.left_shift, p.mult[i], p.shift[i])
        for i, t in enumerate((a, b))
    ]
    return scaled[0], scaled[1], p


def add_int(use: Use) -> np.ndarray:
    """int8, int16 add: rescale both, add, rescale to the output."""
    a, b, p = _scaled_pair(use)
    return _to_output(a + b, p.out_mult, p.out_shift, use)


def sub_int(use: Use) -> np.ndarray:
    """int8, int16 sub: as add, with the difference."""
    a, b, p = _scaled_pair(use)
    return _to_output(a - b, p.out_mult, p.out_shift, use)


def _to_output(total: np.ndarray, mult: int, shift: int, use: Use) -> np.ndarray:
    out = use.output()
    low, high = qm.output_range(use.node, out)
    return qm.requantise(total, mult, shift, out.zero_point, low, high, out.dtype)


def mul_int(use: Use) -> np.ndarray:
    """int8, int16 mul: product of the offsets, rescaled."""
    a, b = (use.value(i).astype(np.int64) - use.input(i).zero_point for i in (0, 1))
    mult, shift = qm.mul_multiplier(use.input(0), use.input(1), use.output())
    return _to_output(a * b, mult, shift, use)


def squared_difference_int(use: Use) -> np.ndarray:
    """int8: both inputs shifted left by 7 and brought to twice the larger scale, the difference squared, rescaled."""
    a, b, out = use.input(0), use.input(1), use.output()
    twice_max = 2.0 * max(a.scale, b.scale)
    first, second = (
        qm.multiply_by_quantized_multiplier((use.value(i).astype(np.int64) - t.zero_point) << 7, *qm.quantize_multiplier(t.scale / twice_max))
        for i, t in enumerate((a, b))
    )
    mult, shift = qm.quantize_multiplier(twice_max * twice_max / ((1 << 14) * out.scale))
    return _to_output((first - second) ** 2, mult, shift, use)


def div_int(use: Use) -> np.ndarray:
    """int8, int16: the offset numerator times the fixed-point reciprocal of the denominator; x / 0 gives the end of the range."""
    a, b, out = use.input(0), use.input(1), use.output()
    over, under = np.broadcast_arrays(*(use.value(i).astype(np.int64) - t.zero_point for i, t in enumerate((a, b))))
    over, under = np.where(under < 0, -over, over), np.abs(under)
    mult, shift = qm.quantize_multiplier(float(np.float32(a.scale) / (np.float32(b.scale) * np.float32(out.scale))))
    inverse, inverse_shift = fp.reciprocal(np.maximum(under, 1), 31)
    headroom = fp.count_leading_zeros(np.where(over < 0, ~over, over)) - 1
    quotient = qm.doubling_high_mul(qm.doubling_high_mul(over << headroom, inverse), mult)
    total = shift - inverse_shift - headroom
    scaled = qm.rounding_divide_by_pot(quotient << np.maximum(total, 0), np.clip(-total, 0, 62))
    scaled = np.where(under == 0, np.sign(over) * (1 << 20), scaled)
    return np.clip(scaled + out.zero_point, *qm.output_range(use.node, out)).astype(out.dtype)


def _extreme_int(function: Binary) -> Meaning:
    def meaning(use: Use) -> np.ndarray:
        out = use.output()
        return np.clip(function(use.value(0), use.value(1)), *qm.output_range(use.node, out)).astype(out.dtype)

    return meaning


def _squared_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a - b) * (a - b)


def same_types(use: Use) -> str | None:
    """Both inputs and the output have one data type."""
    a, b = use.input(0).dtype, use.input(1).dtype
    return None if a == b else f"its inputs are {a} and {b}; convert or quantise one of them"


def _op(name: str, doc: str, real: Binary, quantised: Meaning, whole: Binary | None = None, int16: bool = True, **more: tuple) -> Op:
    meaning = {"float32": _real(real), "int8": quantised, **({"int16": quantised} if int16 else {}), **fixed(("int32", "int64"), _whole(whole or real))}
    return Op(name, doc, ("a", "b"), broadcast_shape, meaning, attrs={"activation": "none, relu, relu6 or relu_n1_to_1"},
              constraints=(same_types, *more.get("constraints", ())))  # fmt: skip


OPS = (
    _op("add", "a + b.", np.add, add_int),
    _op("sub", "a - b.", np.subtract, sub_int),
    _op("mul", "a * b.", np.multiply, mul_int),
    _op("div", "a / b; integers without a scale truncate.", np.divide, div_int, whole=_trunc_divide),
    _op("maximum", "The larger of a and b.", np.maximum, _extreme_int(np.maximum), constraints=(same_quant,)),
    _op("minimum", "The smaller of a and b.", np.minimum, _extreme_int(np.minimum), constraints=(same_quant,)),
    _op("squared_difference", "(a - b) squared.", _squared_difference, squared_difference_int, int16=False),
)
