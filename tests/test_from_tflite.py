"""The .tflite importer: what operators become, and what it says of files that are not sound."""

from __future__ import annotations

import numpy as np
import pytest

from sdk.errors import ModelError, UsageError
from sdk.graph.from_tflite import from_tflite
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph
from tests.tflite_writer import Step, Value, build, one_op, reference

F32 = np.float32


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def convolution(shape: tuple[int, ...] = (1, 7, 8, 3), stride: int = 2, scheme: int = 0, **changes: object) -> bytes:
    rng = np.random.default_rng(0)
    out = tuple(-(-d // stride) if scheme == 0 else (d - 3) // stride + 1 for d in shape[1:3])
    weights = Value("w", (4, 3, 3, 3), "float32", data=rng.normal(size=(4, 3, 3, 3)).astype(F32))
    bias = Value("b", (4,), "float32", data=np.arange(4, dtype=F32))
    options = {"padding": scheme, "strideH": stride, "strideW": stride, "fusedActivationFunction": 1, **changes}
    return one_op("CONV_2D", [Value("x", shape, "float32"), weights, bias], [Value("y", (1, *out, 4), "float32")], ("Conv2DOptions", options), 1)


def test_same_padding_becomes_numbers_and_relu_is_fused() -> None:
    (node,) = from_tflite(convolution()).nodes
    assert node.op == "conv2d"
    assert node.attrs["padding"] == ((1, 1), (0, 1))
    assert (node.attrs["stride"], node.attrs["dilation"], node.attrs["groups"], node.attrs["activation"]) == ((2, 2), (1, 1), 1, "relu")
    assert node.source == "operator 0 (CONV_2D)"


def test_valid_padding_is_none() -> None:
    (node,) = from_tflite(convolution(scheme=1)).nodes
    assert node.attrs["padding"] == ((0, 0), (0, 0))


def test_float_convolution_equals_litert() -> None:
    x = np.random.default_rng(1).normal(size=(1, 7, 8, 3)).astype(F32)
    graph = from_tflite(convolution())
    assert np.allclose(run(graph, [x])["y"], reference(convolution(), [x])[0], rtol=1e-5, atol=1e-6)


def test_a_flattening_fully_connected_is_a_reshape_and_a_dense() -> None:
    weights = Value("w", (5, 24), "float32", data=np.ones((5, 24), F32))
    model = one_op("FULLY_CONNECTED", [Value("x", (2, 3, 4, 2), "float32"), weights, None], [Value("y", (2, 5), "float32")], ("FullyConnectedOptions", {}), 1)
    graph = from_tflite(model)
    assert ops(graph) == ["reshape", "dense"]
    assert graph.nodes[0].attrs["shape"] == (2, 24) and graph.nodes[1].inputs[2] == ""
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(F32)
    assert np.allclose(run(graph, [x])["y"], reference(model, [x])[0], rtol=1e-5)


def test_keep_num_dims_keeps_the_leading_dimensions() -> None:
    weights = Value("w", (5, 2), "float32", data=np.ones((5, 2), F32))
    options = ("FullyConnectedOptions", {"keepNumDims": True})
    graph = from_tflite(one_op("FULLY_CONNECTED", [Value("x", (2, 3, 2), "float32"), weights], [Value("y", (2, 3, 5), "float32")], options))
    assert ops(graph) == ["dense"]


def test_split_and_unpack_become_slices() -> None:
    x, axis = Value("x", (2, 6), "float32"), Value("axis", (), "int32", data=np.array(1, np.int32))
    parts = [Value(n, (2, 3), "float32") for n in "ab"]
    assert ops(from_tflite(one_op("SPLIT", [axis, x], parts, ("SplitOptions", {"numSplits": 2})))) == ["slice", "slice"]
    rows = [Value(n, (6,), "float32") for n in "ab"]
    graph = from_tflite(one_op("UNPACK", [x], rows, ("UnpackOptions", {"num": 2, "axis": 0})))
    assert ops(graph) == ["slice", "reshape"] * 2
    numbers = np.arange(12, dtype=F32).reshape(2, 6)
    assert np.array_equal(run(graph, [numbers])["b"], numbers[1])


def test_sizes_in_split_v_may_say_the_rest() -> None:
    x = Value("x", (2, 6), "float32")
    sizes, axis = Value("s", (2,), "int32", data=np.array([2, -1], np.int32)), Value("axis", (), "int32", data=np.array(-1, np.int32))
    parts = [Value("a", (2, 2), "float32"), Value("b", (2, 4), "float32")]
    graph = from_tflite(one_op("SPLIT_V", [x, sizes, axis], parts, ("SplitVOptions", {"numSplits": 2})))
    assert [n.attrs["end"] for n in graph.nodes] == [(2, 2), (2, 6)]


def shape_arithmetic() -> bytes:
    """reshape(x, [shape(x)[0], 12]) as converters write it for a batch they do not know."""
    const = [Value(n, (1,), "int32", data=np.array([v], np.int32)) for n, v in (("zero", 0), ("one", 1), ("step", 1))]
    values = [
        Value("x", (1, 3, 4), "float32", signature=(-1, 3, 4)), Value("shape", (3,), "int32"), *const, Value("batch", (), "int32"),
        Value("twelve", (), "int32", data=np.array(12, np.int32)), Value("target", (2,), "int32"),
        Value("y", (1, 1), "float32", signature=(-1, -1)),
    ]  # fmt: skip
    steps = [
        Step("SHAPE", ("x",), ("shape",), ("ShapeOptions", {"outType": 2})),
        Step("STRIDED_SLICE", ("shape", "zero", "one", "step"), ("batch",), ("StridedSliceOptions", {"shrinkAxisMask": 1})),
        Step("PACK", ("batch", "twelve"), ("target",), ("PackOptions", {"valuesCount": 2, "axis": 0})),
        Step("RESHAPE", ("x", "target"), ("y",)),
    ]
    return build(values, steps, ["x"], ["y"], 1)


def test_arithmetic_on_shapes_is_folded() -> None:
    graph = from_tflite(shape_arithmetic())
    assert ops(graph) == ["reshape"]
    assert graph["y"].shape == (1, 12)


def test_float16_weights_are_widened_and_their_dequantize_vanishes() -> None:
    half = Value("half", (3, 4), "float16", data=np.full((3, 4), 0.5, np.float16))
    values = [Value("x", (1, 4), "float32"), half, Value("w", (3, 4), "float32"), Value("y", (1, 3), "float32")]
    steps = [Step("DEQUANTIZE", ("half",), ("w",)), Step("FULLY_CONNECTED", ("x", "w", ""), ("y",), ("FullyConnectedOptions", {}))]
    graph = from_tflite(build(values, steps, ["x"], ["y"], 2))
    assert ops(graph) == ["dense"]
    assert np.array_equal(run(graph, [np.ones((1, 4), F32)])["y"], np.full((1, 3), 2, F32))


def test_int4_weights_are_unpacked() -> None:
    packed = np.array([0x21, 0x8F], np.uint8)  # 1, 2, -1, -8, the low half first
    values = [Value("x", (1, 4), "int8", 0.5), Value("w", (1, 4), "int4", 0.25, data=packed), Value("y", (1, 1), "int8", 1.0)]
    graph = from_tflite(build(values, [Step("FULLY_CONNECTED", ("x", "w", ""), ("y",), ("FullyConnectedOptions", {}))], ["x"], ["y"]))
    assert graph["w"].data is not None and graph["w"].data.tolist() == [[1, 2, -1, -8]]


def test_int8_weights_beside_float_activations_become_float32() -> None:
    weights = Value("w", (2, 3), "int8", 0.5, data=np.array([[1, 2, 3], [-1, 0, 4]], np.int8))
    graph = from_tflite(one_op("FULLY_CONNECTED", [Value("x", (1, 3), "float32"), weights], [Value("y", (1, 2), "float32")], ("FullyConnectedOptions", {})))
    assert np.array_equal(run(graph, [np.ones((1, 3), F32)])["y"], np.array([[3, 1.5]], F32))


def test_variables_are_kept_as_state() -> None:
    values = [Value("x", (1, 3), "float32"), Value("state", (1, 3), "float32", variable=True), Value("y", (1, 3), "float32")]
    graph = from_tflite(build(values, [Step("ADD", ("x", "state"), ("y",), ("AddOptions", {}))], ["x"], ["y"]))
    assert graph["state"].variable and not graph["state"].is_const
    assert np.array_equal(run(graph, [np.ones((1, 3), F32)])["y"], np.ones((1, 3), F32))


def test_repeated_and_empty_names_are_made_unique() -> None:
    values = [Value("a", (1, 3), "float32"), Value("b", (1, 3), "float32"), Value("c", (1, 3), "float32")]
    model = build(values, [Step("RELU", ("a",), ("b",)), Step("TANH", ("b",), ("c",))], ["a"], ["c"])
    for old in (b"b", b"c"):  # every name is length-prefixed: \1\0\0\0 and the letter
        model = model.replace(b"\x01\x00\x00\x00" + old + b"\x00", b"\x01\x00\x00\x00a\x00")
    graph = from_tflite(model)
    assert len({graph.inputs[0], graph.nodes[0].outputs[0], graph.outputs[0]}) == 3


@pytest.mark.parametrize("kind", ["SIN", "CUMSUM", "DEPTH_TO_SPACE"])
def test_what_has_no_name_here_stays_opaque(kind: str) -> None:
    graph = from_tflite(one_op(kind, [Value("x", (1, 3), "float32")], [Value("y", (1, 3), "float32")]))
    (node,) = graph.nodes
    assert (node.op, node.attrs["kind"]) == ("opaque", kind)


def test_int16_add_by_powers_of_two_is_an_older_rule_and_stays_opaque() -> None:
    values = [Value(n, (1, 3), "int16", 0.5) for n in "abc"]
    assert ops(from_tflite(one_op("ADD", values[:2], values[2:], ("AddOptions", {"potScaleInt16": True})))) == ["opaque"]
    assert ops(from_tflite(one_op("ADD", values[:2], values[2:], ("AddOptions", {"potScaleInt16": False})))) == ["add"]


def test_an_activation_without_equivalent_makes_the_operator_opaque() -> None:
    assert ops(from_tflite(convolution(fusedActivationFunction=4))) == ["opaque"]


# ---- files that are not sound --------------------------------------------------------------------------------------


def refused(model: bytes | str, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        from_tflite(model)
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text


@pytest.mark.parametrize("data", [b"", b"TFL3", b"not a model at all", bytes(64), b"\x00" * 4 + b"TFL3"])
def test_what_is_no_tflite_file(data: bytes) -> None:
    refused(data)


def test_a_path_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match=r"cannot read /nowhere/model\.tflite: No such file"):
        from_tflite("/nowhere/model.tflite")


def test_uint8_quantisation_is_refused_with_the_mend() -> None:
    refused(one_op("RELU", [Value("x", (1, 3), "uint8", 0.1)], [Value("y", (1, 3), "uint8", 0.1)]), "uint8, the old scheme", "quantise the model to int8")


def test_no_fixed_size_is_refused() -> None:
    model = one_op("RELU", [Value("x", (1, 3, 1), "float32", signature=(1, 3, -1))], [Value("y", (1, 3, 1), "float32")])
    refused(model, "input x has no fixed size in dimension 2")


def test_an_open_batch_of_one_is_a_batch_of_one() -> None:
    model = one_op("RELU", [Value("x", (1, 3), "float32", signature=(-1, 3))], [Value("y", (1, 3), "float32", signature=(-1, 3))])
    assert from_tflite(model)["x"].shape == (1, 3)


def test_nan_weights_are_refused_by_name() -> None:
    weights = Value("dense/kernel", (1, 2), "float32", data=np.array([[1, np.nan]], F32))
    model = one_op("FULLY_CONNECTED", [Value("x", (1, 2), "float32"), weights], [Value("y", (1, 1), "float32")], ("FullyConnectedOptions", {}))
    refused(model, "dense/kernel holds NaN")


def test_a_shape_that_does_not_match_is_refused() -> None:
    model = one_op("RELU", [Value("x", (1, 3), "float32")], [Value("y", (1, 4), "float32")])
    refused(model, "operator 0 (RELU)", "[1, 3]", "[1, 4]")


def test_weights_of_the_wrong_length_are_refused() -> None:
    weights = Value("w", (1, 2), "float32", data=np.ones(3, F32))
    model = one_op("FULLY_CONNECTED", [Value("x", (1, 2), "float32"), weights], [Value("y", (1, 1), "float32")], ("FullyConnectedOptions", {}))
    refused(model, "constant w takes 8 bytes", "holds 12")


def test_int8_without_a_scale_is_refused() -> None:
    refused(one_op("RELU", [Value("x", (1, 3), "int8")], [Value("y", (1, 3), "int8")]), "without scale and zero point")


def test_a_zero_point_outside_the_type_is_refused() -> None:
    refused(one_op("RELU", [Value("x", (1, 3), "int8", 0.1, 300)], [Value("y", (1, 3), "int8", 0.1)]), "zero point outside -128..127")


def test_a_huge_shape_costs_nothing() -> None:
    huge = (1, 2**20, 2**20, 2**10)
    refused(one_op("RELU", [Value("x", huge, "float32")], [Value("y", huge, "float32")]), "2**31 values")


def test_every_truncation_is_refused() -> None:
    for model in (convolution(), shape_arithmetic()):
        for length in range(0, len(model) - 1, 7):
            try:
                from_tflite(model[:length])
            except ModelError:
                continue
            # what is cut may be padding behind everything that is read
            assert length > len(model) - 64
