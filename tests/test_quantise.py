"""An int8 graph obeys LiteRT's quantisation specification, whatever float graph it came from. The rules are written out here anew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdk.errors import ModelError, UnsupportedOp, UsageError
from sdk.graph.builder import Builder
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph, Node, Quant
from sdk.graph.quantmath import dequantise_array, quantise_array
from sdk.graph.verify import verify
from sdk.passes.quant_weights import quantise_weights
from sdk.passes.quantise import QuantOptions, quantise
from tests.small_models import float_cnn, samples
from tests.strategies import float_graphs, seeds

NONE = ((0, 0), (0, 0))
AXIS = {"conv2d": 0, "depthwise_conv2d": 3, "dense": 0}
SHARED = {"concat", "max_pool2d", "avg_pool2d", "reshape", "transpose", "pad", "slice"}
UNIT = Quant((1 / 256,), (-128,))


def every_op() -> Graph:
    """One of each op that has a rule: sigmoid, tanh, concat, pools, pad, reshape, dense, softmax."""
    rng = np.random.default_rng(0)
    b = Builder("rules")
    x = b.input("x", (1, 8, 8, 4), "float32")
    w = b.const("w", rng.standard_normal((6, 3, 3, 4)).astype(np.float32) * np.geomspace(0.01, 10, 6, dtype=np.float32)[:, None, None, None])
    y = b.op("conv2d", x, w, "", stride=(1, 1), dilation=(1, 1), padding=((1, 1), (1, 1)), groups=1, activation="none")
    joined = b.op("concat", b.op("sigmoid", y), b.op("tanh", y), y, axis=3, activation="none")
    deep = b.const("d", rng.standard_normal((1, 3, 3, 18)).astype(np.float32))
    z = b.op("depthwise_conv2d", b.op("pad", joined, paddings=((0, 0), (1, 1), (1, 1), (0, 0)), value=0.0), deep, "",
             stride=(1, 1), dilation=(1, 1), padding=NONE, multiplier=1, activation="relu6")  # fmt: skip
    z = b.op("max_pool2d", z, kernel=(2, 2), stride=(2, 2), padding=NONE, activation="none")
    z = b.op("avg_pool2d", z, kernel=(2, 2), stride=(2, 2), padding=NONE, activation="none", count_include_pad=False)
    flat = b.op("reshape", z, shape=(1, 72))
    logits = b.op("dense", flat, b.const("w", rng.standard_normal((5, 72)).astype(np.float32)), b.const("b", np.ones(5, np.float32)), activation="none")
    return b.graph([b.op("softmax", logits, axis=-1, beta=1.0)])


def check_rules(graph: Graph) -> None:
    """Every node of an int8 graph against the specification."""
    verify(graph)
    for tensor in graph.activations():
        if tensor.dtype == "int8":
            assert tensor.quant is not None and tensor.quant.axis is None and len(tensor.quant.scale) == 1, tensor.name
            assert -128 <= tensor.zero_point <= 127
    for node in graph.nodes:
        if graph[node.outputs[0]].dtype == "int8":
            _check_node(graph, node)


def _check_node(graph: Graph, node: Node) -> None:
    out = graph[node.outputs[0]]
    inputs = [graph[n] for n in node.inputs if n and graph[n].dtype == "int8"]
    match node.op:
        case "softmax" | "sigmoid":
            assert out.quant == UNIT
        case "tanh":
            assert out.quant == Quant((1 / 128,), (0,))
        case op if op in SHARED:
            assert all(t.quant == out.quant for t in inputs), node.name
        case op if op in AXIS:
            _check_layer(graph, node)


def _check_layer(graph: Graph, node: Node) -> None:
    x, w = graph[node.inputs[0]], graph[node.inputs[1]]
    axis = AXIS[node.op]
    assert w.dtype == "int8" and w.quant.axis == axis and len(w.quant.scale) == w.shape[axis]
    assert set(w.quant.zero_point) == {0}, "weights are symmetric"
    assert w.data.min() >= -127, "-128 has no counterpart"
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = graph[node.inputs[2]]
        assert bias.dtype == "int32" and set(bias.quant.zero_point) == {0}
        np.testing.assert_allclose(bias.quant.scale, np.float64(x.scale) * np.asarray(w.quant.scale), rtol=1e-6)


def test_rules_on_one_of_each_op() -> None:
    graph = every_op()
    made = quantise(graph, samples(graph))
    check_rules(made)
    assert {n.op for n in made.nodes} >= {"softmax", "sigmoid", "tanh", "concat", "max_pool2d", "avg_pool2d", "reshape", "pad"}
    assert {"dequantize", "quantize"}.isdisjoint(n.op for n in made.nodes), "all of it is computed in integers"
    assert [made[n].dtype for n in (*made.inputs, *made.outputs)] == ["int8", "int8"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(float_graphs(), st.sampled_from(["minmax", "percentile", "mse"]), st.booleans())
def test_rules_on_random_graphs(graph: Graph, choice: str, corrected: bool) -> None:
    before = {n: t.data.copy() for n, t in graph.tensors.items() if t.data is not None}
    x = samples(graph, 8)
    made = quantise(graph, x, QuantOptions(range=choice, bias_correction=corrected, equalise=corrected))
    check_rules(made)
    assert all(np.array_equal(before[n], graph[n].data) for n in before), "the argument was changed"
    q = quantise_array(x, made[made.inputs[0]].scale, made[made.inputs[0]].zero_point, "int8")
    assert run(made, {made.inputs[0]: q})[made.outputs[0]].shape == (8, 3)


def test_int8_follows_the_float_net() -> None:
    graph = float_cnn()
    x = samples(graph, 64, seed=7)
    made = quantise(graph, samples(graph, 64))
    real = run(graph, {"x": x})[graph.outputs[0]]
    tensor, out = made[made.inputs[0]], made[made.outputs[0]]
    found = dequantise_array(run(made, {"x": quantise_array(x, tensor.scale, tensor.zero_point, "int8")})[made.outputs[0]], out.quant)
    assert np.abs(found - real).max() < 0.03
    assert (found.argmax(1) == real.argmax(1)).mean() > 0.95


# -- weights -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(0, 1), st.floats(1e-4, 10), st.booleans())
def test_weights_are_within_half_a_step_and_use_the_whole_range(seed: int, axis: int, spread: float, with_bias: bool) -> None:
    rng = np.random.default_rng(seed)
    w = (rng.standard_normal((5, 6)) * np.geomspace(spread, 1, 5)[:, None]).astype(np.float32)
    w = w if axis == 0 else np.ascontiguousarray(w.T)
    bias = rng.standard_normal(5).astype(np.float32) if with_bias else None
    made = quantise_weights(w, axis, 0.02, bias)
    steps = np.expand_dims(np.asarray(made.quant.scale), 1 - axis)
    assert (np.abs(made.real() - w) <= steps * 0.5001).all()
    assert (np.abs(made.values.astype(int)).max(axis=1 - axis) == 127).all(), "each channel reaches its end"
    if bias is not None:
        assert made.bias.dtype == np.int32
        assert (np.abs(made.real_bias() - bias) <= 0.02 * np.asarray(made.quant.scale) * 0.5001 + 1e-6 * np.abs(bias)).all()


def test_a_dead_channel_and_a_huge_bias_stay_representable() -> None:
    w = np.array([[0.0, 0.0], [1e-12, 0.0], [1.0, -1.0]], np.float32)
    made = quantise_weights(w, 0, 1e-3, np.array([5.0, 1e6, 0.0], np.float32))
    assert made.values.tolist() == [[0, 0], [0, 0], [127, -127]]
    np.testing.assert_allclose(made.real_bias(), [5.0, 1e6, 0.0], rtol=1e-3)


def test_biases_beside_16_bit_activations_are_64_bit() -> None:
    made = quantise_weights(np.ones((2, 3), np.float32), 0, 2.0**-14, np.array([100.0, -3e4], np.float32), "int16")
    assert made.values.dtype == np.int8 and made.bias.dtype == np.int64
    np.testing.assert_allclose(made.real_bias(), [100.0, -3e4], rtol=1e-6)


# -- precision -----------------------------------------------------------------------------------------------------------


def test_named_nodes_get_their_precision_and_their_names_stay() -> None:
    graph = float_cnn()
    made = quantise(graph, samples(graph), QuantOptions(int16=("conv2d_1",), keep_float=("dense",)))
    kinds = {n.name: made[n.outputs[0]].dtype for n in made.nodes}
    assert {n.name for n in graph.nodes} <= kinds.keys()
    assert (kinds["conv2d_1"], kinds["dense"], kinds["conv2d"]) == ("int16", "float32", "int8")
    layer = next(n for n in made.nodes if n.name == "conv2d_1")
    assert [made[n].dtype for n in layer.inputs] == ["int16", "int8", "int64"]
    assert all(made[n].zero_point == 0 for n in (layer.inputs[0], layer.outputs[0]))


def test_float_ends_stay_float_when_asked() -> None:
    graph = float_cnn()
    made = quantise(graph, samples(graph), QuantOptions(float_io=True))
    assert [made[n].dtype for n in (*made.inputs, *made.outputs)] == ["float32", "float32"]
    x = samples(graph, 4)
    assert np.abs(run(made, {"x": x})[made.outputs[0]] - run(graph, {"x": x})[graph.outputs[0]]).max() < 0.03


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"range": "best"}, "range 'best' is unknown; choose one of minmax, percentile, mse"),
        ({"percentile": 20.0}, r"percentile 20.0 is not in \(50, 100\]; 99.99"),
        ({"samples": 0}, "samples is 0; calibration needs at least 1"),
        ({"int16": "conv2d"}, r"int16 is the string 'conv2d'; give a tuple of node names"),
        ({"int16": ("a",), "keep_float": ("a",)}, "node a is named in keep_float and in int16; choose one"),
    ],
)
def test_wrong_options_are_one_sentence(options: dict, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        QuantOptions(**options)


def test_names_that_are_no_node_and_nodes_without_a_16_bit_form() -> None:
    graph = float_cnn()
    with pytest.raises(UsageError, match="int16 names node 'conv9', which the model does not have; its nodes begin conv2d"):
        quantise(graph, samples(graph), QuantOptions(int16=("conv9",)))
    b = Builder("net")
    net = b.graph([b.op("gelu", b.input("x", (1, 4), "float32"))])
    with pytest.raises(UnsupportedOp, match="has no 16-bit form; name it in keep_float instead of int16"):
        quantise(net, np.ones((2, 4), np.float32), QuantOptions(int16=(net.nodes[0].name,)))


def test_a_quantised_graph_is_not_quantised_again() -> None:
    graph = float_cnn()
    made = quantise(graph, samples(graph))
    with pytest.raises(ModelError, match="is int8 already; give quantise the float model, or compile this one as it is"):
        quantise(made, samples(graph))
