"""ATen ops that move values: views, slices, joins, paddings, lookups."""

from __future__ import annotations

import numpy as np

from sdk.graph import pieces
from sdk.graph.ir import ITEMSIZE
from sdk.graph.pieces import cut
from sdk.graph.torch_import.walk import Call, Handler, Unknown


def _reshape(call: Call) -> str:
    """Every view whose result shape the export knows."""
    x = call.tensor("self" if "self" in call.args else "input")
    if call.b[x].dtype != call.out_dtype:
        raise Unknown  # view(dtype) reads the bytes as another type
    return x if call.b.shape(x) == call.out_shape else call.b.op("reshape", x, shape=call.out_shape)


def _same(call: Call) -> str:
    """Ops without effect in inference: dropout, contiguous, clone, detach."""
    return call.tensor("self" if "self" in call.args else "input")


def _dropout(call: Call) -> str:
    if call["train"] and call["p"]:
        raise Unknown
    return call.tensor("input")


def _to(call: Call) -> str:
    """Casts; devices and memory formats mean nothing here."""
    x = call.tensor("self")
    if call.out_dtype not in ITEMSIZE:
        raise Unknown
    return x if call.b[x].dtype == call.out_dtype else call.b.op("cast", x, dtype=call.out_dtype)


def _transpose(call: Call, perm: list[int]) -> str:
    return call.b.op("transpose", call.tensor("self"), perm=tuple(perm))


def _swap(call: Call) -> str:
    """Two dimensions in each other's place; `swapaxes` calls them axes."""
    rank = len(call.shape())
    perm = list(range(rank))
    i, j = (int(call.args[f"dim{k}" if f"dim{k}" in call.args else f"axis{k}"]) % max(rank, 1) for k in (0, 1))
    perm[i], perm[j] = perm[j], perm[i]
    return _transpose(call, perm)


def _permute(call: Call) -> str:
    return _transpose(call, [int(d) % len(call.shape()) for d in call["dims"]])


def _t(call: Call) -> str:
    return _transpose(call, list(range(len(call.shape())))[::-1])


def _mt(call: Call) -> str:
    """The last two dimensions exchanged."""
    rank = len(call.shape())
    return _transpose(call, [*range(rank - 2), rank - 1, rank - 2])


def _movedim(call: Call) -> str:
    """Some dimensions put elsewhere; the others keep their order."""
    rank = len(call.shape())
    source, target = ([d % rank for d in ([v] if isinstance(v, int) else v)] for v in (call["source"], call["destination"]))
    perm = [d for d in range(rank) if d not in source]
    for to, dim in sorted(zip(target, source, strict=True)):
        perm.insert(to, dim)
    return _transpose(call, perm)


def _slice(call: Call) -> str:
    size_of = call.shape()
    dim = int(call["dim"]) % len(size_of)
    begin, end, step = slice(call["start"], call["end"], call["step"]).indices(size_of[dim])
    return cut(call.b, call.tensor("self"), dim, begin, max(begin, end), step)


def _select(call: Call) -> str:
    shape = call.shape()
    dim = int(call["dim"]) % len(shape)
    index = int(call["index"]) % shape[dim]
    return call.b.op("reshape", cut(call.b, call.tensor("self"), dim, index, index + 1), shape=call.out_shape)


def _narrow(call: Call) -> str:
    shape = call.shape()
    dim = int(call["dim"]) % len(shape)
    start = int(call["start"]) % max(shape[dim], 1)
    return cut(call.b, call.tensor("self"), dim, start, start + int(call["length"]))


def _split(call: Call) -> list[str]:
    """split, split_with_sizes, chunk, unbind: the export knows the size of every part."""
    x, dim = call.tensor("self"), int(call["dim"]) % len(call.shape())
    parts, at = [], 0
    for meta in call.node.meta["val"]:
        size = int(meta.shape[dim])
        parts.append(cut(call.b, x, dim, at, at + size))
        at += size
    return parts


def _unbind(call: Call) -> list[str]:
    x, dim = call.tensor("self"), int(call["dim"]) % len(call.shape())
    return [call.b.op("reshape", cut(call.b, x, dim, i, i + 1), shape=tuple(m.shape)) for i, m in enumerate(call.node.meta["val"])]


def _cat(call: Call) -> str:
    values = [v for v in call["tensors"] if call.walk.shape_of(v) != (0,)]  # torch lets empty vectors join anything
    names = [call.walk.as_tensor(v) for v in values]
    dtype = call.out_dtype
    names = [n if call.b[n].dtype == dtype else call.b.op("cast", n, dtype=dtype) for n in names]
    return names[0] if len(names) == 1 else call.b.op("concat", *names, axis=int(call["dim"]) % len(call.out_shape), activation="none")


def _stack(call: Call) -> str:
    rank = len(call.out_shape)
    dim = int(call["dim"]) % rank
    b, names = call.b, [call.walk.as_tensor(v) for v in call["tensors"]]
    apart = [b.op("reshape", n, shape=(*b.shape(n)[:dim], 1, *b.shape(n)[dim:])) for n in names]
    return b.op("concat", *apart, axis=dim, activation="none")


def _expand(call: Call) -> str:
    return pieces.expand(call.b, call.tensor("self"), call.out_shape)


def _repeat(call: Call) -> str:
    x, b, repeats = call.tensor("self"), call.b, tuple(int(r) for r in call["repeats"])
    shape = (1,) * (len(repeats) - len(b.shape(x))) + b.shape(x)
    x = x if shape == b.shape(x) else b.op("reshape", x, shape=shape)
    return b.op("tile", x, multiples=repeats)


def _pad(call: Call) -> str:
    """Constant padding, given from the last dimension backwards."""
    if call.args.get("mode", "constant") != "constant":
        raise Unknown
    rank, flat = len(call.shape()), [int(p) for p in call["pad"]]
    amounts = [(0, 0)] * (rank - len(flat) // 2) + [(flat[i], flat[i + 1]) for i in range(len(flat) - 2, -1, -2)]
    return pieces.pad_or_cut(call.b, call.tensor("self"), amounts, float(call["value"] or 0))


def _gather(call: Call, x: str, indices: str, axis: int) -> str:
    return call.b.op("gather", x, indices, axis=axis)


def _embedding(call: Call) -> str:
    return _gather(call, call.tensor("weight"), call.tensor("indices"), 0)


def _index_select(call: Call) -> str:
    return _gather(call, call.tensor("self"), call.tensor("index"), int(call["dim"]) % len(call.shape()))


def _index(call: Call) -> str:
    """x[:, idx]: one integer index tensor."""
    given = [(i, v) for i, v in enumerate(call["indices"]) if v is not None]
    if len(given) != 1:
        raise Unknown
    axis, value = given[0]
    indices = call.walk.as_tensor(value)
    if call.b[indices].dtype not in ("int32", "int64"):
        raise Unknown
    if call.b[indices].is_const:
        data = np.asarray(call.b[indices].data)
        indices = call.b.const(f"{call.b.scope}.indices", np.where(data < 0, data + call.shape()[axis], data))
    return _gather(call, call.tensor("self"), indices, axis)


def _flip(call: Call) -> str:
    """Reversed along some dimensions: a slice with step -1."""
    shape = call.shape()
    back = {int(d) % len(shape) for d in call["dims"]}
    begin = tuple(d - 1 if i in back else 0 for i, d in enumerate(shape))
    end = tuple(-1 if i in back else d for i, d in enumerate(shape))
    return call.b.op("slice", call.tensor("self"), begin=begin, end=end, strides=tuple(-1 if i in back else 1 for i in range(len(shape))))


def _pixel_shuffle(call: Call) -> str:
    x, b, r = call.tensor("self"), call.b, int(call["upscale_factor"])
    if len(b.shape(x)) != 4:
        raise Unknown
    n, c, h, w = b.shape(x)
    apart = b.op("reshape", x, shape=(n, c // (r * r), r, r, h, w))
    return b.op("reshape", b.op("transpose", apart, perm=(0, 1, 4, 2, 5, 3)), shape=call.out_shape)


def _pixel_unshuffle(call: Call) -> str:
    x, b, r = call.tensor("self"), call.b, int(call["downscale_factor"])
    if len(b.shape(x)) != 4:
        raise Unknown
    n, c, h, w = b.shape(x)
    apart = b.op("reshape", x, shape=(n, c, h // r, r, w // r, r))
    return b.op("reshape", b.op("transpose", apart, perm=(0, 1, 3, 5, 2, 4)), shape=call.out_shape)


def _channel_shuffle(call: Call) -> str:
    x, b, groups = call.tensor("self"), call.b, int(call["groups"])
    n, c, *rest = b.shape(x)
    apart = b.op("reshape", x, shape=(n, groups, c // groups, *rest))
    return b.op("reshape", b.op("transpose", apart, perm=(0, 2, 1, *range(3, 3 + len(rest)))), shape=call.out_shape)


_RESHAPES = ("view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "_unsafe_view", "view_as", "_reshape_alias", "reshape_as")
_NOTHING = ("contiguous", "clone", "detach", "alias", "lift_fresh_copy")

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(_NOTHING, _same),
    "dropout": _dropout,
    "feature_dropout": _dropout,
    "alpha_dropout": _dropout,
    "to": _to,
    "_to_copy": _to,
    "type_as": _to,
    "transpose": _swap,
    "swapaxes": _swap,
    "swapdims": _swap,
    "movedim": _movedim,
    "moveaxis": _movedim,
    "mT": _mt,
    "permute": _permute,
    "t": _t,
    "numpy_T": _t,
    "slice": _slice,
    "select": _select,
    "narrow": _narrow,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _split,
    "tensor_split": _split,
    "unbind": _unbind,
    "cat": _cat,
    "concat": _cat,
    "stack": _stack,
    "expand": _expand,
    "expand_as": _expand,
    "repeat": _repeat,
    "pad": _pad,
    "constant_pad_nd": _pad,
    "embedding": _embedding,
    "index_select": _index_select,
    "index": _index,
    "flip": _flip,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
}
