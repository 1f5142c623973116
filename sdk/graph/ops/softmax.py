"""softmax and log_softmax."""

from __future__ import annotations

import numpy as np

from sdk.graph import fixedpoint as fp
from sdk.graph.ops.base import Op, Use, axis_of, last_axis_only, same_shape


def _shifted(use: Use) -> tuple[np.ndarray, int]:
    x = use.value(0)
    axis = axis_of(use, use.node.attrs.get("axis", -1), x.ndim)
    return (x - x.max(axis=axis, keepdims=True)) * np.float32(use.node.attrs.get("beta", 1.0)), axis


def softmax_float(use: Use) -> np.ndarray:
    """exp(beta * (x - max)) over its sum."""
    x, axis = _shifted(use)
    powers = np.exp(x)
    return powers / powers.sum(axis=axis, keepdims=True)


def softmax_int8(use: Use) -> np.ndarray:
    """LiteRT's fixed-point softmax."""
    return fp.softmax_int8(use.value(0), use.input(0).scale, float(use.node.attrs.get("beta", 1.0)), use.output())


def softmax_int16(use: Use) -> np.ndarray:
    """LiteRT's table softmax for int16: the output's scale is 1 / 32768."""
    return fp.softmax_int16(use.value(0), use.input(0).scale, float(use.node.attrs.get("beta", 1.0)))


def log_softmax_float(use: Use) -> np.ndarray:
    """x - max - log(sum(exp(x - max)))."""
    x, axis = _shifted(use)
    return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def log_softmax_int8(use: Use) -> np.ndarray:
    """LiteRT's fixed-point log_softmax: the output's scale is 1 / 16 and its zero point 127."""
    return fp.log_softmax_int8(use.value(0), use.input(0).scale)


def softmax_output(use: Use) -> str | None:
    """int8: output scale 1/256, zero point -128; int16: output scale 1/32768, zero point 0."""
    want = {"int8": (1 / 256, -128), "int16": (1 / 32768, 0)}.get(use.input(0).dtype)
    out = use.output()
    if want and out.quant and (out.scale, out.zero_point) != want:
        return f"its output has scale {out.scale:g} and zero point {out.zero_point}; softmax gives scale {want[0]:g} and zero point {want[1]}"
    return None


def log_softmax_output(use: Use) -> str | None:
    """int8: output scale 1/16, zero point 127."""
    out = use.output()
    if use.input(0).dtype == "int8" and out.quant and (out.scale, out.zero_point) != (1 / 16, 127):
        return f"its output has scale {out.scale:g} and zero point {out.zero_point}; log_softmax gives scale 1/16 and zero point 127"
    return None


_AXIS = {"axis": "dimension to normalise along, the last by default"}

OPS = (
    Op("softmax", "exp(beta * x) over its sum along an axis.", ("x",), same_shape, {"float32": softmax_float, "int8": softmax_int8, "int16": softmax_int16},
       attrs={**_AXIS, "beta": "factor before the exponential, 1 by default"}, constraints=(last_axis_only, softmax_output)),
    Op("log_softmax", "Logarithm of softmax.", ("x",), same_shape, {"float32": log_softmax_float, "int8": log_softmax_int8}, attrs=_AXIS,
       constraints=(last_axis_only, log_softmax_output)),
)  # fmt: skip
