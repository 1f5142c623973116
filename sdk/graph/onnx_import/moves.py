"""ONNX ops that move values: views, slices, joins, paddings, lookups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sdk.graph import pieces
from sdk.graph.onnx_import.constants import bounded, slices, target_shape
from sdk.graph.onnx_import.read import DTYPES
from sdk.graph.onnx_import.walk import Call, Const, Handler, Unknown


def _same(call: Call) -> Any:
    """Identity, and Dropout as it is in inference."""
    if call.node.op_type == "Dropout" and call.has(2) and bool(call.need(2).reshape(-1)[0]):
        raise Unknown
    return [call.inputs[0], None]


def _reshape(call: Call) -> str:
    wanted = call.ints("shape", 1)
    if wanted is None:
        raise Unknown
    return pieces.reshape(call.b, call.x(), target_shape(call.shape(), wanted, bool(call.attrs.get("allowzero", 0))))


def _flatten(call: Call) -> str:
    shape, axis = call.shape(), int(call.attrs.get("axis", 1))
    axis = axis + len(shape) if axis < 0 else axis
    return pieces.reshape(call.b, call.x(), (math.prod(shape[:axis]), math.prod(shape[axis:])))


def _transpose(call: Call) -> str:
    rank = len(call.shape())
    return call.b.op("transpose", call.x(), perm=tuple(int(p) for p in call.attrs.get("perm") or range(rank)[::-1]))


def _squeeze(call: Call) -> str:
    shape, axes = call.shape(), call.ints("axes", 1)
    gone = {i for i, d in enumerate(shape) if d == 1} if not axes else {a % len(shape) for a in axes}
    return pieces.reshape(call.b, call.x(), [d for i, d in enumerate(shape) if i not in gone])


def _unsqueeze(call: Call) -> str:
    shape, axes = list(call.shape()), call.ints("axes", 1)
    if axes is None:
        raise Unknown
    rank = len(shape) + len(axes)
    for axis in sorted(a % rank for a in axes):
        shape.insert(axis, 1)
    return pieces.reshape(call.b, call.x(), shape)


def _slice(call: Call) -> str:
    shape, b = call.shape(), call.b
    starts, ends = call.ints("starts", 1), call.ints("ends", 2)
    if starts is None or ends is None:
        raise Unknown
    ranges = slices(len(shape), shape, starts, ends, call.ints("axes", 3), call.ints("steps", 4))
    if all(ranges[a] == (0, shape[a], 1) for a in ranges):
        return call.x()
    begin, end, step = (tuple(ranges.get(i, (0, d, 1))[k] for i, d in enumerate(shape)) for k in range(3))
    return b.op("slice", call.x(), begin=begin, end=end, strides=step)


def _split(call: Call) -> list[str]:
    axis, sizes = int(call.attrs.get("axis", 0)) % len(call.shape()), call.ints("split", 1)
    total, parts = call.shape()[axis], len(call.node.output)
    if sizes is None:
        each = -(-total // parts)
        sizes = [min(each, total - i * each) for i in range(parts)]
    if sum(sizes) != total or min(sizes) < 0:
        raise ValueError(f"parts {sizes} do not add up to {total}")
    x, at, made = call.x(), 0, []
    for size in sizes:
        made.append(pieces.cut(call.b, x, axis, at, at + size))
        at += size
    return made


def _concat(call: Call) -> str:
    names = [call.walk.as_tensor(v) for v in call.inputs if v is not None and 0 not in call.walk.shape_of(v)]
    if not names or len({call.b[n].dtype for n in names}) > 1:
        raise Unknown
    axis = int(call.attrs["axis"]) % len(call.b.shape(names[0]))
    return names[0] if len(names) == 1 else call.b.op("concat", *names, axis=axis, activation="none")


def _gather(call: Call) -> str:
    """Lookups; one constant index is a slice, negative ones count from the end."""
    axis, b, x = int(call.attrs.get("axis", 0)) % len(call.shape()), call.b, call.x()
    shape = b.shape(x)
    if not isinstance(call.inputs[1], Const):
        return b.op("gather", x, call.x(1), axis=axis)
    index = call.need(1)
    if index.dtype.kind != "i" or (index.size and not (-shape[axis] <= index.min() and index.max() < shape[axis])):
        raise ValueError(f"an index is not in 0..{shape[axis] - 1}")
    index = np.where(index < 0, index + shape[axis], index).astype(index.dtype)
    if index.ndim == 0:
        return b.op("reshape", pieces.cut(b, x, axis, int(index), int(index) + 1), shape=shape[:axis] + shape[axis + 1 :])
    return b.op("gather", x, b.const(f"{b.scope}.indices", index), axis=axis)


def _expand(call: Call) -> str:
    wanted = tuple(int(d) for d in call.need(1).reshape(-1))
    return pieces.expand(call.b, call.x(), np.broadcast_shapes(call.shape(), wanted))


def _tile(call: Call) -> str:
    repeats = tuple(int(r) for r in call.need(1).reshape(-1))
    return call.x() if set(repeats) <= {1} else call.b.op("tile", call.x(), multiples=repeats)


def _amounts(call: Call) -> list[tuple[int, int]]:
    """(before, after) per dimension."""
    rank, flat = len(call.shape()), call.ints("pads", 1)
    if flat is None:
        raise Unknown
    half = len(flat) // 2
    axes = call.ints("axes", 3) if call.opset >= 18 else None
    made = [(0, 0)] * rank
    for axis, before, after in zip(axes if axes is not None else range(rank), flat[:half], flat[half:], strict=True):
        made[axis % rank] = (before, after)
    return made


def _pad(call: Call) -> str:
    amounts, mode = _amounts(call), call.attrs.get("mode", "constant")
    if mode == "constant":
        return pieces.pad_or_cut(call.b, call.x(), amounts, _pad_value(call))
    # the edges repeat what is inside: a lookup along each padded dimension
    x, b = call.x(), call.b
    for axis, (before, after) in enumerate(amounts):
        if before or after:
            x = b.op("gather", x, b.const(f"{b.scope}.places", _mirror(b.shape(x)[axis], before, after, mode)), axis=axis)
    return x


def _pad_value(call: Call) -> float:
    """The real value to pad with; integers with a scale give it as an integer."""
    given = call.array(2) if call.opset >= 11 else None
    value = float(call.attrs.get("value", 0.0)) if given is None or not given.size else float(given.reshape(-1)[0])
    quant = call.b[call.x()].quant
    if quant is None or given is None:
        return value
    shift = 128 if str(given.dtype) == "uint8" else 0
    return quant.scale[0] * (value - shift - quant.zero_point[0])


def _mirror(size: int, before: int, after: int, mode: str) -> np.ndarray:
    if mode not in ("reflect", "edge", "wrap") or min(before, after) < 0:
        raise Unknown
    bounded((size + before + after,))
    return np.pad(np.arange(size, dtype=np.int64), (before, after), mode=mode)  # type: ignore[call-overload]


def _cast(call: Call) -> str:
    dtype = DTYPES.get(int(call.attrs["to"]))
    if dtype is None:
        raise Unknown
    x = call.x()
    return x if call.b[x].dtype == dtype else call.b.op("cast", x, dtype=dtype)


def _blocks(call: Call, apart: Sequence[int], perm: Sequence[int], shape: Sequence[int]) -> str:
    b = call.b
    return b.op("reshape", b.op("transpose", b.op("reshape", call.x(), shape=tuple(apart)), perm=tuple(perm)), shape=tuple(shape))


def _depth_to_space(call: Call) -> str:
    n, c, h, w = call.shape()
    r = int(call.attrs["blocksize"])
    shape = (n, c // (r * r), h * r, w * r)
    if call.attrs.get("mode", "DCR") == "CRD":
        return _blocks(call, (n, c // (r * r), r, r, h, w), (0, 1, 4, 2, 5, 3), shape)
    return _blocks(call, (n, r, r, c // (r * r), h, w), (0, 3, 4, 1, 5, 2), shape)


def _space_to_depth(call: Call) -> str:
    n, c, h, w = call.shape()
    r = int(call.attrs["blocksize"])
    return _blocks(call, (n, c, h // r, r, w // r, r), (0, 3, 5, 1, 2, 4), (n, c * r * r, h // r, w // r))


HANDLERS: dict[str, Handler] = {
    "Identity": _same,
    "Dropout": _same,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "Cast": _cast,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
