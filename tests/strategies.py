"""Hypothesis strategies that several tests share: quantisations, arrays, small float graphs, damaged files."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from sdk.graph import channel_first as cf
from sdk.graph.builder import Builder
from sdk.graph.ir import Graph, Quant

seeds = st.integers(0, 2**32 - 1)
scales = st.floats(2.0**-12, 1.0, width=32)


@st.composite
def quants(draw: st.DrawFn, dtype: str = "int8") -> Quant:
    """One scale, and a zero point that suits the type."""
    return Quant((draw(scales),), (draw(st.integers(-128, 127)) if dtype == "int8" else 0,))


@st.composite
def arrays(draw: st.DrawFn, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Values over the whole range of an integer type, or normal float32."""
    rng = np.random.default_rng(draw(seeds))
    if dtype == "float32":
        return rng.normal(size=shape).astype(np.float32)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


_UNARY = ("relu", "relu6", "sigmoid", "tanh", "hard_swish", "silu", "abs")
_STEPS = ("conv2d", "depthwise_conv2d", "max_pool2d", "avg_pool2d", "add_input", "unary", "transpose_twice", "pad", "concat", "mul_const")


@st.composite
def float_graphs(draw: st.DrawFn) -> Graph:
    """A graph of 1 to 6 float32 ops on an image, ending in pooling, dense and softmax."""
    rng = np.random.default_rng(draw(seeds))
    b = Builder("random")
    size, channels = draw(st.integers(4, 8)), draw(st.integers(1, 4))
    x = b.input("x", (1, size, size, channels), "float32")
    for step in draw(st.lists(st.sampled_from(_STEPS), min_size=1, max_size=6)):
        x = _step(b, x, step, rng, draw)
    x = b.op("mean", x, axes=(1, 2), keep_dims=False)
    w = b.const("w", (rng.normal(size=(3, b.shape(x)[-1])) * 0.5).astype(np.float32))
    return b.graph([b.op("softmax", b.op("dense", x, w, "", activation="none"), axis=-1, beta=1.0)])


def _step(b: Builder, x: str, step: str, rng: np.random.Generator, draw: st.DrawFn) -> str:
    channels = b.shape(x)[-1]
    window: dict[str, Any] = {"stride": (1, 1), "padding": ((1, 1), (0, 2)), "activation": "none"}
    match step:
        case "conv2d":
            w = b.const("w", rng.normal(size=(draw(st.integers(1, 4)), 3, 3, channels)).astype(np.float32) / 3)
            return b.op("conv2d", x, w, "", dilation=(1, 1), groups=1, **window)
        case "depthwise_conv2d":
            w = b.const("w", rng.normal(size=(1, 3, 3, channels)).astype(np.float32))
            return b.op("depthwise_conv2d", x, w, "", dilation=(1, 1), multiplier=1, **window)
        case "max_pool2d" | "avg_pool2d":
            return b.op(step, x, kernel=(2, 3), **window)
        case "add_input":
            return b.op("add", x, x, activation="relu")
        case "unary":
            return b.op(draw(st.sampled_from(_UNARY)), x)
        case "transpose_twice":
            return b.op("transpose", b.op("transpose", x, perm=(0, 3, 1, 2)), perm=(0, 2, 3, 1))
        case "pad":
            return b.op("pad", x, paddings=((0, 0), (1, 0), (0, 1), (0, 0)), value=0.0)
        case "concat":
            return b.op("concat", x, x, axis=3, activation="none")
    return b.op("mul", x, b.const("c", rng.normal(size=(1, 1, 1, channels)).astype(np.float32)), activation="none")


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with a few bytes or words changed, a stretch copied elsewhere, or its end cut off."""
    broken = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(broken) - 8)))
        match draw(st.sampled_from(("byte", "word", "large", "copy", "cut"))):
            case "byte":
                broken[place] = draw(st.integers(0, 255))
            case "word":
                broken[place : place + 4] = draw(st.integers(0, 64)).to_bytes(4, "little")
            case "large":
                broken[place : place + 4] = draw(st.integers(0, 2**32 - 1)).to_bytes(4, "little")
            case "copy":
                source = draw(st.integers(0, max(0, len(broken) - 32)))
                broken[place : place + 8] = broken[source : source + 8]
            case "cut":
                if draw(st.integers(0, 9)) == 0:
                    return bytes(broken[:place])
    return bytes(broken)


# ---- graphs as importers write them ---------------------------------------------------------------------------------

#: What `loose_graphs` draws from; what the passes look for stands here several times.
LOOSE = (
    "conv", "conv", "depthwise", "last_conv", "norm", "norm", "pool", "pad", "pad", "activation", "activation", "unary", "scale", "scale", "transpose",
    "transpose", "turn", "turn_back", "add", "add", "concat", "mean", "softmax", "slice", "gather", "tile", "resize", "reshape", "reshape", "dense",
    "layer_norm", "matmul", "prelu", "nothing", "again", "argmax", "constant",
)  # fmt: skip


@st.composite
def loose_graphs(draw: st.DrawFn) -> Graph:
    """1 to 12 float32 ops as importers write them: channels first between transposes, branches, values with several readers,
    broadcast constants, reshapes and transposes anywhere; 1 to 3 outputs, anywhere in the graph."""
    rng = np.random.default_rng(draw(seeds))
    b = Builder("loose")
    pool = [b.input("x", (1, *(int(d) for d in rng.integers(1, 6, 3))), "float32")]
    for step in draw(st.lists(st.sampled_from(LOOSE), min_size=1, max_size=12)):
        x = pool[-1] if draw(st.integers(0, 3)) else pool[int(rng.integers(len(pool)))]
        y = _loose(b, x, step, rng, pool)
        if y is not None and 0 < b[y].size <= 2000:
            pool.append(y)
    outputs = dict.fromkeys([pool[-1], *(pool[int(rng.integers(len(pool)))] for _ in range(draw(st.integers(0, 2))))])
    written = [o for o in outputs if o not in b.inputs] or [b.op("relu", pool[0])]
    return b.graph(written)


def _loose(b: Builder, x: str, step: str, rng: np.random.Generator, pool: list[str]) -> str | None:
    """One more value, None where the step does not fit x."""
    shape = b.shape(x)
    rank = len(shape)
    if b[x].dtype != "float32":
        return b.op("cast", x, dtype="float32")
    if rank < 2:
        return b.op("reshape", x, shape=(1, b[x].size))
    if step in _ON_IMAGES:
        return _loose_image(b, x, step, rng) if rank == 4 else None
    return _loose_any(b, x, step, rng, pool)


_ON_IMAGES = ("conv", "depthwise", "last_conv", "norm", "pool", "resize", "turn", "turn_back")


def _loose_image(b: Builder, x: str, step: str, rng: np.random.Generator) -> str | None:
    _, c, h, w = b.shape(x)
    pads = tuple((int(p), int(q)) for p, q in rng.integers(0, 2, (2, 2)))
    bias = _normal(rng, int(rng.integers(1, 5))) if rng.integers(2) else None
    match step:
        case "conv":
            out = 3 if bias is None else len(bias)
            return cf.conv(b, x, _normal(rng, out, c, min(2, h), 1), bias, stride=(1, 1 + w % 2), dilation=(1, 1), padding=pads, groups=1)  # type: ignore[arg-type]
        case "depthwise":
            return cf.conv(b, x, _normal(rng, 2 * c, 1, 1, min(2, w)), None, stride=(1, 1), dilation=(1, 1), padding=pads, groups=c)  # type: ignore[arg-type]
        case "last_conv":
            return b.op("conv2d", x, b.const("w", _normal(rng, w, 1, 1, w)), "", stride=(1, 1), dilation=(1, 1), padding=pads, groups=1, activation="none")
        case "norm":
            return cf.batch_norm(b, x, [b.const("p", rng.uniform(0.5, 1.5, c).astype(np.float32)) for _ in range(4)], 1e-3)
        case "pool":
            kernel = (min(2, h), min(2, w))
            op = ("max_pool2d", "avg_pool2d")[int(rng.integers(2))]
            padding = tuple((min(p, k - 1), min(q, k - 1)) for (p, q), k in zip(pads, kernel, strict=True))
            more = {"count_include_pad": bool(rng.integers(2))} if op == "avg_pool2d" else {}
            return cf.pool(b, x, op, kernel=kernel, stride=(1, 2), padding=padding, **more)  # type: ignore[arg-type]
        case "resize":
            return cf.resize(b, x, "resize_nearest", (2 * h, w + 1))
        case "turn":
            return b.op("transpose", x, perm=(0, 2, 3, 1))
    return b.op("transpose", x, perm=(0, 3, 1, 2))


def _loose_any(b: Builder, x: str, step: str, rng: np.random.Generator, pool: list[str]) -> str | None:
    shape = b.shape(x)
    rank, last = len(shape), shape[-1]
    axis = int(rng.integers(rank))
    match step:
        case "activation":
            return b.op("clip", x, min=0.0, max=6.0) if rng.integers(4) == 0 else b.op(("relu", "relu6", "relu_n1_to_1")[int(rng.integers(3))], x)
        case "unary":
            return b.op(_UNARY[int(rng.integers(len(_UNARY)))], x)
        case "scale":
            wide = tuple(d if i >= axis and rng.integers(2) else 1 for i, d in enumerate(shape))
            value = b.const("c", _normal(rng, *wide[int(rng.integers(axis + 1)) :]) + 2)
            op = ("add", "sub", "mul", "div", "maximum", "minimum")[int(rng.integers(6))]
            return b.op(op, *((x, value) if rng.integers(3) else (value, x)), activation="none")
        case "transpose":
            return b.op("transpose", x, perm=tuple(int(p) for p in rng.permutation(rank)))
        case "add":
            others = [v for v in pool if b.shape(v) == shape and b[v].dtype == "float32"]
            return b.op(("add", "mul", "squared_difference")[int(rng.integers(3))], x, others[int(rng.integers(len(others)))], activation="none")
        case "concat":
            others = [v for v in pool if b.shape(v) == shape and b[v].dtype == "float32"]
            return b.op("concat", x, *(others[int(rng.integers(len(others)))] for _ in range(int(rng.integers(3)))), axis=axis, activation="none")
        case "mean":
            axes = tuple(sorted({axis, int(rng.integers(rank))}))
            return b.op(("mean", "sum", "reduce_max")[int(rng.integers(3))], x, axes=axes, keep_dims=bool(rng.integers(2)))
        case "softmax":
            return b.op("softmax", x, axis=axis, beta=1.0)
        case "slice":
            low = [int(rng.integers(0, d)) for d in shape]
            back = int(rng.integers(4)) == 0
            begin, end = (tuple(low), shape) if not back else (tuple(d - 1 for d in shape), tuple(v - 1 for v in low))
            return b.op("slice", x, begin=begin, end=end, strides=(-1 if back else 1,) * rank)
        case "gather":
            return b.op("gather", x, b.const("i", rng.integers(0, shape[axis], 3)), axis=axis)
        case "tile":
            return b.op("tile", x, multiples=tuple(1 + int(i == axis) for i in range(rank)))
        case "pad":
            return b.op("pad", x, paddings=tuple((int(p), int(q)) for p, q in rng.integers(0, 2, (rank, 2)) * (rng.integers(3, size=(rank, 1)) > 0)),
                        value=float(rng.integers(3) == 0))  # fmt: skip
        case "reshape":
            return b.op("reshape", x, shape=_other_shape(shape, rng))
        case "dense":
            return b.op("dense", x, b.const("w", _normal(rng, 3, last)), b.const("b", _normal(rng, 3)) if rng.integers(2) else "", activation="none")
        case "layer_norm":
            return b.op("layer_norm", x, b.const("g", _normal(rng, last)), b.const("h", _normal(rng, last)), axes=(rank - 1,), eps=1e-2)
        case "matmul":
            return b.op("batch_matmul", x, b.op("transpose", x, perm=(*range(rank - 2), rank - 1, rank - 2)), transpose_a=False, transpose_b=False)
        case "prelu":
            return b.op("prelu", x, b.const("a", _normal(rng, *(d if i == axis else 1 for i, d in enumerate(shape)))[(0,) * min(axis, 1)]))
        case "nothing":
            return _nothing(b, x, rng)
        case "again":
            node = next((n for n in reversed(b.nodes) if len(n.outputs) == 1 and b[n.outputs[0]].dtype == "float32"), None)
            return None if node is None else b.op(node.op, *node.inputs, **node.attrs)
        case "argmax":
            return b.op("argmax", x, axis=axis)
    return b.op("transpose", b.const("k", _normal(rng, *shape[::-1])), perm=tuple(range(rank))[::-1])  # "constant": known before anything runs


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def _nothing(b: Builder, x: str, rng: np.random.Generator) -> str:
    """An op that changes nothing."""
    shape = b.shape(x)
    match int(rng.integers(6)):
        case 0:
            return b.op("reshape", x, shape=shape)
        case 1:
            return b.op("mul", x, b.const("one", np.ones(shape[-1:], np.float32)), activation="none")
        case 2:
            return b.op("slice", x, begin=(0,) * len(shape), end=shape, strides=(1,) * len(shape))
        case 3:
            return b.op("concat", x, axis=0, activation="none")
        case 4:
            return b.op("transpose", x, perm=tuple(range(len(shape))))
    return b.op("sub", x, b.const("zero", np.float32(0)), activation="none")


def _other_shape(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
    """Dimensions joined, split, or with a 1 put in or taken out."""
    at = int(rng.integers(len(shape)))
    match int(rng.integers(5)):
        case 0 if len(shape) < 5:
            return (*shape[:at], 1, *shape[at:])
        case 1 if 1 in shape and len(shape) > 2:
            where = shape.index(1)
            return shape[:where] + shape[where + 1 :]
        case 2 if len(shape) > 2 and at + 1 < len(shape):
            return (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])
        case 3 if shape[at] % 2 == 0 and len(shape) < 5:
            return (*shape[:at], 2, shape[at] // 2, *shape[at + 1 :])
    return (shape[0], int(np.prod(shape[1:])))
