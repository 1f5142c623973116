"""Between real numbers and integers."""

from __future__ import annotations

import numpy as np

from sdk.graph import quantmath as qm
from sdk.graph.ops.base import Op, Use, fixed, same_shape


def quantize(use: Use) -> np.ndarray:
    """`round(x / scale) + zero_point`, halves away from zero, clamped."""
    out = use.output()
    return qm.quantise_array(use.value(0), out.scale, out.zero_point, out.dtype)


def dequantize(use: Use) -> np.ndarray:
    """`scale * (q - zero_point)` in float32."""
    quant = use.input(0).quant
    if quant is None:
        raise use.wrong("its input has no scale; give the tensor its quantisation")
    return qm.dequantise_array(use.value(0), quant)


def requantize(use: Use) -> np.ndarray:
    """Integers of one scale to integers of another, without floating point."""
    x, out = use.input(0), use.output()
    if x.quant is None or out.quant is None:
        raise use.wrong("its input or output has no scale; give both their quantisation")
    mult, shift = qm.rescale_multiplier(x.quant, out.quant)
    low, high = qm.RANGE[out.dtype]
    return qm.requantise(use.value(0).astype(np.int64) - x.zero_point, mult, shift, out.zero_point, low, high, out.dtype)


def integer_dtype(use: Use) -> str:
    """What the output tensor declares; int8 when nothing does."""
    declared = use.outputs[0] if use.outputs else None
    dtype = use.node.attrs.get("dtype") or (declared.dtype if declared else "int8")
    if dtype not in qm.RANGE:
        raise use.wrong(f"its output is {dtype}; it must be int8, int16 or int32")
    return dtype


def float_dtype(use: Use) -> str:
    """float32."""
    return "float32"


OPS = (
    Op("quantize", "Real numbers to integers: round(x / scale) + zero_point.", ("x",), same_shape, {"float32": quantize}, dtype=integer_dtype),
    Op("dequantize", "Integers to real numbers: scale * (q - zero_point).", ("x",), same_shape, fixed(("int8", "int16", "int32"), dequantize), dtype=float_dtype),  # noqa: E501
    Op("requantize", "Integers of one scale to integers of another.", ("x",), same_shape, fixed(("int8", "int16", "int32"), requantize), dtype=integer_dtype),
)
