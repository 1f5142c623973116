"""Small pieces that both importers write: what one node of torch or ONNX is in several of ours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sdk.graph.builder import Builder

#: Stands for minus infinity in attention masks: exp() of it is exactly 0 in float32, and it can be written in a weight file.
MASKED = -1e4


def clamp(b: Builder, x: str, low: float | None, high: float | None) -> str:
    """x limited to [low, high]; a missing limit is None. The named activations where the limits are theirs."""
    named = {(0.0, None): "relu", (0.0, 6.0): "relu6", (-1.0, 1.0): "relu_n1_to_1"}
    op = None if low is None else named.get((float(low), None if high is None else float(high)))
    if op is not None:
        return b.op(op, x)
    if low is not None and high is not None:
        return b.op("clip", x, min=float(low), max=float(high))
    if low is None and high is None:
        return x
    op, limit = ("minimum", high) if low is None else ("maximum", low)
    return b.op(op, x, b.const(f"{b.scope}.limit", np.array(limit, np.float32)), activation="none")


def reshape(b: Builder, x: str, shape: Sequence[int]) -> str:
    """A reshape, unless x has that shape."""
    return x if b.shape(x) == tuple(shape) else b.op("reshape", x, shape=tuple(int(d) for d in shape))


def cut(b: Builder, x: str, dim: int, begin: int, end: int, step: int = 1) -> str:
    """x[..., begin:end:step, ...] along `dim`; counts as the op `slice` wants them."""
    shape = b.shape(x)
    if (begin, end, step) == (0, shape[dim], 1):
        return x
    low, high, steps = [0] * len(shape), list(shape), [1] * len(shape)
    low[dim], high[dim], steps[dim] = begin, end, step
    return b.op("slice", x, begin=tuple(low), end=tuple(high), strides=tuple(steps))


def pad_or_cut(b: Builder, x: str, amounts: Sequence[tuple[int, int]], value: float) -> str:
    """Constant padding by (before, after) per dimension; negative amounts cut."""
    for dim, (before, after) in enumerate(amounts):
        if before < 0 or after < 0:
            x = cut(b, x, dim, max(0, -before), b.shape(x)[dim] - max(0, -after))
    paddings = tuple((max(0, int(p)), max(0, int(q))) for p, q in amounts)
    return b.op("pad", x, paddings=paddings, value=value) if any(map(any, paddings)) else x


def expand(b: Builder, x: str, shape: Sequence[int]) -> str:
    """x broadcast to `shape`: a reshape for new dimensions, a tile where one grows."""
    wide = reshape(b, x, (1,) * (len(shape) - len(b.shape(x))) + b.shape(x))
    multiples = tuple(int(o) if s == 1 else 1 for s, o in zip(b.shape(wide), shape, strict=True))
    return wide if set(multiples) <= {1} else b.op("tile", wide, multiples=multiples)


def matmul(b: Builder, left: str, right: str) -> str:
    """left @ right in numpy's rules; vectors get the missing dimension and lose it again."""
    a, c = b.shape(left), b.shape(right)
    left = reshape(b, left, (1, *a)) if len(a) == 1 else left
    right = reshape(b, right, (*c, 1)) if len(c) == 1 else right
    y = b.op("batch_matmul", left, right, transpose_a=False, transpose_b=False)
    shape = list(b.shape(y))
    if len(c) == 1:
        shape.pop(-1)
    if len(a) == 1:
        shape.pop(-1 if len(c) == 1 else -2)
    return reshape(b, y, shape)


def by_mask(b: Builder, x: str, keep: np.ndarray, other: np.ndarray) -> str:
    """x where `keep`, else the constant `other`: times 1 or 0, plus the rest. Minus infinity becomes `MASKED`.

    A mask with minus infinity is an attention mask, which is only added: exp() makes 0 of what stays below it.
    """
    if np.all(keep | (other <= MASKED)):
        return b.op("add", x, b.const(f"{b.scope}.mask", np.where(keep, 0, MASKED).astype(np.float32)), activation="none")
    kept = b.op("mul", x, b.const(f"{b.scope}.keep", keep.astype(np.float32)), activation="none")
    rest = np.where(keep, 0, np.where(np.isneginf(other), MASKED, other)).astype(np.float32)
    return b.op("add", kept, b.const(f"{b.scope}.other", rest), activation="none") if rest.any() else kept


def group_norm(b: Builder, x: str, groups: int, eps: float, scale: np.ndarray | None, offset: np.ndarray | None,
               origins: tuple[str | None, str | None] = (None, None)) -> str:  # fmt: skip
    """Channel-first group norm: each group of channels is one row of a layer_norm, then a factor and an offset per channel."""
    shape = b.shape(x)
    width = math.prod(shape[1:]) // groups
    ones, zeros = b.const(f"{b.scope}.ones", np.ones(width, np.float32)), b.const(f"{b.scope}.zeros", np.zeros(width, np.float32))
    rows = b.op("reshape", x, shape=(shape[0], groups, width))
    y = b.op("reshape", b.op("layer_norm", rows, ones, zeros, axes=(2,), eps=float(eps)), shape=shape)
    for op, name, value, origin in (("mul", "weight", scale, origins[0]), ("add", "bias", offset, origins[1])):
        if value is not None:
            y = b.op(op, y, b.const(f"{b.scope}.{name}", value.reshape(-1, *[1] * (len(shape) - 2)), origin), activation="none")
    return y


def layer_norm(b: Builder, x: str, axes: int, eps: float, gamma: np.ndarray | None, beta: np.ndarray | None,
               origins: tuple[str | None, str | None] = (None, None)) -> str:  # fmt: skip
    """layer_norm over the last `axes` dimensions, which become one where there are several."""
    shape = b.shape(x)
    lead, width = shape[: len(shape) - axes], math.prod(shape[len(shape) - axes :])
    flat = reshape(b, x, (*lead, width))
    weight = np.ones(width, np.float32) if gamma is None else gamma.reshape(-1)
    bias = np.zeros(width, np.float32) if beta is None else beta.reshape(-1)
    stem = b.scope or "layer_norm"
    names = [b.const(f"{stem}.{n}", v, o) for n, v, o in (("weight", weight, origins[0]), ("bias", bias, origins[1]))]
    y = b.op("layer_norm", flat, *names, axes=(len(b.shape(flat)) - 1,), eps=float(eps))
    return reshape(b, y, shape)
