"""The graph's own arithmetic, interpreter, verifier and text form."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk.errors import DataError, ModelError, UnsupportedOp
from sdk.graph import fixedpoint as fp
from sdk.graph import quantmath as qm
from sdk.graph import unary
from sdk.graph.builder import Builder
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph, Node, Quant, Tensor
from sdk.graph.ops import OPS
from sdk.graph.text import to_text
from sdk.graph.verify import verify
from tests.strategies import arrays, float_graphs, quants, scales, seeds

int32s = st.integers(-(2**31), 2**31 - 1)


# ---- integer arithmetic ---------------------------------------------------------------------------------------------


@given(st.floats(2.0**-30, 2.0**20))
def test_a_multiplier_stands_for_its_number(real: float) -> None:
    mult, shift = qm.quantize_multiplier(real)
    assert 2**30 <= mult < 2**31
    assert abs(mult / 2.0**31 * 2.0**shift - real) <= real * 2.0**-31


def test_multipliers_at_the_edges() -> None:
    assert qm.quantize_multiplier(0.0) == (0, 0)
    assert qm.quantize_multiplier(1.0) == (2**30, 1)
    assert qm.quantize_multiplier(1 - 2.0**-40) == (2**30, 1)  # rounds up to the next power of two
    assert qm.quantize_multiplier(2.0**-33) == (0, 0)
    with pytest.raises(ModelError, match="finite scales"):
        qm.quantize_multiplier(float("inf"))


def gemmlowp(x: int, mult: int, shift: int) -> int:
    """MultiplyByQuantizedMultiplier step by step as gemmlowp writes it, with truncating division."""
    product = ((x << max(shift, 0)) + 2**31) % 2**32 - 2**31
    product *= mult
    nudge = 2**30 if product >= 0 else 1 - 2**30
    high = abs(product + nudge) // 2**31 * (1 if product + nudge >= 0 else -1)
    exponent = max(-shift, 0)
    mask = (1 << exponent) - 1
    threshold = (mask >> 1) + (1 if high < 0 else 0)
    return (high >> exponent) + (1 if (high & mask) > threshold else 0)


@settings(max_examples=500)
@given(int32s, st.integers(2**30, 2**31 - 1), st.integers(-31, 6))
def test_rescaling_equals_gemmlowp(x: int, mult: int, shift: int) -> None:
    assert int(qm.multiply_by_quantized_multiplier(x, mult, shift)) == gemmlowp(x, mult, shift)


@given(int32s, st.integers(2**30, 2**31 - 1), st.integers(-20, 0))
def test_rounding_once_is_exact(x: int, mult: int, shift: int) -> None:
    exact = Fraction(x * mult, 2 ** (31 - shift))
    whole = int(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)
    assert int(qm.multiply_once(x, mult, shift)) == whole


def dense_by_scale(scale: float, quant: Quant, rng: np.random.Generator) -> Graph:
    """A dense layer of 64 inputs whose effective scale is `scale`, nearly."""
    weights = Tensor("w", (1, 64), "int8", Quant((scale,), (0,)), rng.integers(-127, 128, (1, 64)).astype(np.int8))
    bias = Tensor("b", (1,), "int32", None, rng.integers(-2000, 2000, 1).astype(np.int32))
    quant = Quant((1.0,), quant.zero_point)
    tensors = {"x": Tensor("x", (1, 64), "int8", Quant((1.0,), (3,))), "w": weights, "b": bias, "y": Tensor("y", (1, 1), "int8", quant)}
    return Graph("m", ("x",), ("y",), tensors, (Node("fc", "dense", ("x", "w", "b"), ("y",), {"activation": "none"}),))


@settings(max_examples=60)
@given(st.floats(2.0**-13, 0.9), quants(), seeds)
def test_dense_multipliers_are_proven(scale: float, quant: Quant, seed: int) -> None:
    """On sums of all sizes, not only where the proof looked."""
    rng = np.random.default_rng(seed)
    graph = dense_by_scale(scale, quant, rng)
    (mult,), (shift,) = qm.dense_multipliers(graph.nodes[0], graph)
    (effective,) = qm.effective_scales(graph.nodes[0], graph)
    x = rng.integers(-(2**19), 2**19, 2000)
    have, want = (np.clip(v + quant.zero_point[0], -128, 127) for v in (qm.multiply_once(x, mult, shift), qm.scale_once(x, effective)))
    assert np.array_equal(have, want)


def test_what_rounds_twice_is_not_proven() -> None:
    out, scale = Tensor("y", (1, 1), "int8", Quant((1.0,), (0,))), 0.0123
    mult, shift = qm.quantize_multiplier(scale)
    assert qm.rescales_exactly(lambda x: qm.multiply_once(x, mult, shift), scale, out)
    assert not qm.rescales_exactly(lambda x: qm.multiply_by_quantized_multiplier(x, mult, shift), scale, out)


@pytest.mark.parametrize(("x", "want"), [(2.5, 3), (-2.5, -3), (0.49999997, 0), (-0.5, -1), (0.0, 0)])
def test_halves_go_away_from_zero(x: float, want: int) -> None:
    assert qm.round_away(np.float32(x)) == want


@pytest.mark.parametrize(
    ("activation", "want"), [("none", (-128, 127)), ("relu", (-28, 127)), ("relu6", (-28, 32)), ("relu_n1_to_1", (-38, -18))]
)
def test_ranges_of_activations(activation: str, want: tuple[int, int]) -> None:
    assert qm.activation_range(activation, 0.1, -28, "int8") == want


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(ModelError, match="activation 'swish' is unknown"):
        qm.activation_range("swish", 0.1, 0, "int8")


@given(st.floats(-31.9, -1e-3))
def test_the_fixed_point_exponential(x: float) -> None:
    raw = fp.exp_on_negative(np.array([round(x * 2**26)]))[0]
    assert abs(raw / 2**31 - np.exp(x)) < 5e-7


@given(st.integers(2, 255))
def test_the_fixed_point_inverse_square_root(x: int) -> None:
    mult, right = (int(v) for v in fp.inverse_sqrt(np.array(x)))
    assert abs(mult / 2**31 / 2**right - x**-0.5) < 1e-6


@given(st.sampled_from([n for n in unary.FUNCTIONS if n not in ("log", "rsqrt", "sqrt", "exp")]), quants(), quants())
def test_tables_are_near_the_real_function(name: str, source: Quant, target: Quant) -> None:
    attrs = {"alpha": 0.1, "min": -0.5, "max": 1.5}
    table = unary.unary_table(name, attrs, source, target)
    assert table.dtype == np.int8 and table.shape == (256,)
    real = unary.FUNCTIONS[name](qm.dequantise_array(np.arange(-128, 128), source), attrs)
    steps = np.clip(real / target.scale[0] + target.zero_point[0], -128, 127)
    # hard_swish works with 16-bit multipliers: LiteRT's error grows with the ratio of the scales
    allowed = 1.01 + (0.002 * source.scale[0] / target.scale[0] * 256 if name == "hard_swish" else 0)
    assert np.abs(table - steps).max() <= allowed


# ---- the interpreter ------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(float_graphs(), seeds)
def test_random_graphs_are_sound_and_run_in_batches(graph: Graph, seed: int) -> None:
    verify(graph)
    x = np.random.default_rng(seed).normal(size=(3, *graph[graph.inputs[0]].shape[1:])).astype(np.float32)
    together = run(graph, [x])[graph.outputs[0]]
    single = np.concatenate([run(graph, {graph.inputs[0]: v[None]})[graph.outputs[0]] for v in x])
    assert together.shape == (3, 3)
    assert np.allclose(together, single, rtol=1e-4, atol=1e-6)
    assert np.allclose(together.sum(axis=1), 1, atol=1e-5)


@settings(max_examples=30)
@given(float_graphs(), seeds)
def test_keep_gives_every_tensor_as_declared(graph: Graph, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=graph[graph.inputs[0]].shape).astype(np.float32)
    kept = run(graph, [x], keep=True)
    for node in graph.nodes:
        for name in node.outputs:
            assert kept[name].shape == graph[name].shape and str(kept[name].dtype) == graph[name].dtype
    assert np.array_equal(kept[graph.outputs[0]], run(graph, [x])[graph.outputs[0]])


def softmax_over_samples() -> Graph:
    """Normalises along dimension 0: samples are not independent."""
    b = Builder("across")
    x = b.input("x", (2, 3), "float32")
    return b.graph([b.op("softmax", x, axis=0, beta=1.0)])


def test_a_batch_of_dependent_samples_is_run_one_by_one() -> None:
    graph, x = softmax_over_samples(), np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    want = np.concatenate([run(graph, [x[i : i + 2]])[graph.outputs[0]] for i in (0, 2, 4)])
    assert np.array_equal(run(graph, [x])[graph.outputs[0]], want)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"y": np.zeros((2, 3), np.float32)}, "takes the inputs x"),
        ([np.zeros((2, 3))], "is float32 and the array given is float64"),
        ([np.zeros((2, 4), np.float32)], r"has shape \[2, 3\] and the array given \[2, 4\]"),
        ([np.zeros((3, 3), np.float32)], "whole number"),
        ([], "takes 1 inputs and 0 were given"),
    ],
)
def test_wrong_inputs_are_named(inputs: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        run(softmax_over_samples(), inputs)  # type: ignore[arg-type]


def test_an_opaque_op_says_where_it_came_from() -> None:
    tensors = {n: Tensor(n, (1, 2), "float32") for n in "xy"}
    graph = Graph("m", ("x",), ("y",), tensors, (Node("n", "opaque", ("x",), ("y",), {"kind": "SIN"}, "operator 3 (SIN)"),))
    verify(graph)
    with pytest.raises(UnsupportedOp, match=r"SIN at operator 3 \(SIN\)"):
        run(graph, [np.zeros((1, 2), np.float32)])


# ---- meanings of our own --------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(quants(), st.integers(2, 64), scales, seeds)
def test_int8_layer_norm_is_near_the_real_one(quant: Quant, n: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = Quant((max(scale, 0.02),), (0,))
    tensors = {
        "x": Tensor("x", (4, n), "int8", quant), "y": Tensor("y", (4, n), "int8", target),
        "g": Tensor("g", (n,), "float32", data=rng.normal(size=n).astype(np.float32)),
        "b": Tensor("b", (n,), "float32", data=rng.normal(size=n).astype(np.float32)),
    }  # fmt: skip
    graph = Graph("ln", ("x",), ("y",), tensors, (Node("ln", "layer_norm", ("x", "g", "b"), ("y",), {"axes": (-1,), "eps": 1e-5}),))
    verify(graph)
    q = rng.integers(-128, 128, (4, n)).astype(np.int8)
    real = qm.dequantise_array(q, quant).astype(np.float64)
    normal = (real - real.mean(1, keepdims=True)) / np.sqrt(real.var(1, keepdims=True) + np.float32(1e-5))
    want = np.clip((normal * tensors["g"].data + tensors["b"].data) / target.scale[0], -128, 127)
    assert np.abs(run(graph, [q])["y"] - want).max() < 0.51


@settings(max_examples=50)
@given(quants(), seeds)
def test_quantise_and_back_is_within_half_a_step(quant: Quant, seed: int) -> None:
    x = np.random.default_rng(seed).uniform(-1, 1, 200).astype(np.float32) * quant.scale[0] * 100
    q = qm.quantise_array(x, quant.scale[0], quant.zero_point[0], "int8")
    inside = (q > -128) & (q < 127)
    assert np.abs(qm.dequantise_array(q, quant) - x)[inside].max(initial=0) <= quant.scale[0] * 0.5001


def pooled(values: np.ndarray, include: bool) -> np.ndarray:
    quant = Quant((0.5,), (3,))
    tensors = {"x": Tensor("x", values.shape, "int8", quant), "y": Tensor("y", values.shape, "int8", quant)}
    attrs = {"kernel": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1)), "activation": "none", "count_include_pad": include}
    return run(Graph("p", ("x",), ("y",), tensors, (Node("p", "avg_pool2d", ("x",), ("y",), attrs),)), [values])["y"]


def test_padding_counts_as_zero_when_asked() -> None:
    x = np.full((1, 3, 3, 1), 12, np.int8)  # real value 4.5 everywhere
    assert pooled(x, include=False)[0, 0, 0, 0] == 12
    assert pooled(x, include=True)[0, 0, 0, 0] == 3 + 9 * 4 // 9  # four of nine are inside


# ---- the verifier ---------------------------------------------------------------------------------------------------


def dense(**changes: Tensor) -> Graph:
    """x int8 [1, 4] -> y int8 [1, 2], with tensors replaced."""
    tensors = {
        "x": Tensor("x", (1, 4), "int8", Quant((0.1,), (0,))),
        "w": Tensor("w", (2, 4), "int8", Quant((0.1, 0.2), (0, 0), 0), np.ones((2, 4), np.int8)),
        "b": Tensor("b", (2,), "int32", None, np.zeros(2, np.int32)),
        "y": Tensor("y", (1, 2), "int8", Quant((0.1,), (0,))),
        **changes,
    }
    return Graph("m", ("x",), ("y",), tensors, (Node("fc", "dense", ("x", "w", "b"), ("y",), {"activation": "none"}),))


WRONG = {
    "no scale": (dense(x=Tensor("x", (1, 4), "int8")), "tensor x of node fc .* without scale and zero point"),
    "shape": (dense(y=Tensor("y", (1, 3), "int8", Quant((0.1,), (0,)))), r"gives int8\[1, 2\] and y is declared int8\[1, 3\]"),
    "weight": (dense(w=Tensor("w", (2, 3), "int8", Quant((0.1,), (0,)), np.ones((2, 3), np.int8))), "does not fit input"),
    "bias": (dense(b=Tensor("b", (3,), "int32", None, np.zeros(3, np.int32))), r"bias has shape \[3\]; it must be \[2\]"),
    "bias type": (dense(b=Tensor("b", (2,), "float32", None, np.zeros(2, np.float32))), "its bias is float32; it must be int32"),
    "asymmetric": (dense(w=Tensor("w", (2, 4), "int8", Quant((0.1, 0.2), (0, 1), 0), np.ones((2, 4), np.int8))), "zero point other than 0"),
    "axis": (dense(w=Tensor("w", (2, 4), "int8", Quant((0.1,) * 4, (0,) * 4, 1), np.ones((2, 4), np.int8))), "lie along axis 1"),
    "float weight": (dense(w=Tensor("w", (2, 4), "float32", None, np.ones((2, 4), np.float32))), "quantise the weights to int8"),
    "scale": (dense(y=Tensor("y", (1, 2), "int8", Quant((1e-30,), (0,)))), "which no real value needs"),
    "batch": (dense(x=Tensor("x", (0, 4), "int8", Quant((0.1,), (0,)))), "export the model with fixed sizes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_sentence(name: str) -> None:
    graph, words = WRONG[name]
    with pytest.raises(ModelError, match=words) as caught:
        verify(graph)
    assert "\n" not in str(caught.value)


def test_a_sound_graph_passes() -> None:
    verify(dense())


def test_an_op_that_does_not_exist() -> None:
    graph = dense()
    with pytest.raises(ModelError, match="'denze', which does not exist; `embarq ops`"):
        verify(replace(graph, nodes=(replace(graph.nodes[0], op="denze"),)))


def test_infinite_weights_are_named() -> None:
    tensors = {n: Tensor(n, (1, d), "float32") for n, d in (("x", 2), ("y", 1))}
    tensors["kernel"] = Tensor("kernel", (1, 2), "float32", data=np.array([[np.inf, 0]], np.float32))
    graph = Graph("m", ("x",), ("y",), tensors, (Node("n", "dense", ("x", "kernel", ""), ("y",), {"activation": "none"}),))
    with pytest.raises(ModelError, match="constant kernel holds NaN or infinite values"):
        verify(graph)


def test_different_scales_need_a_requantize() -> None:
    tensors = {n: Tensor(n, (1, 2), "int8", Quant((s,), (0,))) for n, s in (("a", 0.1), ("b", 0.2))}
    tensors["y"] = Tensor("y", (1, 4), "int8", Quant((0.1,), (0,)))
    graph = Graph("m", ("a", "b"), ("y",), tensors, (Node("c", "concat", ("a", "b"), ("y",), {"axis": 1}),))
    with pytest.raises(ModelError, match="put a requantize before it"):
        verify(graph)


def test_missing_attributes_and_inputs_are_named() -> None:
    tensors = {n: Tensor(n, (1, 2), "float32") for n in "xy"}
    for node, words in (
        (Node("n", "transpose", ("x",), ("y",)), "node n .transpose. lacks the attribute 'perm'"),
        (Node("n", "add", ("x",), ("y",)), r"it has 1 inputs and takes \(a, b\)"),
        (Node("n", "reshape", ("x",), ("y",), {"shape": (3,)}), "the number of values differs"),
    ):
        with pytest.raises(ModelError, match=words):
            verify(Graph("m", ("x",), ("y",), tensors, (node,)))


# ---- the table of ops, and the text ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPS)
def test_every_op_is_documented(name: str) -> None:
    op = OPS[name]
    assert op.name == name and op.doc.endswith(".") and op.inputs
    assert all(constraint.__doc__ for constraint in op.constraints)
    assert name == "opaque" or op.dtypes


def test_the_listing_shows_shapes_types_scales_and_attributes() -> None:
    text = to_text(dense())
    assert text.splitlines() == [
        "graph m: 1 nodes, 16 bytes of constants",
        "  input  x int8[1, 4] (0.1, 0)",
        "  fc: dense(x, w int8[2, 4] (2 scales), b int32[2]) -> y int8[1, 2] (0.1, 0)  activation=none",
        "  output y int8[1, 2] (0.1, 0)",
    ]


@given(arrays((2, 3), "int8"))
def test_moves_keep_every_value(x: np.ndarray) -> None:
    quant = Quant((0.1,), (5,))
    tensors = {"x": Tensor("x", (2, 3), "int8", quant), "y": Tensor("y", (3, 2), "int8", quant)}
    for op, attrs, want in (("transpose", {"perm": (1, 0)}, x.T), ("reshape", {"shape": (3, 2)}, x.reshape(3, 2))):
        graph = Graph("m", ("x",), ("y",), tensors, (Node("n", op, ("x",), ("y",), attrs),))
        assert np.array_equal(run(graph, [x])["y"], want)
