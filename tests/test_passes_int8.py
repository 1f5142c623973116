"""Passes on integer graphs: what comes out is the same to the last byte, on random graphs and on real models."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.graph.builder import Builder
from sdk.graph.from_tflite import from_tflite
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph, Quant
from sdk.graph.verify import verify
from sdk.passes.fold_pad import fold_pad
from sdk.passes.pipeline import QUANTISED, prepare
from tests.data import shared
from tests.strategies import quants, seeds

MLPERF = ("ad01_autoencoder_int8", "ic01_resnet8_int8", "ic_resnet_large_int8", "kws01_dscnn_int8", "sww_ref_int8", "vww01_mbv1_025_int8")
REAL = tuple(f"mlperf_tiny/models/{m}.tflite" for m in MLPERF) + ("models_extra/micro_speech_int8.tflite",)
PYTORCH = "models_extra/mobilenet_v2_224_pytorch_quant.tflite"

#: Drawn one after the other; what the rules look for together stands here several times.
STEPS = (
    "conv2d", "conv2d", "conv2d", "depthwise_conv2d", "depthwise_conv2d", "pad", "pad", "pad_value", "pad_value", "clamp", "clamp", "max_pool2d",
    "avg_pool2d", "mean", "add_self", "add_const", "mul_const", "requantize", "same_scale", "transpose", "transpose_back", "concat", "slice", "gather",
    "reshape", "twice",
)  # fmt: skip
ACTIVATIONS = st.sampled_from(("none", "none", "relu", "relu6", "relu_n1_to_1"))


@st.composite
def int8_graphs(draw: st.DrawFn) -> Graph:
    """1 to 8 int8 ops on an image, channels first or last, ending in an image or in dense and softmax."""
    rng = np.random.default_rng(draw(seeds))
    b = Builder("random")
    x = b.input("x", (1, *draw(st.tuples(*[st.integers(3, 6)] * 3))), "int8", draw(quants()))
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=8)):
        x = _step(b, x, step, rng, draw)
    if draw(st.booleans()):
        return b.graph([x])
    flat = b.op("reshape", x, shape=(1, int(np.prod(b.shape(x)))))
    w = _weights(b, rng, (4, b.shape(flat)[1]), 0)
    return b.graph([b.op("softmax", b.op("dense", flat, w, "", quant=draw(quants()), activation="none"), quant=Quant((1 / 256,), (-128,)), axis=-1, beta=1.0)])


def _weights(b: Builder, rng: np.random.Generator, shape: tuple[int, ...], axis: int) -> str:
    data = rng.integers(-127, 128, shape).astype(np.int8)
    scales = tuple(float(s) for s in rng.uniform(0.002, 0.05, shape[axis]))
    return b.const("w", data, quant=Quant(scales, (0,) * shape[axis], axis))


def _bias(b: Builder, rng: np.random.Generator, channels: int) -> str:
    return b.const("b", rng.integers(-2000, 2000, channels).astype(np.int32), quant=Quant((1.0,) * channels, (0,) * channels, 0))


def _step(b: Builder, x: str, step: str, rng: np.random.Generator, draw: st.DrawFn) -> str:
    shape, quant = b.shape(x), b[x].quant
    padding = draw(st.sampled_from((((0, 0), (0, 0)), ((1, 1), (0, 2)), ((0, 1), (1, 0)))))
    window: dict[str, Any] = {"stride": draw(st.sampled_from(((1, 1), (2, 1)))), "padding": padding, "activation": draw(ACTIVATIONS)}
    match step:
        case "conv2d":
            out = draw(st.integers(1, 4))
            w, bias = _weights(b, rng, (out, *_kernel(shape, draw), shape[3]), 0), _bias(b, rng, out)
            return b.op("conv2d", x, w, bias, quant=draw(quants()), dilation=(1, 1), groups=1, **window)
        case "depthwise_conv2d":
            w, bias = _weights(b, rng, (1, *_kernel(shape, draw), shape[3]), 3), _bias(b, rng, shape[3])
            return b.op("depthwise_conv2d", x, w, bias, quant=draw(quants()), dilation=(1, 1), multiplier=1, **window)
        case "max_pool2d" | "avg_pool2d":
            kernel = (min(2, shape[1]), min(3, shape[2]))
            padding = tuple(tuple(min(p, k - 1) for p in pair) for pair, k in zip(padding, kernel, strict=True))
            more = {"count_include_pad": draw(st.booleans())} if step == "avg_pool2d" else {}
            return b.op(step, x, kernel=kernel, **{**window, "padding": padding}, **more)
        case "mean":
            return b.op("mean", x, quant=draw(quants()), axes=draw(st.sampled_from(((1, 2), (2, 3)))), keep_dims=True)
        case "add_self":
            y = b.op("transpose", b.op("transpose", x, perm=(0, 3, 1, 2)), perm=(0, 2, 3, 1))
            return b.op("add", x, y, quant=draw(quants()), activation=draw(ACTIVATIONS))
        case "add_const" | "mul_const":
            c = b.const("c", rng.integers(-128, 128, (1, shape[3], 1, 1)).astype(np.int8), quant=draw(quants()))
            return b.op(step[:3], x, b.op("transpose", c, perm=(0, 2, 3, 1)), quant=draw(quants()), activation=draw(ACTIVATIONS))
        case "clamp":
            return b.op(draw(st.sampled_from(("relu", "relu6", "relu_n1_to_1"))), x, quant=quant)
        case "requantize":
            return b.op("requantize", x, quant=draw(quants()))
        case "same_scale":
            return b.op("requantize", x, quant=quant)
        case "transpose":
            return b.op("transpose", x, perm=(0, *draw(st.permutations((1, 2, 3)))))
        case "transpose_back":
            return b.op("transpose", b.op("relu", b.op("transpose", x, perm=(0, 3, 1, 2)), quant=quant), perm=(0, 2, 3, 1))
        case "pad" | "pad_value":
            amounts = ((0, 0), (1, 0), (0, 1), draw(st.sampled_from(((0, 0), (0, 0), (1, 0)))))
            return b.op("pad", x, paddings=amounts, value=0.0 if step == "pad" else 0.75)
        case "concat":
            return b.op("concat", x, x, axis=3, activation=draw(ACTIVATIONS)) if shape[3] < 8 else x
        case "slice":
            return b.op("slice", x, begin=(0, 0, shape[2] - 1, 0), end=(1, shape[1], -1, shape[3]), strides=(1, 1, -1, 1))
        case "gather":
            return b.op("gather", x, b.const("i", rng.integers(0, shape[3], 3).astype(np.int32)), axis=3)
        case "reshape":
            return b.op("reshape", b.op("reshape", x, shape=(1, shape[1] * shape[2], shape[3])), shape=(1, shape[2], shape[1], shape[3]))
    copies = [b.op("relu", b.op("transpose", x, perm=(0, 2, 1, 3)), quant=quant) for _ in range(2)]
    return b.op("add", *copies, quant=draw(quants()), activation="none")


def _kernel(shape: tuple[int, ...], draw: st.DrawFn) -> tuple[int, int]:
    return min(draw(st.sampled_from((1, 3))), shape[1]), min(draw(st.sampled_from((1, 3))), shape[2])


def noise(graph: Graph, count: int, seed: int = 0) -> list[np.ndarray]:
    """`count` random samples for every input, over all of int8."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-128, 128, (count, *graph[n].shape[1:])).astype(np.int8) for n in graph.inputs]


def same_bytes(before: Graph, after: Graph, inputs: list[np.ndarray]) -> None:
    verify(after)
    assert (before.inputs, before.outputs) == (after.inputs, after.outputs)
    want, have = run(before, inputs), run(after, inputs)
    for name in before.outputs:
        assert after[name].quant == before[name].quant
        np.testing.assert_array_equal(have[name], want[name], strict=True)


@settings(max_examples=400)
@given(graph=int8_graphs(), seed=seeds)
def test_random_integer_graphs_keep_every_byte(graph: Graph, seed: int) -> None:
    same_bytes(graph, prepare(graph), noise(graph, 2, seed))


@pytest.mark.long
@settings(max_examples=2000)
@given(graph=int8_graphs(), seed=seeds)
def test_many_random_integer_graphs_keep_every_byte(graph: Graph, seed: int) -> None:
    same_bytes(graph, prepare(graph), noise(graph, 2, seed))


@settings(max_examples=40)
@given(graph=int8_graphs(), seed=seeds, one=st.sampled_from(QUANTISED))
def test_each_pass_alone_keeps_every_byte(graph: Graph, seed: int, one: Any) -> None:
    same_bytes(graph, one(graph), noise(graph, 2, seed))


@pytest.mark.parametrize("path", REAL)
def test_real_integer_models_keep_every_byte(path: str) -> None:
    graph = from_tflite(shared(path))
    same_bytes(graph, prepare(graph), noise(graph, 8))


def test_channel_first_export_keeps_one_transpose_of_its_own() -> None:
    """PyTorch's MobileNetV2: every pad becomes the padding of its convolution; the input's transpose is the model's own."""
    graph = from_tflite(shared(PYTORCH))
    after = prepare(graph)
    before, now = Counter(n.op for n in graph.nodes), Counter(n.op for n in after.nodes)
    assert (before["pad"], now["pad"]) == (18, 0)
    assert now["transpose"] == 1 and next(n for n in after.nodes if n.op == "transpose").inputs == after.inputs
    same_bytes(graph, after, noise(graph, 3))


def _padded_conv(value: float, zero_point: int) -> Graph:
    b, rng = Builder("padded"), np.random.default_rng(1)
    x = b.op("pad", b.input("x", (1, 4, 4, 2), "int8", Quant((0.5,), (zero_point,))), paddings=((0, 0), (1, 0), (0, 2), (0, 0)), value=value)
    y = b.op("conv2d", x, _weights(b, rng, (3, 3, 3, 2), 0), "", quant=Quant((40.0,), (3,)), stride=(2, 2), padding=((0, 0), (1, 1)), dilation=(1, 1),
             groups=1, activation="none")  # fmt: skip
    return b.graph([y])


def test_padding_with_the_zero_point_becomes_the_layers() -> None:
    graph = _padded_conv(0.0, -128)
    after = fold_pad(graph)
    assert [n.op for n in after.nodes] == ["conv2d"] and after.nodes[0].attrs["padding"] == ((1, 0), (1, 3))
    same_bytes(graph, after, noise(graph, 4))


def test_padding_with_another_value_stays() -> None:
    assert [n.op for n in fold_pad(_padded_conv(1.0, -128)).nodes] == ["pad", "conv2d"]
