"""Elementwise functions of one number: their float32 meaning, and their integer meaning.

int8 needs 256 results only, so every int8 op here is a table (`unary_table`), whatever arithmetic LiteRT uses to get it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sdk.errors import ModelError
from sdk.graph import fixedpoint as fp
from sdk.graph import lut16
from sdk.graph import quantmath as qm
from sdk.graph.ir import Quant

Attrs = Mapping[str, Any]
Real = Callable[[np.ndarray, Attrs], np.ndarray]
Integer = Callable[[np.ndarray, Attrs, Quant, Quant, str], np.ndarray]

_F = np.float32


def _wide(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """A transcendental function in float64, rounded to float32: the correctly rounded result, on every machine."""
    with np.errstate(over="ignore"):
        return function(x.astype(np.float64)).astype(np.float32)


def _sigmoid(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return _F(1) / (_F(1) + _wide(np.exp, -x))


def _tanh(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return _wide(np.tanh, x)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x.astype(np.float64)), np.float64)


def _gelu(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    if attrs.get("approximate", False):
        return _wide(lambda v: 0.5 * v * (1.0 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v * v * v))), x)
    return _wide(lambda v: 0.5 * v * (1.0 + _erf(v * math.sqrt(0.5))), x)


def _hard_sigmoid(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return np.clip(x + _F(3), _F(0), _F(6)) / _F(6)


#: op -> float32 array to float32 array. The order of the float32 operations is part of the definition.
FUNCTIONS: Mapping[str, Real] = {
    "relu": lambda x, a: np.maximum(x, _F(0)),
    "relu6": lambda x, a: np.clip(x, _F(0), _F(6)),
    "relu_n1_to_1": lambda x, a: np.clip(x, _F(-1), _F(1)),
    "leaky_relu": lambda x, a: np.where(x > 0, x, x * _F(a["alpha"])),
    "elu": lambda x, a: np.where(x < 0, _wide(np.expm1, x), x),
    "hard_swish": lambda x, a: x * np.clip(x + _F(3), _F(0), _F(6)) / _F(6),
    "hard_sigmoid": _hard_sigmoid,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "silu": lambda x, a: x * _sigmoid(x, a),
    "gelu": _gelu,
    "exp": lambda x, a: _wide(np.exp, x),
    "log": lambda x, a: _wide(np.log, x),
    "sqrt": lambda x, a: np.sqrt(x),
    "rsqrt": lambda x, a: _F(1) / np.sqrt(x),
    "abs": lambda x, a: np.abs(x),
    "neg": lambda x, a: -x,
    "clip": lambda x, a: np.clip(x, _F(a["min"]), _F(a["max"])),
}


def unary_table(op: str, attrs: Attrs, source: Quant, target: Quant) -> np.ndarray:
    """int8[256]: the output of the elementwise int8 op for the inputs -128, -127, ..., 127 in this order.

    Example: `unary_table("tanh", {}, Quant((0.1,), (0,)), Quant((1 / 128,), (0,)))[q + 128]`.
    """
    return unary_integers(op, attrs, np.arange(-128, 128), source, target, "int8")


def unary_integers(op: str, attrs: Attrs, q: np.ndarray, source: Quant, target: Quant, dtype: str) -> np.ndarray:
    """The op on quantised values `q` of type `dtype`: by LiteRT's integer rule where it has one, else by a table of the float32 function."""
    if op not in FUNCTIONS:
        raise ModelError(f"{op!r} is not an elementwise op; known are {', '.join(FUNCTIONS)}")
    rules = {**INTEGER, **(INTEGER_8 if dtype == "int8" else INTEGER_16)}
    if op in rules:
        return rules[op](np.asarray(q, np.int64), attrs, source, target, dtype).astype(dtype)
    if dtype == "int16":
        return lut16.lookup(q, unary_table_int16(op, attrs, source, target)).astype(np.int16)
    return _through_float(op, attrs, q, source, target, dtype)


def unary_table_int16(op: str, attrs: Attrs, source: Quant, target: Quant) -> np.ndarray:
    """int16[513] for `lut16.lookup`: the op on int16 values, where it has no integer rule of its own."""
    lowest, highest = _F(target.scale[0]) * _F(-32768), _F(target.scale[0]) * _F(32767)

    def function(x: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return _within(op, FUNCTIONS[op](x, attrs), x, lowest, highest)

    return lut16.build(function, source.scale[0], target.scale[0])


def _within(op: str, y: np.ndarray, x: np.ndarray, lowest: Any, highest: Any) -> np.ndarray:
    """Where the function has no value: log gives the lowest output, rsqrt the highest."""
    if op == "log":
        return np.where(x <= 0, lowest, y)
    return np.where(x <= 0, highest, y) if op == "rsqrt" else y


def _through_float(op: str, attrs: Attrs, q: np.ndarray, source: Quant, target: Quant, dtype: str) -> np.ndarray:
    """Dequantise, apply the float32 function, quantise by multiplying with 1 / scale: how LiteRT fills its tables."""
    low, high = qm.RANGE[dtype]
    real = _F(source.scale[0]) * (np.asarray(q, np.int64) - source.zero_point[0]).astype(np.float32)
    with np.errstate(all="ignore"):
        ends = ((low - target.zero_point[0]) * _F(target.scale[0]), (high - target.zero_point[0]) * _F(target.scale[0]))
        steps = qm.round_away(_within(op, FUNCTIONS[op](real, attrs), real, *ends) * (_F(1) / _F(target.scale[0])))
    whole = np.nan_to_num(steps.astype(np.float64), nan=0.0) + target.zero_point[0]
    return np.clip(whole, low, high).astype(dtype)


# ---- LiteRT's integer rules ----------------------------------------------------------------------------------------


def _ratio(source: Quant, target: Quant, factor: float = 1.0) -> tuple[int, int]:
    """Multiplier for `source / target`, computed in float32 as these kernels do."""
    return qm.quantize_multiplier(float(_F(source.scale[0]) * _F(factor) / _F(target.scale[0])))


def _relu(activation: str) -> Integer:
    def rule(q: np.ndarray, attrs: Attrs, source: Quant, target: Quant, dtype: str) -> np.ndarray:
        low, high = qm.activation_range(activation, target.scale[0], target.zero_point[0], dtype)
        return qm.requantise(q - source.zero_point[0], *_ratio(source, target), target.zero_point[0], low, high, dtype)

    return rule


def _leaky_relu(q: np.ndarray, attrs: Attrs, source: Quant, target: Quant, dtype: str) -> np.ndarray:
    value, zero = q - source.zero_point[0], target.zero_point[0]
    same = qm.multiply_by_quantized_multiplier(value, *_ratio(source, target))
    less = qm.multiply_by_quantized_multiplier(value, *_ratio(source, target, attrs["alpha"]))
    return np.clip(zero + np.where(value >= 0, same, less), *qm.RANGE[dtype])


def _high_mul_16(a: np.ndarray, b: Any) -> np.ndarray:
    """gemmlowp's SaturatingRoundingDoublingHighMul on int16."""
    return np.minimum((np.asarray(a, np.int64) * b + (1 << 14)) >> 15, 32767)


def _narrow(mult: int) -> int:
    """A 31-bit multiplier rounded to 15 bits."""
    return 32767 if mult >= 2**31 - 1 - (1 << 15) else (mult + (1 << 15)) >> 16


def _hard_swish(q: np.ndarray, attrs: Attrs, source: Quant, target: Quant, dtype: str) -> np.ndarray:
    """16-bit fixed point: x on the output's scale, times relu6(x + 3) / 6 as a fraction of 2**15."""
    fine = _F(1 / 128) * _F(source.scale[0])
    out_mult, out_shift = qm.quantize_multiplier(float(fine / _F(target.scale[0])))
    relu_mult, relu_shift = qm.quantize_multiplier(float(fine / _F(3.0 / 32768.0)))
    value = (q - source.zero_point[0]) << 7
    scaled = _high_mul_16(value, _narrow(out_mult))
    gate = _clip16(value << max(relu_shift - 1, 0))
    gate = _high_mul_16(gate, _narrow(relu_mult))
    gate = _clip16(gate << 1) if relu_shift > 0 else qm.rounding_divide_by_pot(gate, -relu_shift)
    gate = (gate + (1 << 15)) >> 1
    product = _truncated_high_mul_16(gate, scaled)
    product = qm.rounding_divide_by_pot(product, max(-out_shift, 0))
    return np.clip(product + target.zero_point[0], *qm.RANGE[dtype])


def _clip16(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -32768, 32767)


def _truncated_high_mul_16(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a * b / 2**15`, cut towards zero."""
    product = a * b
    return np.minimum(np.where(product < 0, -((-product) >> 15), product >> 15), 32767)


def _abs(q: np.ndarray, attrs: Attrs, source: Quant, target: Quant, dtype: str) -> np.ndarray:
    return qm.requantise(np.abs(q - source.zero_point[0]), *_ratio(source, target), target.zero_point[0], *qm.RANGE[dtype], dtype)


def _neg(q: np.ndarray, attrs: Attrs, source: Quant, target: Quant, dtype: str) -> np.ndarray:
    """By the real value: LiteRT's int8 NEG negates the integer and forgets the zero point, which no model can want."""
    return qm.requantise(source.zero_point[0] - q, *_ratio(source, target), target.zero_point[0], *qm.RANGE[dtype], dtype)


def _clip(q: np.ndarray, attrs: Attrs, source: Quant, target: Quant, dtype: str) -> np.ndarray:
    ends = qm.quantise_array(np.array([attrs["min"], attrs["max"]], np.float32), target.scale[0], target.zero_point[0], dtype)
    return qm.requantise(q - source.zero_point[0], *_ratio(source, target), target.zero_point[0], int(ends[0]), int(ends[1]), dtype)


def _sqrt(q: np.ndarray, attrs: Attrs, source: Quant, target: Quant, dtype: str) -> np.ndarray:
    """LiteRT cuts the square root's fraction off; a negative input counts as 0."""
    real = _F(source.scale[0]) * np.maximum(q - source.zero_point[0], 0).astype(np.float32)
    steps = np.trunc(np.sqrt(real) / _F(target.scale[0])).astype(np.float64)
    return np.clip(steps + target.zero_point[0], *qm.RANGE[dtype])


def _rsqrt(q: np.ndarray, attrs: Attrs, source: Quant, target: Quant, dtype: str) -> np.ndarray:
    """In fixed point; 0 and below give the largest output."""
    value, low, high = q - source.zero_point[0], *qm.RANGE[dtype]
    mult, right = fp.inverse_sqrt(np.maximum(value, 2))
    mult, right = np.where(value <= 1, qm.INT32_MAX, mult), np.where(value <= 1, 0, right)
    fine = qm.multiply_by_quantized_multiplier(1, mult, 20 - right)  # 20 bits behind the point
    out_mult, out_shift = qm.quantize_multiplier(1.0 / float(np.sqrt(_F(source.scale[0])) * _F(target.scale[0])))
    scaled = qm.multiply_by_quantized_multiplier(fine, out_mult, out_shift - 20) + target.zero_point[0]
    return np.where(value <= 0, high, np.clip(scaled, low, high))


def _sigmoid_16(q: np.ndarray, attrs: Attrs, source: Quant, target: Quant, dtype: str) -> np.ndarray:
    return lut16.sigmoid(q, source.scale[0])


def _tanh_16(q: np.ndarray, attrs: Attrs, source: Quant, target: Quant, dtype: str) -> np.ndarray:
    return lut16.tanh(q, source.scale[0])


#: op -> integers to integers, int8 and int16.
INTEGER: Mapping[str, Integer] = {
    "relu": _relu("relu"),
    "relu6": _relu("relu6"),
    "relu_n1_to_1": _relu("relu_n1_to_1"),
    "leaky_relu": _leaky_relu,
    "abs": _abs,
    "neg": _neg,
    "clip": _clip,
}
INTEGER_8: Mapping[str, Integer] = {"hard_swish": _hard_swish, "sqrt": _sqrt, "rsqrt": _rsqrt}
INTEGER_16: Mapping[str, Integer] = {"sigmoid": _sigmoid_16, "tanh": _tanh_16}
