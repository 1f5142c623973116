"""LiteRT files written from graphs, op by op and at random: the interpreter's bytes on LiteRT's reference kernels."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.backends.litert.legalise import legalise
from sdk.backends.litert.split_depthwise import MOST_TAPS, split_depthwise, tiles
from sdk.backends.litert.writer import WRITINGS, write
from sdk.errors import UnsupportedOp
from sdk.graph.builder import Builder
from sdk.graph.from_tflite import from_tflite
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph, Quant
from sdk.graph.ops import OPS, training
from sdk.graph.verify import verify
from sdk.passes.quantise import QuantOptions, quantise
from tests.litert_cases import CASES
from tests.small_models import float_cnn
from tests.strategies import float_graphs, seeds
from tests.tflite_writer import kernels, reference


def outputs(graph: Graph, feed: list[np.ndarray]) -> list[np.ndarray]:
    """What the interpreter computes, in the order of the graph's outputs."""
    values = run(graph, feed)
    return [values[name] for name in graph.outputs]


def feed_for(graph: Graph, rng: np.random.Generator) -> list[np.ndarray]:
    """Random values of every input, the whole range of its type."""
    def one(name: str) -> np.ndarray:
        tensor = graph[name]
        if tensor.dtype == "float32":
            return rng.normal(size=tensor.shape).astype(np.float32)
        info = np.iinfo(tensor.dtype)
        return rng.integers(info.min, info.max + 1, tensor.shape).astype(tensor.dtype)

    return [one(name) for name in graph.inputs]


def same_bytes(graph: Graph, feed: list[np.ndarray]) -> None:
    """LiteRT's reference kernels give the interpreter's bytes."""
    for have, want in zip(reference(write(graph), feed), outputs(graph, feed), strict=True):
        assert have.dtype == want.dtype and have.shape == want.shape
        assert np.array_equal(have, want), f"{np.sum(have != want)} of {want.size} differ"


def close(have: np.ndarray, want: np.ndarray, tolerance: float = 1e-5) -> None:
    """float32 results within `tolerance` of the largest value."""
    assert have.dtype == want.dtype and have.shape == want.shape
    assert np.abs(have - want).max() <= tolerance * max(np.abs(want).max(), 1e-6)


def essence(graph: Graph) -> tuple:
    """What a round trip must keep: nodes without their names, tensors, inputs, outputs; a bias of zeros counts as none."""
    zeros = {n for n in graph.tensors if n.startswith("zero_bias")}
    nodes = [(n.op, tuple("" if i in zeros else i for i in n.inputs), n.outputs, dict(n.attrs)) for n in graph.nodes]
    tensors = {name: (t.shape, t.dtype, t.quant, None if t.data is None else t.data.tobytes()) for name, t in graph.tensors.items() if name not in zeros}
    return graph.inputs, graph.outputs, nodes, tensors


# ---- every quantised operator that LiteRT has ----------------------------------------------------------------------


def rewritten(name: str, seed_numbers: range) -> None:
    """A .tflite of one operator, read and written again: the same graph, the same bytes."""
    for seed in seed_numbers:
        rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
        case = CASES[name](rng)
        graph = from_tflite(case.model)
        same_bytes(graph, case.feed(rng))
        assert essence(from_tflite(write(graph))) == essence(graph)


@pytest.mark.parametrize("name", CASES)
def test_an_operator_read_and_written_is_the_same(name: str) -> None:
    rewritten(name, range(2))


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_an_operator_read_and_written_is_the_same_at_length(name: str) -> None:
    rewritten(name, range(2, 60))


# ---- integer ops that LiteRT lacks, or computes otherwise ----------------------------------------------------------


def one_node(op: str, *shapes: tuple[int, ...], dtype: str = "int8", out: Quant | None = None, source: Quant | None = None, rng: Any = None,
             **attrs: Any) -> Graph:  # fmt: skip
    """A graph of one quantised node."""
    rng = rng or np.random.default_rng(0)
    b = Builder(op)
    source = source or Quant((float(np.exp(rng.uniform(-5, -2))),), (int(rng.integers(-100, 100)) if dtype == "int8" else 0,))
    names = [b.input(f"x{i}", shape, dtype, source) for i, shape in enumerate(shapes)]
    y = b.op(op, *names, **attrs)
    graph = b.graph([y])
    tensor = graph[y]
    return replace(graph, tensors={**graph.tensors, y: replace(tensor, dtype=dtype, quant=out or source)})


_OTHER = Quant((0.031,), (-11,))
EXACT: dict[str, Callable[[np.random.Generator], Graph]] = {
    "silu": lambda r: one_node("silu", (1, 256), out=_OTHER, rng=r),
    "hard_sigmoid": lambda r: one_node("hard_sigmoid", (1, 256), out=Quant((1 / 256,), (-128,)), rng=r),
    "neg": lambda r: one_node("neg", (1, 256), out=_OTHER, rng=r),
    "elu": lambda r: one_node("elu", (1, 256), out=_OTHER, rng=r),
    "clip": lambda r: one_node("clip", (1, 256), out=_OTHER, rng=r, min=-0.7, max=1.9),
    "sigmoid of another scale": lambda r: one_node("sigmoid", (1, 256), out=Quant((1 / 200,), (-100,)), rng=r),
    "sum int8": lambda r: one_node("sum", (2, 5, 6, 7), out=_OTHER, rng=r, axes=(1, 3), keep_dims=True),
    "sum int16": lambda r: one_node("sum", (2, 5, 6, 7), dtype="int16", out=Quant((0.4,), (0,)), rng=r, axes=(2,), keep_dims=False),
    "argmax int16": lambda r: one_node("argmax", (3, 7, 5), dtype="int16", rng=r, axis=1),
    "average pool that counts its border": lambda r: one_node("avg_pool2d", (1, 7, 8, 3), rng=r, kernel=(3, 2), stride=(2, 1), padding=((1, 1), (0, 1)),
                                                              activation="relu6", count_include_pad=True),
    "average pool that would count a border": lambda r: one_node("avg_pool2d", (1, 6, 6, 3), rng=r, kernel=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)),
                                                                 activation="none", count_include_pad=True),
    "max pool with a border of its own": lambda r: one_node("max_pool2d", (1, 8, 8, 3), rng=r, kernel=(3, 3), stride=(2, 2), padding=((1, 1), (1, 1)),
                                                            activation="none"),
    "concat with an activation": lambda r: one_node("concat", (1, 3, 4), (1, 3, 2), rng=r, axis=2, activation="relu"),
    "maximum with an activation": lambda r: one_node("maximum", (1, 3, 4), (1, 3, 4), rng=r, activation="relu6"),
    "slice backwards": lambda r: one_node("slice", (1, 6, 5), rng=r, begin=(0, 5, 0), end=(1, -1, 5), strides=(1, -2, 1)),
    "pad with a value": lambda r: one_node("pad", (1, 4, 5), rng=r, paddings=((0, 0), (2, 1), (0, 3)), value=0.9),
    "gather": lambda r: gathered("int64"),
}  # fmt: skip


def gathered(indices: str) -> Graph:
    b = Builder("gather")
    x = b.input("x", (2, 9, 3), "int8", _OTHER)
    return b.graph([b.op("gather", x, b.const("i", np.array([[8, 0], [3, 3]], indices)), axis=1)])


def fixed_argmax(graph: Graph) -> Graph:
    """argmax gives plain integers."""
    (out,) = graph.outputs
    return replace(graph, tensors={**graph.tensors, out: replace(graph[out], dtype="int32", quant=None)})


def exactly(name: str, numbers: range) -> None:
    for seed in numbers:
        rng = np.random.default_rng(seed)
        graph = EXACT[name](rng)
        same_bytes(fixed_argmax(graph) if "argmax" in name else graph, feed_for(graph, rng))


@pytest.mark.parametrize("name", EXACT)
def test_what_litert_computes_otherwise_is_spelt_out(name: str) -> None:
    exactly(name, range(6))


@pytest.mark.long
@pytest.mark.parametrize("name", EXACT)
def test_what_litert_computes_otherwise_is_spelt_out_at_length(name: str) -> None:
    exactly(name, range(6, 200))


def norm_graph(width: int, seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    b = Builder("norm")
    x = b.input("x", (1, 5, width), "int8", Quant((float(np.exp(rng.uniform(-6, -2))),), (int(rng.integers(-128, 128)),)))
    parameters = [b.const(name, rng.normal(size=width).astype(np.float32)) for name in ("gamma", "beta")]
    y = b.op("layer_norm", x, *parameters, quant=Quant((0.025,), (3,)), eps=1e-5)
    graph = b.graph([y])
    return replace(graph, tensors={**graph.tensors, y: replace(graph[y], dtype="int8", quant=Quant((0.025,), (3,)))})


@pytest.mark.parametrize("width", [1, 8, 192, 768])
def test_an_integer_layer_norm_is_exact_to_the_byte(width: int) -> None:
    for seed in range(4):
        graph = norm_graph(width, seed)
        feed = feed_for(graph, np.random.default_rng(seed))
        feed[0][0, 0] = 7  # a row without any spread
        same_bytes(graph, feed)


# ---- float ops -----------------------------------------------------------------------------------------------------


def image_op(op: str, channels: int = 4, **attrs: Any) -> Callable[[Builder, np.random.Generator], str]:
    """A node on [1, 7, 8, channels]."""
    return lambda b, r: b.op(op, b.input("x", (1, 7, 8, channels), "float32"), **attrs)


def layer_op(op: str, weight: tuple[int, ...], bias: int = 0, channels: int = 4, **attrs: Any) -> Callable[[Builder, np.random.Generator], str]:
    """A layer with weights on [1, 7, 8, channels]."""
    def make(b: Builder, r: np.random.Generator) -> str:
        x = b.input("x", (1, 7, 8, channels), "float32")
        terms = b.const("b", r.normal(size=bias).astype(np.float32)) if bias else ""
        return b.op(op, x, b.const("w", r.normal(size=weight).astype(np.float32)), terms, **attrs)

    return make


def pair_op(op: str, a: tuple[int, ...], c: tuple[int, ...], **attrs: Any) -> Callable[[Builder, np.random.Generator], str]:
    """A node on two inputs."""
    return lambda b, r: b.op(op, b.input("a", a, "float32"), b.input("c", c, "float32"), **attrs)


def normed(op: str, count: int, **attrs: Any) -> Callable[[Builder, np.random.Generator], str]:
    """A norm with its parameters, all positive."""
    def make(b: Builder, r: np.random.Generator) -> str:
        parameters = [b.const(f"p{i}", np.abs(r.normal(size=6)).astype(np.float32)) for i in range(count)]
        return b.op(op, b.input("x", (2, 3, 6), "float32"), *parameters, **attrs)

    return make


_CONV = {"stride": (1, 1), "dilation": (1, 1), "padding": ((1, 1), (1, 1)), "activation": "relu6"}
_ODD = {"stride": (2, 2), "dilation": (1, 1), "padding": ((1, 2), (0, 1)), "activation": "none"}
_POOL = {"kernel": (3, 3), "stride": (2, 2), "activation": "none"}
_SIZE = {"align_corners": False, "half_pixel_centers": True}
FLOATS: dict[str, Callable[[Builder, np.random.Generator], str]] = {
    **{op: image_op(op) for op in (
        "relu", "relu6", "relu_n1_to_1", "elu", "hard_swish", "hard_sigmoid", "sigmoid", "tanh", "silu", "gelu", "exp", "abs", "neg")},
    "leaky_relu": image_op("leaky_relu", alpha=0.1),
    "gelu by tanh": image_op("gelu", approximate=True),
    "clip": image_op("clip", min=-0.5, max=0.7),
    "clip below": image_op("clip", min=-0.5, max=float("inf")),
    "clip above": image_op("clip", min=-float("inf"), max=0.7),
    "conv2d": layer_op("conv2d", (5, 3, 3, 4), 5, groups=1, **_CONV),
    "conv2d in groups": layer_op("conv2d", (6, 3, 3, 2), 6, groups=2, **_CONV),
    "conv2d with an odd border": layer_op("conv2d", (5, 3, 3, 4), groups=1, **_ODD),
    "depthwise": layer_op("depthwise_conv2d", (1, 3, 3, 8), 8, multiplier=2, **_CONV),
    "depthwise with an odd border": layer_op("depthwise_conv2d", (1, 3, 3, 4), multiplier=1, **_ODD),
    "dense": layer_op("dense", (5, 4), 5, activation="relu"),
    "dense without bias": layer_op("dense", (5, 4), activation="none"),
    "batch_matmul": pair_op("batch_matmul", (2, 3, 4), (2, 5, 4), transpose_b=True),
    "batch_matmul of a transposed": pair_op("batch_matmul", (2, 4, 3), (4, 5), transpose_a=True),
    "max pool": image_op("max_pool2d", padding=((0, 0), (0, 0)), **_POOL),
    "max pool with a border": image_op("max_pool2d", padding=((1, 1), (1, 1)), **_POOL),
    "average pool": image_op("avg_pool2d", padding=((1, 1), (0, 1)), count_include_pad=False, **_POOL),
    "average pool with an odd border": image_op("avg_pool2d", kernel=(3, 3), stride=(2, 2), padding=((1, 1), (0, 2)), activation="relu"),
    "average pool that counts its border": image_op("avg_pool2d", padding=((1, 2), (1, 1)), count_include_pad=True, **_POOL),
    **{op: pair_op(op, (2, 3, 4), (1, 3, 1), activation="relu") for op in ("add", "sub", "mul", "div", "maximum", "minimum", "squared_difference")},
    "add in five dimensions": pair_op("add", (2, 1, 3, 4, 2), (1, 5, 3, 1, 2), activation="none"),
    "prelu": lambda b, r: b.op("prelu", b.input("x", (1, 7, 8, 4), "float32"), b.const("a", r.normal(size=(1, 1, 4)).astype(np.float32))),
    "softmax": image_op("softmax", axis=-1, beta=0.5),
    "softmax over rows": image_op("softmax", axis=1, beta=1.0),
    "log_softmax": image_op("log_softmax", axis=2),
    "batch_norm": normed("batch_norm", 4, eps=1e-3),
    "layer_norm": normed("layer_norm", 2, eps=1e-5),
    "mean": image_op("mean", axes=(1, 2), keep_dims=False),
    "sum": image_op("sum", axes=(-1,), keep_dims=True),
    "sum of all": image_op("sum", axes=None, keep_dims=False),
    "reduce_max": image_op("reduce_max", axes=(1,), keep_dims=False),
    "argmax": image_op("argmax", axis=3, dtype="int64"),
    "reshape": image_op("reshape", shape=(7, 32)),
    "transpose in six dimensions": lambda b, r: b.op("transpose", b.input("x", (2, 1, 3, 2, 4, 2), "float32"), perm=(3, 0, 5, 2, 1, 4)),
    "pad": image_op("pad", paddings=((0, 0), (1, 2), (0, 1), (0, 0)), value=-0.5),
    "concat": pair_op("concat", (2, 3, 4), (2, 3, 1), axis=-1, activation="relu"),
    "slice": image_op("slice", begin=(0, 1, 2, 0), end=(1, 6, 8, 4), strides=(1, 1, 1, 1)),
    "slice with steps": image_op("slice", begin=(0, 6, 1, 0), end=(1, -1, 8, 4), strides=(1, -3, 2, 1)),
    "tile": image_op("tile", multiples=(2, 1, 3, 1)),
    "cast": image_op("cast", dtype="int32"),
    "resize_nearest": image_op("resize_nearest", size=(14, 5), **_SIZE),
    "resize_bilinear": image_op("resize_bilinear", size=(3, 16), **_SIZE),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOATS)
def test_float_ops_agree_with_litert(name: str) -> None:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    b = Builder(name)
    graph = b.graph([FLOATS[name](b, rng)])
    feed = feed_for(graph, rng)
    run_file = kernels if name == "elu" else reference  # LiteRT's reference set lacks ELU
    close(run_file(write(graph), feed)[0], outputs(graph, feed)[0])


@pytest.mark.parametrize("op", ["log", "sqrt", "rsqrt"])
def test_float_ops_of_positive_numbers(op: str) -> None:
    b = Builder(op)
    graph = b.graph([b.op(op, b.input("x", (1, 50), "float32"))])
    feed = [np.random.default_rng(0).uniform(0.01, 9, (1, 50)).astype(np.float32)]
    close(reference(write(graph), feed)[0], outputs(graph, feed)[0])


def test_every_op_of_the_graph_can_be_written() -> None:
    assert set(OPS) - set(WRITINGS) == {"opaque", *(op.name for op in training.OPS)}, "a training step is for microcontrollers alone"


@settings(max_examples=40, deadline=None)
@given(graph=float_graphs(), seed=seeds)
def test_random_float_graphs(graph: Graph, seed: int) -> None:
    feed = feed_for(graph, np.random.default_rng(seed))
    close(reference(write(graph), feed)[0], outputs(graph, feed)[0], 1e-4)
    legal, _ = legalise(graph)
    close(outputs(legal, feed)[0], outputs(graph, feed)[0], 1e-4)


def quantised(graph: Graph, seed: int, float_io: bool) -> Graph:
    """An integer graph; one with pools whose border LiteRT cannot leave out is made legal first, as `emit` does."""
    if any(node.op == "avg_pool2d" for node in graph.nodes):
        graph, _ = legalise(graph)
    shape = graph[graph.inputs[0]].shape[1:]
    data = np.random.default_rng(seed).normal(size=(8, *shape)).astype(np.float32)
    return quantise(graph, data, QuantOptions(float_io=float_io))


@settings(max_examples=40, deadline=None)
@given(graph=float_graphs(), seed=seeds, float_io=st.booleans())
def test_random_integer_graphs_give_the_same_bytes(graph: Graph, seed: int, float_io: bool) -> None:
    small = quantised(graph, seed, float_io)
    same_bytes(small, feed_for(small, np.random.default_rng(seed)))


@pytest.mark.long
@settings(max_examples=1500, deadline=None)
@given(graph=float_graphs(), seed=seeds, float_io=st.booleans())
def test_random_integer_graphs_give_the_same_bytes_at_length(graph: Graph, seed: int, float_io: bool) -> None:
    small = quantised(graph, seed, float_io)
    same_bytes(small, feed_for(small, np.random.default_rng(seed)))


# ---- large depthwise kernels -----------------------------------------------------------------------------------------


@given(height=st.integers(1, 30), width=st.integers(1, 30))
def test_tiles_cover_a_kernel_once_and_are_small(height: int, width: int) -> None:
    seen = np.zeros((height, width), int)
    for y, x, rows, columns in tiles(height, width):
        assert 0 < rows * columns <= MOST_TAPS
        seen[y : y + rows, x : x + columns] += 1
        assert seen[y : y + rows, x : x + columns].shape == (rows, columns)
    assert (seen == 1).all()


@settings(max_examples=60, deadline=None)
@given(seed=seeds, kernel=st.tuples(st.integers(1, 9), st.integers(1, 9)), stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
       pads=st.lists(st.integers(0, 4), min_size=4, max_size=4), multiplier=st.integers(1, 2), bias=st.booleans())  # fmt: skip
def test_a_large_depthwise_kernel_is_a_sum_of_small_ones(seed: int, kernel: tuple, stride: tuple, pads: list, multiplier: int, bias: bool) -> None:
    rng = np.random.default_rng(seed)
    b = Builder("large")
    x = b.input("x", (1, 11, 10, 3), "float32")
    w = b.const("w", rng.normal(size=(1, *kernel, 3 * multiplier)).astype(np.float32), "layer.weight")
    terms = b.const("b", rng.normal(size=3 * multiplier).astype(np.float32)) if bias else ""
    attrs = {"stride": stride, "dilation": (1, 1), "padding": ((pads[0], pads[1]), (pads[2], pads[3])), "multiplier": multiplier, "activation": "relu6"}
    graph = b.graph([b.op("depthwise_conv2d", x, w, terms, **attrs)])
    split = split_depthwise(graph)
    verify(split)
    weights = [split[n.inputs[1]] for n in split.nodes if n.op == "depthwise_conv2d"]
    assert all(t.shape[1] * t.shape[2] <= MOST_TAPS and t.origin == "layer.weight" for t in weights)
    feed = feed_for(graph, rng)
    assert np.abs(outputs(split, feed)[0] - outputs(graph, feed)[0]).max() <= 2e-5


def test_small_kernels_are_left_alone() -> None:
    graph = float_cnn()
    assert split_depthwise(graph).nodes == graph.nodes


# ---- what cannot be written ------------------------------------------------------------------------------------------


def test_an_integer_pool_that_leaves_out_an_odd_border_is_refused_with_its_name() -> None:
    graph = one_node("avg_pool2d", (1, 7, 8, 3), kernel=(3, 3), stride=(2, 2), padding=((1, 1), (0, 2)), activation="none")
    with pytest.raises(UnsupportedOp, match=r"node avg_pool2d: LiteRT has no int8 average pool that leaves the padding \(\(1, 1\), \(0, 2\)\) out"):
        write(graph)


@pytest.mark.parametrize(("op", "dtype", "words"), [("silu", "int16", "has no silu on int16"), ("log_softmax", "float32", "no log_softmax with a factor")])
def test_what_cannot_be_written_is_a_sentence(op: str, dtype: str, words: str) -> None:
    if dtype == "float32":
        b = Builder(op)
        graph = b.graph([b.op(op, b.input("x", (1, 4), "float32"), beta=2.0)])
    else:
        graph = one_node(op, (1, 4), dtype=dtype)
    with pytest.raises(UnsupportedOp, match=words):
        write(graph)
