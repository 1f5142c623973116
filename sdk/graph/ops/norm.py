"""Normalisation over the last axis."""

from __future__ import annotations

import numpy as np

from sdk.graph import quantmath as qm
from sdk.graph.ops.base import Op, Shape, Use, is_quantised

_F = np.float32


def norm_shape(use: Use) -> Shape:
    """The input's; every parameter has one value per channel."""
    x = use.input(0).shape
    for i in range(1, len(use.inputs)):
        if not x or use.input(i).shape != (x[-1],):
            raise use.wrong(f"parameter {use.input(i).name} has shape {list(use.input(i).shape)}; it must be one value per channel of {list(x)}")
    return x


def batch_norm(use: Use) -> np.ndarray:
    """(x - mean) * gamma / sqrt(var + eps) + beta."""
    x, gamma, beta, mean, var = (use.value(i) for i in range(5))
    return (x - mean) * (gamma / np.sqrt(var + _F(use.attr("eps")))) + beta


def layer_norm_float(use: Use) -> np.ndarray:
    """Mean and (biased) variance of each row taken out, then gamma and beta."""
    x, gamma, beta = (use.value(i) for i in range(3))
    mean = x.mean(axis=-1, keepdims=True, dtype=np.float32)
    var = np.square(x - mean).mean(axis=-1, keepdims=True, dtype=np.float32)
    return (x - mean) / np.sqrt(var + _F(use.attr("eps"))) * gamma + beta


def layer_norm_int(use: Use) -> np.ndarray:
    """Exact integer sums, then float32 in exactly this order, no operation fused (s input scale, n channels, d = q - zero point):

    total = sum(d); square = n * sum(d * d) - total * total                      (64-bit integers)
    inverse = 1 / sqrt(float(square) / float(n * n) * (s * s) + eps)
    y = ((float(n * d - total) / float(n)) * s * inverse) * gamma + beta
    q = clamp(round(y / output scale) + output zero point), halves away from zero
    """
    x, out, eps = use.input(0), use.output(), _F(use.attr("eps"))
    d = use.value(0).astype(np.int64) - x.zero_point
    n, s = d.shape[-1], _F(x.scale)
    total = d.sum(axis=-1, keepdims=True)
    square = n * (d * d).sum(axis=-1, keepdims=True) - total * total
    inverse = _F(1) / np.sqrt(square.astype(np.float32) / _F(n * n) * (s * s) + eps)
    y = (n * d - total).astype(np.float32) / _F(n) * s * inverse * use.value(1) + use.value(2)
    return qm.quantise_array(y, out.scale, out.zero_point, out.dtype)


def float_parameters(use: Use) -> str | None:
    """gamma and beta are float32, also when x is int8 or int16."""
    wrong = [t for t in use.inputs[1:] if t is not None and t.dtype != "float32"]
    return f"its parameter {wrong[0].name} is {wrong[0].dtype}; keep it float32" if wrong else None


def last_axes(use: Use) -> str | None:
    """Along the last axis only."""
    rank = len(use.input(0).shape)
    axes = use.node.attrs.get("axes", (-1,))
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    return None if axes in ((-1,), (rank - 1,)) else f"it normalises axes {list(axes)}; only the last axis is defined, reshape or transpose first"


def positive_eps(use: Use) -> str | None:
    """int8, int16: eps is positive."""
    return "its eps must be positive, or a constant row divides by zero" if is_quantised(use.input(0)) and not use.attr("eps") > 0 else None


OPS = (
    Op("batch_norm", "(x - mean) * gamma / sqrt(var + eps) + beta per channel; folded away before a model is quantised.",
       ("x", "gamma", "beta", "mean", "var"), norm_shape, {"float32": batch_norm}, attrs={"eps": "added to the variance"}),
    Op("layer_norm", "Each row of x brought to mean 0 and variance 1, then times gamma plus beta.", ("x", "gamma", "beta"), norm_shape,
       {"float32": layer_norm_float, "int8": layer_norm_int, "int16": layer_norm_int},
       attrs={"axes": "the last", "eps": "added to the variance"}, constraints=(float_parameters, last_axes, positive_eps)),
)  # fmt: skip
