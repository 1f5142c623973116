"""ONNX ops on constants, in numpy: what exporters write to compute shapes, and weights in another form.

Each entry takes the call's constant inputs and attributes. Sizes are bounded before anything is allocated, for files may be damaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sdk.errors import ModelError
from sdk.graph.onnx_import.read import DTYPES

Arrays = Sequence[Any]  # np.ndarray, or None where an optional input is absent
Attrs = Mapping[str, Any]
Compute = Callable[[Arrays, Attrs], Any]


#: More values than this in a computed constant is a mistake in the file: weights are stored, not computed.
MAX_COMPUTED = 1 << 24


def bounded(shape: Sequence[int]) -> tuple[int, ...]:
    """`shape`, unless it is too large to be meant."""
    shape = tuple(int(d) for d in shape)
    if any(d < 0 for d in shape) or math.prod(shape) > MAX_COMPUTED:
        raise ModelError(f"the model computes a constant of shape {list(shape)}; the file is damaged, so export it again")
    return shape


def target_shape(shape: Sequence[int], wanted: Sequence[int], allow_zero: bool = False) -> tuple[int, ...]:
    """ONNX's Reshape: 0 keeps a dimension, -1 is what remains."""
    out = [shape[i] if d == 0 and not allow_zero else int(d) for i, d in enumerate(wanted)]
    if out.count(-1) > 1:
        raise ModelError(f"a Reshape asks for {list(wanted)}; only one dimension may be -1")
    if -1 in out:
        known = math.prod(d for d in out if d != -1)
        out[out.index(-1)] = math.prod(shape) // known if known else 0
    return tuple(out)


def slices(rank: int, shape: Sequence[int], starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None, steps: Sequence[int] | None
           ) -> dict[int, tuple[int, int, int]]:  # fmt: skip
    """Axis -> (begin, end, step) of ONNX's Slice as `sdk.graph.ops` counts them; an end of -1 with a backward step includes 0."""
    axes = range(len(starts)) if axes is None else [int(a) % rank for a in axes]
    steps = [1] * len(starts) if steps is None else steps
    found = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if int(step) == 0:
            raise ModelError("a Slice has step 0; the file is damaged, so export it again")
        begin, stop, by = slice(int(start), int(end), int(step)).indices(shape[axis])
        found[axis] = (begin, max(begin, stop) if by > 0 else min(begin, stop), by)
    return found


def _slice(v: Arrays, a: Attrs) -> np.ndarray:
    x = v[0]
    starts, ends = (a["starts"], a["ends"]) if "starts" in a else (v[1], v[2])
    axes = a.get("axes") if "starts" in a else v[3] if len(v) > 3 else None
    steps = v[4] if len(v) > 4 else None
    picks = [slice(None)] * x.ndim
    for axis, (begin, end, step) in slices(x.ndim, x.shape, starts, ends, axes, steps).items():
        picks[axis] = slice(begin, None if step < 0 and end == -1 else end, step)
    return x[tuple(picks)]


def _axes(v: Arrays, a: Attrs) -> tuple[int, ...] | None:
    axes = a.get("axes", v[1] if len(v) > 1 else None)
    return None if axes is None or len(axes) == 0 else tuple(int(i) for i in axes)


def _squeeze(v: Arrays, a: Attrs) -> np.ndarray:
    return np.squeeze(v[0], _axes(v, a))


def _unsqueeze(v: Arrays, a: Attrs) -> np.ndarray:
    axes = _axes(v, a)
    return v[0] if axes is None else np.expand_dims(v[0], axes)


def _constant_of_shape(v: Arrays, a: Attrs) -> np.ndarray:
    value = a.get("value")
    value = np.zeros(1, np.float32) if value is None else np.asarray(value)
    return np.full(bounded(v[0]), value.reshape(-1)[0], value.dtype)


def _range(v: Arrays, a: Attrs) -> np.ndarray:
    start, limit, delta = (x.reshape(-1)[0] for x in v)
    bounded([max(0, math.ceil((limit - start) / delta))] if delta else [-1])
    return np.arange(start, limit, delta, dtype=v[0].dtype)


def _cast(v: Arrays, a: Attrs) -> np.ndarray:
    name = DTYPES.get(int(a["to"]))
    if name is None:
        raise ModelError(f"the model casts a constant to the ONNX data type {a['to']}, which is not read; export it in float32")
    with np.errstate(invalid="ignore"):
        return np.asarray(v[0]).astype(name)


def _expand(v: Arrays, a: Attrs) -> np.ndarray:
    return np.broadcast_to(v[0], bounded(np.broadcast_shapes(v[0].shape, tuple(int(d) for d in v[1]))))


def _tile(v: Arrays, a: Attrs) -> np.ndarray:
    repeats = [int(r) for r in v[1]]
    bounded([d * r for d, r in zip(v[0].shape, repeats, strict=True)])
    return np.tile(v[0], repeats)


def _divide(v: Arrays, a: Attrs) -> np.ndarray:
    x, y = v
    if x.dtype.kind == "f":
        return x / y
    if np.any(y == 0):
        raise ModelError("the model divides an integer constant by 0; the file is damaged, so export it again")
    return (np.sign(x) * np.sign(y) * (np.abs(x) // np.abs(y))).astype(x.dtype)


def _reduce(function: Callable[..., Any]) -> Compute:
    def compute(v: Arrays, a: Attrs) -> np.ndarray:
        return np.asarray(function(v[0], axis=_axes(v, a), keepdims=bool(a.get("keepdims", 1)))).astype(v[0].dtype)

    return compute


def _gather(v: Arrays, a: Attrs) -> np.ndarray:
    return np.take(v[0], v[1], axis=int(a.get("axis", 0)))


def _pad(v: Arrays, a: Attrs) -> np.ndarray:
    amounts = [int(p) for p in (a["pads"] if "pads" in a else v[1])]
    if a.get("mode", "constant") != "constant" or min(amounts, default=0) < 0 or (len(v) > 3 and v[3] is not None):
        raise NotImplementedError
    half = len(amounts) // 2
    bounded([d + p + q for d, p, q in zip(v[0].shape, amounts[:half], amounts[half:], strict=True)])
    value = v[2].reshape(-1)[0] if len(v) > 2 and v[2] is not None and v[2].size else a.get("value", 0)
    return np.pad(v[0], list(zip(amounts[:half], amounts[half:], strict=True)), constant_values=value)


def _unary(function: Callable[[Any], Any]) -> Compute:
    return lambda v, a: np.asarray(function(v[0])).astype(v[0].dtype)


def _binary(function: Callable[[Any, Any], Any]) -> Compute:
    def compute(v: Arrays, a: Attrs) -> np.ndarray:
        bounded(np.broadcast_shapes(v[0].shape, v[1].shape))
        return np.asarray(function(v[0], v[1]))

    return compute


def _where(v: Arrays, a: Attrs) -> np.ndarray:
    bounded(np.broadcast_shapes(*(x.shape for x in v)))
    return np.asarray(np.where(v[0], v[1], v[2]))


def _matmul(v: Arrays, a: Attrs) -> np.ndarray:
    bounded((*np.broadcast_shapes(v[0].shape[:-2], v[1].shape[:-2]), *v[0].shape[-2:-1], *v[1].shape[-1:]))
    return np.matmul(v[0], v[1])


def _fold(function: Callable[[Any, Any], Any]) -> Compute:
    def compute(v: Arrays, a: Attrs) -> np.ndarray:
        total = v[0]
        for value in v[1:]:
            bounded(np.broadcast_shapes(total.shape, value.shape))
            total = function(total, value)
        return total

    return compute


def _trilu(v: Arrays, a: Attrs) -> np.ndarray:
    k = int(v[1].reshape(-1)[0]) if len(v) > 1 and v[1] is not None else 0
    return np.triu(v[0], k) if a.get("upper", 1) else np.tril(v[0], k)


COMPUTE: Mapping[str, Compute] = {
    "Identity": lambda v, a: v[0],
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Cast": _cast,
    "Expand": _expand,
    "Tile": _tile,
    "Gather": _gather,
    "Pad": _pad,
    "Trilu": _trilu,
    "Concat": lambda v, a: np.concatenate(list(v), axis=int(a["axis"])),
    "Reshape": lambda v, a: v[0].reshape(target_shape(v[0].shape, v[1], bool(a.get("allowzero", 0)))),
    "Flatten": lambda v, a: v[0].reshape(math.prod(v[0].shape[: int(a.get("axis", 1))]), -1),
    "Transpose": lambda v, a: v[0].transpose(a.get("perm")),
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _divide,
    "Mod": lambda v, a: np.fmod(v[0], v[1]) if a.get("fmod") else np.mod(v[0], v[1]),
    "Pow": lambda v, a: np.power(v[0], v[1]).astype(v[0].dtype),
    "Max": _fold(np.maximum),
    "Min": _fold(np.minimum),
    "Sum": _fold(np.add),
    "Equal": _binary(np.equal),
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "And": _binary(np.logical_and),
    "Or": _binary(np.logical_or),
    "Not": lambda v, a: np.logical_not(v[0]),
    "IsNaN": lambda v, a: np.isnan(v[0]),
    "Where": _where,
    "Neg": _unary(np.negative),
    "Abs": _unary(np.abs),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Round": _unary(np.rint),
    "Sqrt": _unary(np.sqrt),
    "Reciprocal": _unary(np.reciprocal),
    "Exp": _unary(np.exp),
    "Log": _unary(np.log),
    "Sin": _unary(np.sin),
    "Cos": _unary(np.cos),
    "Relu": _unary(lambda x: np.maximum(x, 0)),
    "Sigmoid": _unary(lambda x: 1 / (1 + np.exp(-x))),
    "Tanh": _unary(np.tanh),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "ReduceMean": _reduce(np.mean),
    "MatMul": _matmul,
}
