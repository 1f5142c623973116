"""Constant channels: the ranges hold for every input, what goes is what was proven, and no byte of the outputs changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.graph.builder import Builder
from sdk.graph.from_tflite import from_tflite
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph, Quant
from sdk.passes.channel_ranges import channel_ranges
from sdk.passes.constant_channels import layer_channels, remove_constant_channels
from sdk.passes.pipeline import prepare
from tests.data import shared
from tests.strategies import quants, seeds
from tests.test_passes_int8 import int8_graphs, noise, same_bytes

ONE = Quant((0.05,), (3,))
PLAIN: dict[str, Any] = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "activation": "none"}
PADDED: dict[str, Any] = {**PLAIN, "padding": ((1, 1), (1, 1))}


def weights(b: Builder, data: Any, axis: int) -> str:
    data = np.asarray(data, np.int8)
    return b.const("w", data, quant=Quant((0.01,) * data.shape[axis], (0,) * data.shape[axis], axis))


def biases(b: Builder, data: Any) -> str:
    data = np.asarray(data, np.int32)
    return b.const("b", data, quant=Quant((0.0005,) * len(data), (0,) * len(data), 0))


def conv(b: Builder, rng: np.random.Generator, x: str, channels: int, kernel: int, quant: Quant, dead: float = 0.0, **attrs: Any) -> str:
    """A conv2d of which a share `dead` of the channels saturates or has no weights."""
    data = rng.integers(-127, 128, (channels, kernel, kernel, b.shape(x)[3]))
    bias = rng.integers(-500, 500, channels)
    for channel in np.flatnonzero(rng.random(channels) < dead):
        if rng.random() < 0.3:
            data[channel] = 0
        else:
            bias[channel] = rng.choice([-1, 1]) * 10**7
    return b.op("conv2d", x, weights(b, data, 0), biases(b, bias), quant=quant, groups=1, **attrs)


@st.composite
def saturated_graphs(draw: st.DrawFn) -> Graph:
    """Blocks of a convolution net in which half of the channels are constant, with residual sums, pools and padding."""
    rng = np.random.default_rng(draw(seeds))
    b = Builder("saturated")
    x = b.input("x", (1, 5, 4, draw(st.integers(1, 6))), "int8", draw(quants()))
    steps = ("conv", "conv", "depthwise", "depthwise", "pool", "residual", "add_const", "relu", "requantize", "pad", "join", "apart")
    x = conv(b, rng, x, 9, 1, draw(quants()), 0.5, **PLAIN)
    for step in draw(st.lists(st.sampled_from(steps), min_size=1, max_size=6)):
        x = _block(b, rng, x, step, draw)
    if draw(st.booleans()):
        x = b.op("reshape", b.op("mean", x, quant=draw(quants()), axes=(1, 2), keep_dims=True), shape=(1, b.shape(x)[3]))
        return b.graph([b.op("dense", x, weights(b, rng.integers(-127, 128, (3, b.shape(x)[1])), 0), "", quant=draw(quants()), activation="none")])
    return b.graph([conv(b, rng, x, 3, 1, draw(quants()), **PLAIN)])


def _block(b: Builder, rng: np.random.Generator, x: str, step: str, draw: st.DrawFn) -> str:
    shape, padded = b.shape(x), draw(st.sampled_from((PLAIN, PADDED)))
    attrs = {**(padded if min(shape[1:3]) < 3 else PADDED), "activation": draw(st.sampled_from(("none", "relu6")))}
    match step:
        case "conv":
            kernel = draw(st.sampled_from((1, 3)))
            return conv(b, rng, x, draw(st.integers(1, 12)), kernel, draw(quants()), 0.5, **(attrs if kernel == 3 else PLAIN))
        case "depthwise":
            data = rng.integers(-127, 128, (1, 3, 3, shape[3])) * (rng.random(shape[3]) < 0.7)
            return b.op("depthwise_conv2d", x, weights(b, data, 3), biases(b, rng.integers(-3000, 3000, shape[3])), quant=draw(quants()), multiplier=1, **attrs)
        case "pool":
            kind = draw(st.sampled_from(("max_pool2d", "avg_pool2d")))
            return b.op(kind, x, kernel=(2, 2), stride=(1, 1), padding=((0, 1), (1, 0)), activation="none")
        case "residual":
            y = conv(b, rng, x, shape[3], 1, draw(quants()), 0.5, **PLAIN)
            return b.op("add", x, y, quant=draw(quants()), activation="relu")
        case "add_const":
            c = b.const("c", rng.integers(-128, 128, draw(st.sampled_from(((shape[3],), (1, 1, 1, 1), shape)))).astype(np.int8), quant=draw(quants()))
            return b.op(draw(st.sampled_from(("add", "sub", "mul"))), x, c, quant=draw(quants()), activation="none")
        case "relu":
            return b.op("relu", x, quant=b[x].quant)
        case "requantize":
            return b.op("requantize", x, quant=draw(quants()))
        case "pad":
            return b.op("pad", x, paddings=((0, 0), (1, 0), (0, 1), (0, 0)), value=draw(st.sampled_from((0.0, 1.0))))
        case "join":
            return b.op("concat", x, x, axis=3, activation="none")
    return b.op("transpose", b.op("reshape", x, shape=(1, shape[2], shape[1], shape[3])), perm=(0, 2, 1, 3))


def ends_and_noise(graph: Graph, seed: int) -> list[np.ndarray]:
    """Inputs at the ends of int8, and in between."""
    rng = np.random.default_rng(seed)
    shapes = [graph[n].shape[1:] for n in graph.inputs]
    return [np.concatenate([rng.choice([-128, 127], (3, *s)), rng.integers(-128, 128, (2, *s))]).astype(np.int8) for s in shapes]


@settings(max_examples=120)
@given(graph=st.one_of(int8_graphs(), saturated_graphs()), seed=seeds)
def test_no_value_leaves_its_range(graph: Graph, seed: int) -> None:
    values, ranges = run(graph, ends_and_noise(graph, seed), keep=True), channel_ranges(graph)
    for name, found in ranges.items():
        assert (values[name] >= found.low).all() and (values[name] <= found.high).all(), name


@settings(max_examples=200)
@given(graph=saturated_graphs(), seed=seeds)
def test_saturated_graphs_keep_every_byte(graph: Graph, seed: int) -> None:
    after = remove_constant_channels(graph)
    same_bytes(graph, after, ends_and_noise(graph, seed))
    assert layer_channels(after) <= layer_channels(graph)
    assert layer_channels(remove_constant_channels(after)) == layer_channels(after)


@pytest.mark.long
@settings(max_examples=2000)
@given(graph=saturated_graphs(), seed=seeds)
def test_many_saturated_graphs_keep_every_byte(graph: Graph, seed: int) -> None:
    same_bytes(graph, prepare(graph), ends_and_noise(graph, seed))


def holds(graph: Graph) -> None:
    """Every byte of the input, and the range that was claimed for the outputs."""
    values, ranges = run(graph, [np.arange(-128, 128).astype(np.int8).reshape(256, 1, 1, 1)], keep=True), channel_ranges(graph)
    for name in graph.outputs:
        assert values[name].min() >= ranges[name].low[0] and values[name].max() <= ranges[name].high[0]


def test_sums_that_wrap_when_shifted_left_can_be_anything() -> None:
    b = Builder("wraps")
    x = b.input("x", (1, 1, 1, 1), "int8", Quant((1.0,), (0,)))
    one = Quant((1.0,), (0,), 0)
    w, bias = b.const("w", np.ones((1, 1, 1, 1), np.int8), quant=one), b.const("b", np.array([1000], np.int32), quant=one)
    holds(b.graph([b.op("conv2d", x, w, bias, quant=Quant((2.0**-24,), (0,)), groups=1, **PLAIN)]))


@pytest.mark.parametrize("power", [4, 8, 9, 24, 29, 30])
def test_scales_so_far_apart_that_values_wrap_can_be_anything(power: int) -> None:
    b = Builder("wraps")
    x = b.input("x", (1, 1, 1, 1), "int8", Quant((1.0,), (-128,)))
    outs = [b.op("requantize", x, quant=Quant((2.0**-power,), (3,))), b.op("add", x, x, quant=Quant((2.0**-power,), (3,)), activation="none")]
    holds(b.graph(outs))


# ---- one rule at a time --------------------------------------------------------------------------------------------


def two_layers(bias: int, zero_point: int, kernel: int, attrs: dict[str, Any], middle: str = "") -> Graph:
    """8 channels, of which 4 have `bias` and so (10**7) stand at 127 or (-10**7) at -128; a second layer reads them."""
    b, rng = Builder("two"), np.random.default_rng(5)
    x = b.input("x", (1, 4, 4, 3), "int8", ONE)
    first = b.op("conv2d", x, weights(b, rng.integers(-127, 128, (8, 1, 1, 3)), 0), biases(b, [bias, 0, bias, 0, bias, 0, bias, 0]),
                 quant=Quant((0.5,), (zero_point,)), groups=1, **PLAIN)  # fmt: skip
    if middle == "output":
        return b.graph([first, conv(b, rng, first, 2, kernel, ONE, **attrs)])
    if middle == "depthwise":
        first = b.op("depthwise_conv2d", first, weights(b, rng.integers(-127, 128, (1, 3, 3, 8)), 3), "", quant=Quant((0.5,), (0,)), multiplier=1, **PADDED)
    if middle == "max_pool2d":
        first = b.op(middle, first, kernel=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), activation="none")
    return b.graph([conv(b, rng, first, 2, kernel, Quant((20.0,), (3,)), **attrs)])


def channels_of_first(graph: Graph) -> int:
    after = remove_constant_channels(graph)
    same_bytes(graph, after, ends_and_noise(graph, 1))
    return after[after.nodes[0].outputs[0]].shape[3]


def test_constants_go_into_the_next_layers_bias() -> None:
    assert channels_of_first(two_layers(10**7, 0, 1, PLAIN)) == 4


def test_constants_pass_through_a_pool() -> None:
    assert channels_of_first(two_layers(10**7, 0, 1, PLAIN, "max_pool2d")) == 4


def test_a_padded_layer_keeps_constants_that_its_border_does_not_have() -> None:
    assert channels_of_first(two_layers(10**7, 0, 3, PADDED)) == 8


def test_a_padded_layer_loses_constants_that_are_the_zero_point() -> None:
    assert channels_of_first(two_layers(-(10**7), -128, 3, PADDED)) == 4


def test_a_padded_depthwise_keeps_a_channel_that_varies_at_the_border_only() -> None:
    assert channels_of_first(two_layers(10**7, 0, 1, PLAIN, "depthwise")) == 8


def test_what_the_model_returns_stays_whole() -> None:
    assert channels_of_first(two_layers(10**7, 0, 1, PLAIN, "output")) == 8


def test_channels_that_vary_stay() -> None:
    graph = two_layers(100, 0, 1, PLAIN)
    assert remove_constant_channels(graph) is graph


def test_a_channel_that_nothing_reads_goes() -> None:
    graph = two_layers(100, 0, 1, PLAIN)
    weight = graph[graph.nodes[1].inputs[1]]
    assert weight.data is not None
    unread = weight.data.copy()
    unread[..., [0, 1, 6, 7]] = 0
    assert channels_of_first(replace(graph, tensors={**graph.tensors, weight.name: replace(weight, data=unread)})) == 4


def test_a_bias_that_would_leave_32_bits_is_not_made() -> None:
    graph = two_layers(10**7, -128, 1, PLAIN)  # four channels of 127, which is 255 above the zero point
    weight, bias = (graph[name] for name in graph.nodes[1].inputs[1:])
    assert weight.data is not None
    given = weight.data[..., ::2].astype(np.int64).sum(axis=(1, 2, 3))
    full = replace(bias, data=np.where(given > 0, 2**31 - 1, -(2**31)).astype(np.int32))
    assert given.all() and channels_of_first(replace(graph, tensors={**graph.tensors, bias.name: full})) == 8


def test_what_is_cut_names_no_parameter_any_more() -> None:
    graph = two_layers(10**7, 0, 1, PLAIN)
    named = {name: replace(t, origin=name) if t.is_const else t for name, t in graph.tensors.items()}
    after = remove_constant_channels(replace(graph, tensors=named))
    assert {t.origin for t in after.constants() if t.shape != graph[t.name.removesuffix(".kept")].shape} == {None}
    assert any(t.origin for t in after.constants())  # the second layer's bias is whole


# ---- real models ---------------------------------------------------------------------------------------------------


def golden(model: str) -> tuple[np.ndarray, np.ndarray]:
    """Public samples as int8 and what LiteRT's reference kernels gave for them."""
    data, want = (np.load(shared(f"mlperf_tiny/public/{model}{end}.npz")) for end in ("", "_golden"))
    x = data["x"]
    if model == "ad01":
        windows = np.array([x[k].reshape(-1)[128 * i : 128 * i + 640] for k in want["int8_ref_files"] for i in range(196)])
        return np.clip(np.round(windows / np.float32(0.3910152316093445) + 89), -128, 127).astype(np.int8), want["int8_ref"].reshape(-1, 640)
    return x if x.dtype == np.int8 else (x.astype(np.int16) - 128).astype(np.int8), want["int8_ref"]


GOLDEN = {"vww_standin_caltech": "vww01_mbv1_025", "ic01": "ic01_resnet8", "kws01": "kws01_dscnn", "ad01": "ad01_autoencoder"}


@pytest.mark.parametrize(("model", "file"), GOLDEN.items())
def test_prepared_models_give_the_reference_kernels_bytes(model: str, file: str) -> None:
    graph = prepare(from_tflite(shared(f"mlperf_tiny/models/{file}_int8.tflite")))
    x, want = golden(model)
    have = run(graph, [x.reshape(-1, *graph[graph.inputs[0]].shape[1:])])[graph.outputs[0]]
    np.testing.assert_array_equal(have.reshape(want.shape), want)


def test_the_person_detector_is_mostly_constant() -> None:
    graph = from_tflite(shared("mlperf_tiny/models/vww01_mbv1_025_int8.tflite"))
    after = prepare(graph)
    sizes = [sum(t.size_bytes for t in g.constants()) for g in (graph, after)]
    assert sizes[0] > 210_000 and sizes[1] < 35_000
    same_bytes(graph, after, noise(graph, 16))
