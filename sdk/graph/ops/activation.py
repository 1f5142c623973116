"""Elementwise ops of one tensor, and prelu. Their formulas stand in `sdk.graph.unary`."""

from __future__ import annotations

import numpy as np

from sdk.graph import quantmath as qm
from sdk.graph import unary
from sdk.graph.ops.base import Meaning, Op, Shape, Use, broadcast_shape, same_shape


def _float(name: str) -> Meaning:
    def meaning(use: Use) -> np.ndarray:
        with np.errstate(all="ignore"):
            return unary.FUNCTIONS[name](use.value(0), use.node.attrs).astype(np.float32, copy=False)

    return meaning


def _int8(name: str) -> Meaning:
    def meaning(use: Use) -> np.ndarray:
        source, target = use.input(0)._one(), use.output()._one()
        table = unary.unary_table(name, use.node.attrs, source, target)
        return table[use.value(0).astype(np.int16) + 128]

    return meaning


def _int16(name: str) -> Meaning:
    def meaning(use: Use) -> np.ndarray:
        source, target = use.input(0)._one(), use.output()._one()
        return unary.unary_integers(name, use.node.attrs, use.value(0), source, target, "int16")

    return meaning


def fixed_int16_output(use: Use) -> str | None:
    """int16 sigmoid and tanh: output scale 1/32768."""
    out = use.outputs[0]
    if use.node.op in ("sigmoid", "tanh") and use.input(0).dtype == "int16" and out is not None and out.quant and out.scale != 1 / 32768:
        return f"its int16 output has scale {out.scale:g}; {use.node.op} gives scale 1/32768"
    return None


def prelu_shape(use: Use) -> Shape:
    """The input's; alpha broadcasts to it."""
    if broadcast_shape(use) != use.input(0).shape:
        raise use.wrong(f"alpha {list(use.input(1).shape)} does not broadcast to the input {list(use.input(0).shape)}")
    return use.input(0).shape


def prelu_float(use: Use) -> np.ndarray:
    """x where x >= 0, else alpha * x."""
    x = use.value(0)
    return np.where(x >= 0, x, x * use.value(1))


def prelu_int(use: Use) -> np.ndarray:
    """int8: two multipliers, one for each sign."""
    x, alpha, out = use.input(0), use.input(1), use.output()
    value, slope = use.value(0).astype(np.int64) - x.zero_point, use.value(1).astype(np.int64) - alpha.zero_point
    same = qm.quantize_multiplier(float(np.float32(x.scale) / np.float32(out.scale)))
    less = qm.quantize_multiplier(float(np.float32(x.scale) * np.float32(alpha.scale) / np.float32(out.scale)))
    scaled = np.where(value >= 0, qm.multiply_by_quantized_multiplier(value, *same), qm.multiply_by_quantized_multiplier(value * slope, *less))
    return np.clip(scaled + out.zero_point, *qm.RANGE[out.dtype]).astype(out.dtype)


#: op -> (what it computes, its attributes)
_UNARY: dict[str, tuple[str, dict[str, str]]] = {
    "relu": ("max(x, 0).", {}),
    "relu6": ("x clamped to 0..6.", {}),
    "relu_n1_to_1": ("x clamped to -1..1.", {}),
    "leaky_relu": ("x where x >= 0, else alpha * x.", {"alpha": "slope for negative x"}),
    "elu": ("x where x >= 0, else exp(x) - 1.", {}),
    "hard_swish": ("x * relu6(x + 3) / 6.", {}),
    "hard_sigmoid": ("relu6(x + 3) / 6.", {}),
    "sigmoid": ("1 / (1 + exp(-x)).", {}),
    "tanh": ("tanh(x).", {}),
    "silu": ("x * sigmoid(x).", {}),
    "gelu": ("x * P(N(0, 1) < x).", {"approximate": "use the tanh formula"}),
    "exp": ("exp(x).", {}),
    "log": ("Natural logarithm of x.", {}),
    "sqrt": ("Square root of x.", {}),
    "rsqrt": ("1 / sqrt(x).", {}),
    "abs": ("|x|.", {}),
    "neg": ("-x.", {}),
    "clip": ("x clamped to min..max.", {"min": "lower bound", "max": "upper bound"}),
}

OPS = (
    *(Op(name, doc, ("x",), same_shape, {"float32": _float(name), "int8": _int8(name), "int16": _int16(name)}, attrs=attrs,
         constraints=(fixed_int16_output,) if name in ("sigmoid", "tanh") else ())
      for name, (doc, attrs) in _UNARY.items()),
    Op("prelu", "x where x >= 0, else alpha * x with one alpha per channel.", ("x", "alpha"), prelu_shape,
       {"float32": prelu_float, "int8": prelu_int}),
)  # fmt: skip
