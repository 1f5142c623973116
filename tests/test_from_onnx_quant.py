"""Quantised ONNX operators: the file's integers are kept exactly, and results stay within a step of ONNX Runtime's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sdk
from sdk.errors import EmbarqError, UnsupportedOp
from sdk.golden import check_input, dequantise_array
from sdk.graph.from_onnx import from_onnx
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph
from sdk.graph.verify import verify
from tests.strategies import damaged, seeds

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, numpy_helper  # noqa: E402

from tests.onnx_models import F32, float_nodes, model, node, rand, reference  # noqa: E402

RANGES = {"uint8": (0, 255), "int8": (-128, 127)}
#: The most that one layer's result may differ from ONNX Runtime's: LiteRT rounds a fixed-point product, ONNX Runtime a float.
STEPS_PER_LAYER = 1


# ---- single layers -----------------------------------------------------------------------------------------------


def quantised_layer(op: str, shapes: Sequence[Sequence[int]], weights: Sequence[Any], scales: Sequence[float], kind: str, seed: int, **attrs: Any) -> bytes:
    """x0.. (float) -> Q -> DQ -> op -> Q -> DQ; `weights` are (integers, scale, axis) or None, behind the inputs; last scale: the output's."""
    rng = np.random.default_rng(seed)
    nodes: list[Any] = []
    stored: dict[str, Any] = {}
    names: list[str] = []
    for i, scale in enumerate(scales):
        low, high = RANGES[kind]
        stored[f"s{i}"] = F32(scale)
        stored[f"z{i}"] = np.array(rng.integers(low + 100, high - 99), kind)
    for i in range(len(shapes)):
        nodes += [node("QuantizeLinear", [f"x{i}", f"s{i}", f"z{i}"], [f"q{i}"]), node("DequantizeLinear", [f"q{i}", f"s{i}", f"z{i}"], [f"r{i}"])]
        names.append(f"r{i}")
    for i, weight in enumerate(weights):
        if weight is None:
            names.append("")
            continue
        values, scale, axis = weight
        stored |= {f"w{i}": values, f"ws{i}": np.asarray(scale, F32), f"wz{i}": np.zeros(np.shape(scale), values.dtype)}
        nodes.append(node("DequantizeLinear", [f"w{i}", f"ws{i}", f"wz{i}"], [f"wr{i}"], axis=axis))
        names.append(f"wr{i}")
    last = len(scales) - 1
    nodes += [node(op, names, ["f"], **attrs), node("QuantizeLinear", ["f", f"s{last}", f"z{last}"], ["fq"]),
              node("DequantizeLinear", ["fq", f"s{last}", f"z{last}"], ["y"])]  # fmt: skip
    return model(nodes, {f"x{i}": tuple(s) for i, s in enumerate(shapes)}, stored)


def steps_apart(content: bytes, values: Sequence[np.ndarray], scale: float) -> tuple[Graph, float]:
    """The graph, and the largest difference from ONNX Runtime in steps of the output."""
    graph = from_onnx(content, float_io=True)
    verify(graph)
    wanted = reference(content, values)[0]
    return graph, float(np.abs(run(graph, list(values))[graph.outputs[0]] - wanted).max() / scale)


kinds = st.sampled_from(["uint8", "int8"])


@settings(max_examples=60)
@given(seeds, kinds, st.booleans(), st.booleans(), st.sampled_from(["conv", "grouped", "depthwise", "dense", "gemm"]))
def test_layer_with_weights(seed: int, kind: str, per_channel: bool, biased: bool, form: str) -> None:
    rng = np.random.default_rng(seed)
    shape = {"conv": (6, 4, 3, 3), "grouped": (6, 2, 3, 3), "depthwise": (4, 1, 3, 3), "dense": (8, 5), "gemm": (5, 8)}[form]
    axis, outs = (1, 5) if form == "dense" else (0, shape[0])
    w = rng.integers(-127, 128, shape).astype(np.int8)
    scale = rng.uniform(0.005, 0.02, outs) if per_channel else rng.uniform(0.005, 0.02)
    x_scale, y_scale = 0.03, rng.uniform(0.05, 0.2)
    bias = (rng.integers(-2000, 2000, outs).astype(np.int32), np.broadcast_to((F32(x_scale) * np.asarray(scale, F32)), outs).copy(), 0) if biased else None
    options: dict[str, dict[str, Any]] = {"conv": {"pads": [1] * 4}, "grouped": {"group": 2}, "depthwise": {"group": 4, "strides": [2, 2]}}
    attrs = {"transB": 1} if form == "gemm" else options.get(form, {})
    op = {"dense": "MatMul", "gemm": "Gemm"}.get(form, "Conv")
    x = rng.normal(size=(3, 8) if op != "Conv" else (1, 4, 6, 5)).astype(F32)
    weights = [(w, scale, axis)] + ([bias] if biased and form != "dense" else [])
    content = quantised_layer(op, [x.shape], weights, [x_scale, y_scale], kind, seed, **attrs)
    graph, apart = steps_apart(content, [x], y_scale)
    assert not float_nodes(graph)
    assert apart <= STEPS_PER_LAYER + 1e-3
    (layer,) = [n for n in graph.nodes if n.op in ("conv2d", "depthwise_conv2d", "dense")]
    _check_weight(graph, layer.inputs[1], w, np.atleast_1d(np.asarray(scale, F32)))
    if biased and form != "dense":
        assert bias is not None
        assert np.array_equal(np.asarray(graph[layer.inputs[2]].data), bias[0])


def _check_weight(graph: Graph, name: str, stored: np.ndarray, scale: np.ndarray) -> None:
    """The graph's integers are the stored ones in another order, with their scales."""
    tensor = graph[name]
    assert tensor.data is not None and tensor.quant is not None and tensor.dtype == "int8"
    back = {4: lambda v: v.transpose(3, 0, 1, 2) if v.shape[0] == 1 and stored.shape[1] == 1 else v.transpose(0, 3, 1, 2),
            2: lambda v: v if v.shape == stored.shape else v.T}[stored.ndim](tensor.data)  # fmt: skip
    assert np.array_equal(back, stored)
    assert tensor.quant.scale == tuple(float(s) for s in scale) and not any(tensor.quant.zero_point)


#: operator -> (shapes, attributes, steps by which the result may differ)
PLAIN: dict[str, tuple[list[tuple[int, ...]], dict[str, Any], int]] = {
    "Add": ([(1, 3, 4, 5), (1, 3, 4, 5)], {}, 1),
    "Sub": ([(1, 3, 4, 5), (1, 3, 1, 1)], {}, 1),
    "Mul": ([(1, 3, 4, 5), (1, 3, 1, 1)], {}, 1),
    "MatMul": ([(2, 3, 4), (2, 4, 5)], {}, 1),
    "Concat": ([(1, 3, 4, 5), (1, 2, 4, 5)], {"axis": 1}, 1),
    "GlobalAveragePool": ([(1, 3, 4, 5)], {}, 1),
    "ReduceMean": ([(1, 3, 4, 5)], {"keepdims": 0}, 1),
    "Sigmoid": ([(1, 3, 4, 5)], {}, 1),
    "Tanh": ([(1, 3, 4, 5)], {}, 1),
    "HardSigmoid": ([(1, 3, 4, 5)], {"alpha": 1 / 6}, 1),
    "LeakyRelu": ([(1, 3, 4, 5)], {"alpha": 0.1}, 1),
    "Relu": ([(1, 3, 4, 5)], {}, 1),
    # LiteRT's own fixed point: softmax is written at 1/256 and rescaled, hard_swish rounds three times, pools round at the input's scale
    "Softmax": ([(2, 6)], {}, 2),
    "HardSwish": ([(1, 3, 4, 5)], {}, 2),
    "AveragePool": ([(1, 3, 4, 5)], {"kernel_shape": [2, 2]}, 2),
    "MaxPool": ([(1, 3, 4, 5)], {"kernel_shape": [2, 2]}, 1),
}


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("op", PLAIN)
def test_operator_between_integers(op: str, kind: str) -> None:
    shapes, attrs, allowed = PLAIN[op]
    for seed in range(4):
        values = [rand(*s, seed=seed + i) for i, s in enumerate(shapes)]
        scales = [0.02 + 0.01 * i for i in range(len(shapes))] + [0.03]
        graph, apart = steps_apart(quantised_layer(op, shapes, [], scales, kind, seed, **attrs), values, scales[-1])
        assert not float_nodes(graph), op
        assert apart <= allowed + 1e-3


@pytest.mark.parametrize(
    ("op", "shape", "weights", "attrs"),
    [
        ("MaxPool", (1, 3, 4, 6), [], {"kernel_shape": [2, 2]}),
        ("Transpose", (1, 3, 4, 6), [], {"perm": [0, 2, 3, 1]}),
        ("Flatten", (1, 3, 4, 6), [], {}),
        ("Resize", (1, 3, 4, 6), [], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ],
)
def test_moves_keep_every_integer(op: str, shape: tuple[int, ...], weights: list[Any], attrs: dict[str, Any]) -> None:
    """One scale in and out: nothing is rounded, the integers are the very same."""
    names = ["r", "", "n"] if op == "Resize" else ["r"]
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["r"]), node(op, names, ["m"], **attrs),
             node("QuantizeLinear", ["m", "s", "z"], ["mq"]), node("DequantizeLinear", ["mq", "s", "z"], ["y"])]  # fmt: skip
    stored = {"s": F32(0.05), "z": np.array(120, np.uint8), "n": np.array([1, 1, 2, 2], F32)}
    content = model(nodes, {"x": shape}, stored)
    x = rand(*shape)
    graph = from_onnx(content, float_io=True)
    assert not float_nodes(graph) and "requantize" not in [n.op for n in graph.nodes]
    assert np.array_equal(run(graph, [x])["y"], reference(content, [x])[0])


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_of_integers(mode: str) -> None:
    """QLinear models resize the integers themselves."""
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("Resize", ["q", "", "n"], ["m"], mode=mode), node("DequantizeLinear", ["m", "s", "z"], ["y"])]
    content = model(nodes, {"x": (1, 3, 4, 6)}, {"s": F32(0.05), "z": np.array(120, np.uint8), "n": np.array([1, 1, 2, 2], F32)})
    graph, apart = steps_apart(content, [rand(1, 3, 4, 6)], 0.05)
    assert not float_nodes(graph) and apart <= 1 + 1e-3


def between(op: str, inputs: Sequence[str], stored: dict[str, Any], shape: tuple[int, ...], scale: float = 0.2, **attrs: Any) -> bytes:
    """x -> Q -> DQ (r) -> op -> Q -> DQ, and a DequantizeLinear of the stored w (wr) for ops that read one."""
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["r"])]
    nodes += [node("DequantizeLinear", ["w", "ws", "wz"], ["wr"])] if "w" in stored else []
    nodes += [node(op, inputs, ["f"], **attrs), node("QuantizeLinear", ["f", "t", "z"], ["fq"]), node("DequantizeLinear", ["fq", "t", "z"], ["y"])]
    return model(nodes, {"x": shape}, {"s": F32(0.05), "t": F32(scale), "z": np.array(120, np.uint8), **stored})


def test_a_dense_weight_keeps_its_zero_point() -> None:
    w = np.random.default_rng(0).integers(0, 256, (8, 5)).astype(np.uint8)
    content = between("MatMul", ["r", "wr"], {"w": w, "ws": F32(0.01), "wz": np.array(90, np.uint8)}, (3, 8))
    graph, apart = steps_apart(content, [rand(3, 8)], 0.2)
    (layer,) = [n for n in graph.nodes if n.op == "dense"]
    weight = graph[layer.inputs[1]]
    assert not float_nodes(graph) and apart <= STEPS_PER_LAYER + 1e-3
    assert weight.zero_point == 90 - 128 and np.array_equal(np.asarray(weight.data).T.astype(int) + 128, w)


def test_a_bias_beyond_the_precision_of_float_is_kept() -> None:
    bias = np.array([2**28 + 1, -(2**27) - 3, 5], np.int32)
    scale = np.full(3, F32(0.05) * F32(0.01), F32)
    w = np.ones((3, 2, 1, 1), np.int8)
    graph = from_onnx(quantised_layer("Conv", [(1, 2, 2, 2)], [(w, 0.01, 0), (bias, scale, 0)], [0.05, 0.1], "int8", 0))
    (layer,) = [n for n in graph.nodes if n.op == "conv2d"]
    assert np.array_equal(np.asarray(graph[layer.inputs[2]].data), bias)


def test_one_initialiser_read_with_two_scales() -> None:
    w = np.array([[1, -2], [3, 4]], np.int8)
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["r"]), node("DequantizeLinear", ["w", "s"], ["a"]),
             node("DequantizeLinear", ["w", "t"], ["b"]), node("MatMul", ["r", "a"], ["m"]), node("QuantizeLinear", ["m", "t", "z"], ["mq"]),
             node("DequantizeLinear", ["mq", "t", "z"], ["mr"]), node("MatMul", ["mr", "b"], ["n"]), node("QuantizeLinear", ["n", "t", "z"], ["nq"]),
             node("DequantizeLinear", ["nq", "t", "z"], ["y"])]  # fmt: skip
    content = model(nodes, {"x": (1, 2)}, {"w": w, "s": F32(0.05), "t": F32(0.02), "z": np.array(0, np.int8)})
    graph, apart = steps_apart(content, [rand(1, 2)], 0.02)
    assert not float_nodes(graph) and apart <= 2 * STEPS_PER_LAYER
    assert [graph[n.inputs[1]].scale for n in graph.nodes if n.op == "dense"] == [float(F32(0.05)), float(F32(0.02))]


PADDINGS = [(0.0, 0.05, True), (0.0, 0.2, True), (0.5, 0.2, True), (0.33, 0.05, True), (0.33, 0.01, True), (0.33, 0.07, False)]


@pytest.mark.parametrize(("value", "scale", "whole"), PADDINGS)
def test_padding_is_integer_where_its_value_is(value: float, scale: float, whole: bool) -> None:
    content = between("Pad", ["r", "p", "v"], {"p": np.array([0, 0, 1, 1, 0, 0, 1, 0]), "v": F32(value)}, (1, 2, 3, 4), scale=scale)
    graph, apart = steps_apart(content, [rand(1, 2, 3, 4)], scale)
    assert (not float_nodes(graph)) == whole and apart <= (1e-3 if scale == 0.05 else STEPS_PER_LAYER + 1e-3)


def test_padding_of_integers_is_given_as_an_integer() -> None:
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("Pad", ["q", "p", "v"], ["m"]), node("DequantizeLinear", ["m", "s", "z"], ["y"])]
    stored = {"s": F32(0.05), "z": np.array(120, np.uint8), "p": np.array([0, 1, 0, 2]), "v": np.array(130, np.uint8)}
    graph, apart = steps_apart(model(nodes, {"x": (2, 3)}, stored), [rand(2, 3)], 0.05)
    assert not float_nodes(graph) and apart < 1e-3


def test_softmax_along_an_inner_axis_stays_real() -> None:
    graph, apart = steps_apart(between("Softmax", ["r"], {}, (1, 3, 4), scale=0.01, axis=1), [rand(1, 3, 4)], 0.01)
    assert "softmax" in float_nodes(graph) and apart <= 1 + 1e-3


# ---- what stays in real numbers ----------------------------------------------------------------------------------


def test_asymmetric_weights_of_a_convolution_stay_real() -> None:
    w = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 3)).astype(np.uint8)
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["r"]),
             node("DequantizeLinear", ["w", "ws", "wz"], ["wr"]), node("Conv", ["r", "wr"], ["c"]), node("QuantizeLinear", ["c", "t", "z"], ["cq"]),
             node("DequantizeLinear", ["cq", "t", "z"], ["y"])]  # fmt: skip
    stored = {"s": F32(0.05), "t": F32(0.2), "z": np.array(120, np.uint8), "w": w, "ws": F32(0.01), "wz": np.array(90, np.uint8)}
    content = model(nodes, {"x": (1, 3, 5, 5)}, stored)
    graph, apart = steps_apart(content, [rand(1, 3, 5, 5)], 0.2)
    assert float_nodes(graph) and "conv2d" in [n.op for n in graph.nodes]
    assert apart <= 1 + 1e-3  # only ties round differently


def test_weights_around_128_are_symmetric() -> None:
    """uint8 weights with zero point 128 are int8 weights with 0."""
    w = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 3)).astype(np.uint8)
    content = quantised_layer("Conv", [(1, 3, 5, 5)], [(w, 0.01, 0)], [0.05, 0.2], "int8", 0)
    made = onnx.load_from_string(content)
    for tensor in made.graph.initializer:
        if tensor.name == "wz0":
            tensor.CopyFrom(numpy_helper.from_array(np.array(128, np.uint8), "wz0"))
    graph, apart = steps_apart(made.SerializeToString(), [rand(1, 3, 5, 5)], 0.2)
    assert not float_nodes(graph) and apart <= STEPS_PER_LAYER + 1e-3
    (layer,) = [n for n in graph.nodes if n.op == "conv2d"]
    assert np.array_equal(np.asarray(graph[layer.inputs[1]].data).transpose(0, 3, 1, 2).astype(int) + 128, w)


def test_operator_without_integers_stays_between_conversions() -> None:
    content = quantised_layer("Softplus", [(1, 4)], [], [0.05, 0.05], "int8", 0)
    graph, apart = steps_apart(content, [rand(1, 4)], 0.05)
    assert "dequantize" in [n.op for n in graph.nodes] and float_nodes(graph)
    assert apart <= 1 + 1e-3


def test_dynamic_quantisation_is_opaque() -> None:
    """MatMulInteger with scales found at run time has no place in a plan made beforehand."""
    nodes = [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("MatMulInteger", ["q", "w", "z"], ["i"]), node("Cast", ["i"], ["f"], to=1),
             node("Mul", ["f", "s"])]  # fmt: skip
    graph = from_onnx(model(nodes, {"x": (2, 4)}, {"w": np.ones((4, 3), np.int8)}))
    assert {n.attrs["kind"] for n in graph.nodes if n.op == "opaque"} == {"DynamicQuantizeLinear", "MatMulInteger"}
    with pytest.raises(UnsupportedOp, match="DynamicQuantizeLinear"):
        sdk.plan("stm32f405", graph)


def test_inputs_and_outputs_that_are_only_converted_are_integers() -> None:
    content = quantised_layer("Relu", [(1, 6)], [], [0.05, 0.1], "uint8", 0)
    real, graph = from_onnx(content, float_io=True), from_onnx(content)
    verify(graph)
    assert (real["x0"].dtype, real["y"].dtype) == ("float32", "float32")
    assert (graph.inputs, graph.outputs) == (("x0",), ("y",))
    assert (graph["x0"].dtype, graph["x0"].scale, graph["y"].dtype, graph["y"].scale) == ("int8", F32(0.05), "int8", F32(0.1))
    x = rand(1, 6)
    found = dequantise_array(graph["y"], run(graph, [check_input(graph["x0"], x)])["y"])
    np.testing.assert_array_equal(found, run(real, [x])["y"])


def test_an_input_that_is_also_used_as_it_is_stays_real() -> None:
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["r"]), node("Sub", ["x", "r"])]
    content = model(nodes, {"x": (1, 6)}, {"s": F32(0.05), "z": np.array(0, np.int8)})
    graph = from_onnx(content)
    assert graph["x"].dtype == graph["y"].dtype == "float32"
    np.testing.assert_allclose(run(graph, [rand(1, 6)])["y"], reference(content, [rand(1, 6)])[0], atol=1e-6)


def test_an_input_of_unsigned_integers_becomes_int8() -> None:
    nodes = [node("DequantizeLinear", ["x", "s", "z"], ["r"]), node("Relu", ["r"], ["m"]), node("QuantizeLinear", ["m", "s", "z"], ["y"])]
    content = model(nodes, {"x": (1, 6)}, {"s": F32(0.1), "z": np.array(100, np.uint8)}, dtype=TensorProto.UINT8)
    x = np.arange(90, 96, dtype=np.uint8)[None] + np.uint8(8)
    graph = from_onnx(content, float_io=True)
    assert (graph["x"].dtype, graph["x"].zero_point, graph["y"].dtype) == ("int8", -28, "int8")
    found = run(graph, [(x.astype(int) - 128).astype(np.int8)])["y"]
    assert np.array_equal(found.astype(int) + 128, reference(content, [x])[0])


def test_float_weights_quantised_in_the_file() -> None:
    """Weights stored as real numbers between a QuantizeLinear and a DequantizeLinear of their own."""
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["r"]),
             node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], axis=0), node("DequantizeLinear", ["wq", "ws", "wz"], ["wr"], axis=0),
             node("Conv", ["r", "wr"], ["c"]), node("Relu", ["c"], ["a"]), node("QuantizeLinear", ["a", "t", "z"], ["cq"]),
             node("DequantizeLinear", ["cq", "t", "z"], ["y"])]  # fmt: skip
    w = rand(4, 3, 3, 3)
    scale = np.abs(w).reshape(4, -1).max(1) / 127
    stored = {"s": F32(0.05), "t": F32(0.2), "z": np.array(0, np.int8), "w": w, "ws": scale, "wz": np.zeros(4, np.int8)}
    content = model(nodes, {"x": (1, 3, 5, 5)}, stored)
    graph, apart = steps_apart(content, [rand(1, 3, 5, 5)], 0.2)
    assert not float_nodes(graph) and apart <= STEPS_PER_LAYER + 1e-3
    (layer,) = [n for n in graph.nodes if n.op == "conv2d"]
    assert layer.attrs["activation"] == "relu"


# ---- files that are not sound ---------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(damaged(quantised_layer("Conv", [(1, 2, 4, 4)], [(np.ones((3, 2, 2, 2), np.int8), [0.1, 0.2, 0.3], 0)], [0.05, 0.1], "uint8", 0)))
def test_any_damage_is_told(content: bytes) -> None:
    try:
        verify(from_onnx(content))
    except EmbarqError as error:
        assert "\n" not in str(error) and str(error)
