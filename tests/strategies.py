"""Hypothesis strategies that several tests share: quantisations, arrays, small float graphs, damaged files."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

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
