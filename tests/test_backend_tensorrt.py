"""TensorRT's ONNX: close to the float net, valid under ONNX Runtime, and each of TensorRT's placement rules told by the linter."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import sdk
from sdk.backends import tensorrt
from sdk.backends.samples import sqnr_db
from sdk.backends.tensorrt.calibrate import LEVELS, symmetric_scale
from sdk.backends.tensorrt.graph import wires
from sdk.backends.tensorrt.lint import RULES, lint
from sdk.backends.tensorrt.lower import lower
from sdk.backends.tensorrt.qdq import places, quantised, weight_scales
from sdk.backends.tensorrt.sparsity import is_sparse
from sdk.backends.tensorrt.versions import DEVICES, NEWEST_OPSET, RELEASES, release_for
from sdk.errors import DataError, ModelError, UnsupportedOp
from sdk.passes.ranges import Histogram
from sdk.planner.recipes import Recipe
from tests.data import ROOT, shared
from tests.onnx_models import model as made_model
from tests.onnx_models import node, one, rand, reference, session, small_cnn

F32 = np.float32


def recipe(precision: str = "int8", **options: Any) -> Recipe:
    return Recipe("tensorrt", precision, 1, options)


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> sdk.model.Model:
    """conv, batch norm, relu, depthwise, clip, residual add, pool, Gemm, softmax."""
    return loaded(small_cnn(), tmp_path_factory.mktemp("cnn"))


def loaded(content: bytes, folder: Any) -> sdk.model.Model:
    path = folder / "net.onnx"
    path.write_bytes(content)
    return sdk.load(path)


def samples(shape: tuple[int, ...], count: int = 16, seed: int = 3) -> list[np.ndarray]:
    return [rand(*shape, seed=seed + i) for i in range(count)]


@pytest.fixture(scope="module")
def qdq(cnn: sdk.model.Model) -> bytes:
    return bytes(tensorrt.emit(cnn, recipe(), samples((1, 3, 8, 8))).files["model.onnx"])


# ---- what is emitted ----


@pytest.mark.parametrize("trt", list(RELEASES))
def test_an_onnx_net_in_int8_is_near_its_float_self_for_every_release(cnn, trt):
    payload = tensorrt.emit(cnn, recipe(tensorrt=trt), samples((1, 3, 8, 8)))
    content = payload.files["model.onnx"]
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    assert lint(content, RELEASES[trt]) == []
    inputs = samples((1, 3, 8, 8), seed=90)
    want = np.array([reference(small_cnn(), [x])[0] for x in inputs])
    have = np.array([reference(content, [x])[0] for x in inputs])
    assert 20 < sqnr_db(want, have) < 80, "int8 is near and not the float model itself"
    assert [(p.name, p.shape, p.dtype) for p in payload.inputs] == [("x", (1, 3, 8, 8), "float32")]
    assert [(p.name, p.shape) for p in payload.outputs] == [("y", (1, 5))]
    assert payload.options["flags"] == ["fp16", "int8"]
    assert payload.options["tensorrt_min"] == trt


def test_the_pairs_stand_where_the_rules_want_them(qdq):
    w = wires(onnx.load_from_string(qdq).graph)
    weighted = [n for n in w.maker.values() if n.op_type in ("Conv", "Gemm")]
    assert len(weighted) == 4
    assert all(w.made_by(i) == "DequantizeLinear" for n in weighted for i in n.input[:2])
    add = next(n for n in w.maker.values() if n.op_type == "Add")
    assert [w.made_by(i) for i in add.input] == ["DequantizeLinear"] * 2
    assert w.made_by(next(n for n in w.maker.values() if n.op_type == "Relu").input[0]) in ("Conv", "BatchNormalization")
    stored = [i for i in w.stored.values() if any(r.op_type == "QuantizeLinear" and r.input[0] == i.name for r in w.readers.get(i.name, []))]
    assert len(stored) == 4 and all(i.data_type == onnx.TensorProto.FLOAT for i in stored), "weights stay float before their pair"


def test_the_same_bytes_each_time_and_no_word_of_where_it_was_made(cnn, qdq):
    assert tensorrt.emit(cnn, recipe(), samples((1, 3, 8, 8))).files["model.onnx"] == qdq


@pytest.mark.parametrize(("family", "trt", "int8_db"), [("resnet", "8.5", 27), ("vit", "8.2", 37), ("unet_transposed", "8.5", 24)])
def test_a_torch_net_in_every_precision(family, trt, int8_db):
    check_family(family, trt, int8_db)


@pytest.mark.long
@pytest.mark.parametrize("trt", ["8.2", "10.3"])  # the oldest opset and the newest
def test_every_family_for_every_release(trt):
    families = pytest.importorskip("tests.torch_nets", reason="needs torch").FAMILIES
    for family in families:
        check_family(family, trt, 20)


def check_family(family: str, trt: str, int8_db: float) -> None:
    torch = pytest.importorskip("torch")
    from tests.torch_nets import FAMILIES, outputs_of

    net, kind = FAMILIES[family].net(), FAMILIES[family]
    work = sdk.load(net, example=torch.zeros(kind.shape))
    inputs = [x[None] for x in kind.samples(8, seed=9)]
    want = np.array([outputs_of(net, x)[0] for x in inputs])
    for precision, least in (("float32", 90.0), ("int8", int8_db)):
        payload = tensorrt.emit(work, recipe(precision, tensorrt=trt), [x[None] for x in kind.samples(32)])
        content = payload.files["model.onnx"]
        assert b".py" not in content, "the exporter's notes of source files are gone"
        assert [p.name for p in payload.inputs] == list(work.graph.inputs)
        assert onnx.load_from_string(content).opset_import[0].version == release_for({"tensorrt": trt}).opset
        have = np.array([reference(content, [x])[0] for x in inputs])
        assert sqnr_db(want, have) > least, f"{family} {precision}"


def test_real_net_keeps_its_answers():
    """A trained MobileNetV2 on photographs: int8 names the same class as float for most."""
    image = pytest.importorskip("PIL.Image")
    work = sdk.load(shared("models_extra/mobilenet_v2_0.35_128_tfs_channel_first.onnx"))
    pictures = photographs(shared("caltech101_20/caltech101_20.tar"), image, 60)
    payload = tensorrt.emit(work, recipe(), pictures[:30])
    assert lint(payload.files["model.onnx"]) == []
    want = np.array([reference(work.content(), [x])[0] for x in pictures[30:]])
    have = np.array([reference(payload.files["model.onnx"], [x])[0] for x in pictures[30:]])
    assert (want.argmax(-1) == have.argmax(-1)).mean() >= 0.9
    assert sqnr_db(want, have) > 15


@pytest.mark.long
@pytest.mark.parametrize("name", ["mcunet_like", "mobilenetv2_035"])
def test_a_trained_net_stays_within_one_point(name):
    torch = pytest.importorskip("torch")
    from benchmarks import small_nets
    from benchmarks.train_small import images

    def pictures(file: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = images(shared(f"cifar10/{file}"), count)
        return np.ascontiguousarray((x / 255).astype(F32).transpose(0, 3, 1, 2)), y

    net = small_nets.pretrained(name)
    payload = tensorrt.emit(sdk.load(net, example=torch.zeros(small_nets.INPUT_SHAPE)), recipe(), list(pictures("cifar10_jpeg_train.npz", 128)[0][:, None]))
    x, y = pictures("cifar10_jpeg_test.npz", 2000)
    with torch.no_grad():
        want = net(torch.from_numpy(x)).numpy()
    int8 = session(payload.files["model.onnx"])
    have = np.concatenate([int8.run(None, {payload.inputs[0].name: x[i : i + 1]})[0] for i in range(len(x))])
    assert (want.argmax(1) == y).mean() > 0.7
    assert (have.argmax(1) == y).mean() > (want.argmax(1) == y).mean() - 0.01
    assert sqnr_db(want, have) > 28


def photographs(archive: Any, image: Any, count: int) -> list[np.ndarray]:
    """[1, 3, 128, 128] float32 in [-1, 1], from the training pictures, spread over the classes."""
    import tarfile

    with tarfile.open(archive) as tar:
        names = sorted(n for n in tar.getnames() if "/train/" in n or n.startswith("train/"))
        names = [n for n in names if n.endswith(".jpg")]
        chosen = [names[i] for i in np.linspace(0, len(names) - 1, count).astype(int)]
        opened = [image.open(io.BytesIO(tar.extractfile(n).read())).convert("RGB").resize((128, 128)) for n in chosen]  # type: ignore[union-attr]
    order = np.random.default_rng(0).permutation(count)
    return [np.asarray(opened[i], F32).transpose(2, 0, 1)[None] / 127.5 - 1 for i in order]


def test_float16_is_the_float_model_and_a_flag(cnn):
    payload = tensorrt.emit(cnn, recipe("float16", workspace_bytes=64 << 20))
    assert (payload.options["flags"], payload.options["workspace_bytes"]) == (["fp16"], 64 << 20)
    x = rand(1, 3, 8, 8)
    assert np.allclose(reference(payload.files["model.onnx"], [x])[0], reference(small_cnn(), [x])[0], atol=1e-6)
    assert payload.options["weights_bytes"] == len(payload.files["model.onnx"])
    assert tensorrt.emit(cnn, recipe(fp16=False), samples((1, 3, 8, 8), 2)).options["flags"] == ["int8"]


def test_sparsity_counts_the_layers_that_have_the_pattern(tmp_path):
    weights = rand(8, 8, 1, 1)
    weights[:, [0, 1, 4, 5]] = 0
    assert is_sparse(weights) and not is_sparse(rand(8, 8, 1, 1)) and not is_sparse(np.zeros((4, 3), F32))
    content = made_model([node("Conv", ["x", "a"], ["c"]), node("Conv", ["c", "b"])], {"x": (1, 8, 4, 4)}, {"a": weights, "b": rand(8, 8, 1, 1)})
    payload = tensorrt.emit(loaded(content, tmp_path), recipe("float16", sparsity="2:4"))
    assert payload.options["flags"] == ["fp16", "sparse_weights"]
    assert any("1 of 2 layers" in note for note in payload.notes)


def test_importing_and_emitting_never_touches_tensorrt(cnn, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)  # an import would raise
    assert tensorrt.emit(cnn, recipe("float16")).files.keys() == {"model.onnx"}


def test_the_report_finds_the_layer_that_int8_hurts(tmp_path):
    """A large weight on a channel that is always 0 takes the whole range of the scale: the small weights that matter round to 0."""
    first, second = rand(8, 8), 0.01 * rand(8, 8)
    first[:, 0], second[0] = -1.0, 300.0
    nodes = [node("MatMul", ["x", "a"], ["m"]), node("Relu", ["m"], ["r"]), node("MatMul", ["r", "b"])]
    work = loaded(made_model(nodes, {"x": (1, 8)}, {"a": first, "b": second.astype(F32)}), tmp_path)
    given = [np.abs(rand(1, 8, seed=i)) for i in range(8)]
    rows = tensorrt.error_report(work, recipe(), tensorrt.emit(work, recipe(), given), given)
    assert [(r.layer, r.op) for r in rows] == [("m", "MatMul"), ("y", "MatMul")]
    assert rows[0].sqnr_db > 30 and rows[1].sqnr_db < 3
    exact = tensorrt.error_report(work, recipe("float32"), tensorrt.emit(work, recipe("float32")), given)
    assert min(r.sqnr_db for r in exact) > 100


# ---- scales ----


def test_scales_are_symmetric():
    wide = np.concatenate([rand(4000), [100.0]]).astype(F32)
    assert symmetric_scale(Histogram.of(wide), "minmax") == pytest.approx(100 / LEVELS, rel=0.01)
    assert symmetric_scale(Histogram.of(wide), "percentile", 99.9) < 10 / LEVELS
    x = rand(20000)
    steps = {s: float(np.mean((np.clip(np.round(x / s), -128, 127) * s - x) ** 2)) for s in np.linspace(0.01, 0.04, 61)}
    best = min(steps, key=steps.__getitem__)
    chosen = symmetric_scale(Histogram.of(x), "mse")
    error = float(np.mean((np.clip(np.round(x / chosen), -128, 127) * chosen - x) ** 2))
    assert error < steps[best] * 1.1, "within a tenth of the best scale's error"
    assert symmetric_scale(Histogram.of(np.zeros(4, F32))) > 0


def test_weight_scales_count_output_channels():
    assert weight_scales(np.array([[1.27, -0.1], [0, 0]], F32), 0) == pytest.approx([0.01, 1 / 127])
    assert weight_scales(rand(4, 6, 3, 3), 1).shape == (6,)


# ---- lower opsets ----


LOWERED: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "ReduceMean": (one("ReduceMean", [rand(2, 3, 4)], [np.array([1, 2])], keepdims=0), (2, 3, 4)),
    "ReduceMax all": (one("ReduceMax", [rand(2, 3, 4)]), (2, 3, 4)),
    "LayerNormalization": (one("LayerNormalization", [rand(2, 3, 4)], [rand(4), rand(4, seed=1)], axis=-1, epsilon=1e-3), (2, 3, 4)),
    "LayerNormalization no bias": (one("LayerNormalization", [rand(2, 3, 4)], [rand(3, 4)], axis=-2), (2, 3, 4)),
    "HardSwish": (one("HardSwish", [rand(2, 9)]), (2, 9)),
    "Gelu": (one("Gelu", [rand(2, 9)], opset=20), (2, 9)),
    "Gelu tanh": (one("Gelu", [rand(2, 9)], opset=20, approximate="tanh"), (2, 9)),
    "Split": (one("Split", [rand(2, 8)], outputs=2, axis=1, num_outputs=2), (2, 8)),
    "Reshape": (one("Reshape", [rand(2, 8)], [np.array([4, 4])], allowzero=1), (2, 8)),
    "AveragePool": (one("AveragePool", [rand(1, 2, 6, 6)], opset=19, kernel_shape=[2, 2], dilations=[1, 1]), (1, 2, 6, 6)),
}


@pytest.mark.parametrize("name", LOWERED)
def test_an_older_opset_computes_the_same(name):
    content, shape = LOWERED[name]
    old = lower(onnx.load_from_string(content), 13)
    assert old.opset_import[0].version == 13
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(old), full_check=True)
    x = rand(*shape, seed=7)
    for a, b in zip(reference(content, [x]), reference(old.SerializeToString(), [x]), strict=True):
        assert np.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (one("Mish", [rand(2, 3)], opset=18), "Mish node_y0 needs ONNX opset 18 and this TensorRT reads up to 13"),
        (one("Resize", [rand(1, 2, 8, 8)], [None, np.array([1, 1, 0.5, 0.5], F32)], mode="linear", antialias=1), "antialias=1"),
        (one("AveragePool", [rand(1, 2, 6, 6)], opset=19, kernel_shape=[2, 2], dilations=[2, 2]), "dilations="),
        (one("BiasGelu", [rand(2, 3)], [rand(3)], domain="com.microsoft"), "of the domain com.microsoft"),
        (one("LayerNormalization", [rand(2, 3)], [rand(3)], axis=1), "counts its axis from the front"),
    ],
)
def test_what_an_older_opset_cannot_say_is_refused_by_name(content, says):
    with pytest.raises(UnsupportedOp, match=says):
        lower(onnx.load_from_string(content), 13)


# ---- refusals ----


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (recipe(colour=1), "knows no option 'colour'"),
        (recipe(tensorrt="7.1"), "TensorRT '7.1' is not known"),
        (recipe(tensorrt="new"), "TensorRT 'new' is not known"),
        (recipe(sparsity="1:2"), "sparsity '1:2' is not known"),
        (recipe(range="best"), "range 'best' is unknown"),
        (recipe(workspace_bytes=3), "workspace_bytes is 3"),
        (recipe("dynamic-int8"), "no dynamic int8"),
        (recipe(device="jetson-nano"), r"compute capability 5\.3\) has no int8"),
        (recipe("float16", device="jetson-nano", sparsity="2:4"), "no sparse kernels"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_one_sentence(cnn, given, says):
    with pytest.raises(UnsupportedOp, match=says):
        tensorrt.emit(cnn, given, samples((1, 3, 8, 8), 1))


def test_a_good_recipe_is_not_refused(cnn):
    assert tensorrt.refusal(cnn, recipe()) is None
    assert tensorrt.refusal(cnn, recipe("float16", device="jetson-nano")) is None


def test_other_kinds_of_model_are_refused(cnn):
    from dataclasses import replace

    assert "of kind graph" in str(tensorrt.refusal(replace(cnn, kind="graph"), recipe()))


def test_int8_without_samples_or_with_wrong_ones_is_refused(cnn):
    with pytest.raises(DataError, match="there are none"):
        tensorrt.emit(cnn, recipe(), [])
    with pytest.raises(DataError, match="has shape"):
        tensorrt.emit(cnn, recipe(), [rand(1, 3, 9, 9)])


def test_a_net_without_weights_has_no_int8(tmp_path):
    work = loaded(made_model([node("Relu", ["x"])], {"x": (1, 4)}), tmp_path)
    with pytest.raises(UnsupportedOp, match="no layer with constant weights"):
        tensorrt.emit(work, recipe(), [rand(1, 4)])


@pytest.mark.parametrize(("options", "name"), [({}, "8.5"), ({"device": "jetson-nano"}, "8.2"), ({"tensorrt": "10.3"}, "10.0"), ({"tensorrt": "8.4"}, "8.2")])
def test_the_release_is_the_newest_that_is_not_newer(options, name):
    assert release_for(options).name == name
    assert RELEASES[name].opset <= NEWEST_OPSET


# ---- the linter: each rule with a model that breaks it ----


def edited(content: bytes, change: Callable[[Any, Any], None]) -> list[str]:
    made = onnx.load_from_string(content)
    change(made.graph, wires(made.graph))
    return lint(made)


def first(w: Any, op: str) -> Any:
    return next(n for n in w.maker.values() if n.op_type == op)


def store(graph: Any, name: str, value: Any) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def pair_of(w: Any, name: str) -> tuple[Any, Any]:
    """(Q, DQ) that make the tensor `name`."""
    dq = w.maker[name]
    return w.maker[dq.input[0]], dq


def asymmetric(graph, w):
    q, dq = pair_of(w, first(w, "Conv").input[0])
    q.input[2] = dq.input[2] = store(graph, "z", np.int8(3))


def unsigned(graph, w):
    q, dq = pair_of(w, first(w, "Conv").input[0])
    q.input[2] = dq.input[2] = store(graph, "z", np.uint8(0))


def no_zero_point(graph, w):
    for n in pair_of(w, first(w, "Conv").input[0]):
        del n.input[2:]


def negative_scale(graph, w):
    q, dq = pair_of(w, first(w, "Conv").input[0])
    q.input[1] = dq.input[1] = store(graph, "s", F32(-0.1))


def computed_scale(graph, w):
    q, _ = pair_of(w, first(w, "Conv").input[0])
    graph.node.insert(0, helper.make_node("Abs", [q.input[1]], ["s"]))
    q.input[1] = "s"


def many_activation_scales(graph, w):
    for n in pair_of(w, first(w, "Conv").input[0]):
        n.input[1] = "s3"
        n.input[2] = "z3"
        n.attribute.append(helper.make_attribute("axis", 1))
    store(graph, "s3", np.full(3, 0.1, F32))
    store(graph, "z3", np.zeros(3, np.int8))


def other_scale(graph, w):
    pair_of(w, first(w, "Conv").input[0])[1].input[1] = store(graph, "s", F32(0.5))


def lone_quantise(graph, w):
    graph.node.append(helper.make_node("QuantizeLinear", ["x", "s", "z"], ["lone"], name="lone_q"))
    store(graph, "s", F32(0.1))
    store(graph, "z", np.int8(0))


def integer_weights(graph, w):
    conv = first(w, "Conv")
    q, dq = pair_of(w, conv.input[1])
    shape = w.stored[q.input[0]].dims
    dq.input[0] = store(graph, "w8", np.ones(shape, np.int8))
    graph.node.remove(q)


def float_weights(graph, w):
    conv = first(w, "Conv")
    conv.input[1] = pair_of(w, conv.input[1])[0].input[0]


def float_input(graph, w):
    conv = first(w, "Conv")
    conv.input[0] = pair_of(w, conv.input[0])[0].input[0]


def quantised_bias(graph, w):
    gemm = first(w, "Gemm")
    store(graph, "s", F32(0.1))
    store(graph, "z", np.int8(0))
    place = list(graph.node).index(gemm)
    graph.node.insert(place, helper.make_node("DequantizeLinear", ["b8", "s", "z"], ["bias"], name="bias_dq"))
    graph.node.insert(place, helper.make_node("QuantizeLinear", [gemm.input[2], "s", "z"], ["b8"], name="bias_q"))
    graph.node[place + 2].input[2] = "bias"


def one_weight_scale(graph, w):
    for n in pair_of(w, first(w, "Conv").input[1]):
        n.input[1], n.input[2] = "s", "z"
    store(graph, "s", F32(0.1))
    store(graph, "z", np.int8(0))


def wrong_axis(graph, w):
    pair = pair_of(w, first(w, "Gemm").input[1])  # transposed: [out, in]
    features = w.stored[pair[0].input[0]].dims[1]
    for n in pair:
        n.input[1], n.input[2] = "s", "z"
        next(a for a in n.attribute if a.name == "axis").i = 1
    store(graph, "s", np.full(features, 0.1, F32))
    store(graph, "z", np.zeros(features, np.int8))


def wrong_count(graph, w):
    for n in pair_of(w, first(w, "Conv").input[1]):
        n.input[1], n.input[2] = "s", "z"
    store(graph, "s", np.full(2, 0.1, F32))
    store(graph, "z", np.zeros(2, np.int8))


def pair_before_activation(graph, w):
    relu = first(w, "Relu")
    place = list(graph.node).index(relu)
    graph.node.insert(place, helper.make_node("DequantizeLinear", ["q8", "s", "z"], ["qdq"], name="mid_dq"))
    graph.node.insert(place, helper.make_node("QuantizeLinear", ["conv_out", "s", "z"], ["q8"], name="mid_q"))
    graph.node[place + 2].input[0] = "qdq"
    conv = next(n for n in graph.node if n.op_type == "Conv")
    batch = next((n for n in graph.node if n.op_type == "BatchNormalization"), None)
    if batch is not None:
        graph.node.remove(batch)
    conv.output[0] = "conv_out"
    store(graph, "s", F32(0.1))
    store(graph, "z", np.int8(0))


def half_an_addition(graph, w):
    add = first(w, "Add")
    add.input[1] = pair_of(w, add.input[1])[0].input[0]


def quantised_output(graph, w):
    graph.node.append(helper.make_node("QuantizeLinear", ["y", "s", "z"], ["y8"], name="out_q"))
    graph.node.append(helper.make_node("DequantizeLinear", ["y8", "s", "z"], ["out"], name="out_dq"))
    graph.output[0].name = "out"
    store(graph, "s", F32(0.1))
    store(graph, "z", np.int8(0))


def integer_operator(graph, w):
    graph.node.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "b", "c"], name="dynamic"))


def foreign_operator(graph, w):
    graph.node.append(helper.make_node("FusedConv", ["x"], ["a"], name="fused", domain="com.microsoft"))


BREACHES: list[tuple[str, Callable[[Any, Any], None], str]] = [
    ("zero_point", asymmetric, "has zero point 3; TensorRT quantises symmetrically"),
    ("zero_point", unsigned, "of type uint8"),
    ("zero_point", no_zero_point, "has no zero point"),
    ("scale", negative_scale, "not positive and finite"),
    ("scale", computed_scale, "computes its scale"),
    ("per_tensor", many_activation_scales, "gives an activation 3 scales"),
    ("paired", other_scale, "has another scale or axis"),
    ("paired", lone_quantise, "QuantizeLinear lone_q gives int8 to something else"),
    ("paired", integer_weights, "reads stored integers"),
    ("weighted_inputs", float_weights, "has its input quantised and its weights not"),
    ("weighted_inputs", float_input, "has its weights quantised and its input not"),
    ("weighted_inputs", quantised_bias, "Gemm node_l has a quantised bias"),
    ("weight_scales", one_weight_scale, "has one scale for all its weights"),
    ("weight_scales", wrong_axis, "along axis 1; TensorRT wants axis 0"),
    ("weight_scales", wrong_count, "has 2 weight scales for 6 output channels"),
    ("unbroken", pair_before_activation, "Relu node_r1 is cut off from Conv node_c1"),
    ("addition", half_an_addition, "quantise both inputs or neither"),
    ("outputs", quantised_output, "out_dq quantises the model's output"),
    ("integer_ops", integer_operator, "DynamicQuantizeLinear dynamic is an integer operator"),
    ("integer_ops", foreign_operator, "of the domain com.microsoft"),
]


@pytest.mark.parametrize(("rule", "breach", "says"), BREACHES, ids=[b[1].__name__ for b in BREACHES])
def test_the_linter_names_a_breach(qdq, rule, breach, says):
    assert lint(qdq) == []
    found = edited(qdq, breach)
    assert any(says in sentence for sentence in found), found
    assert rule in RULES


def test_every_rule_has_a_breach():
    assert {rule for rule, _, _ in BREACHES} == set(RULES)


def test_the_linter_reads_opsets(qdq):
    made = onnx.load_from_string(qdq)
    assert lint(made, RELEASES["8.2"]) == [f"the model is of opset 17; TensorRT 8.2 reads Q/DQ models of opset 13 to {RELEASES['8.2'].max_opset}"]
    made.opset_import[0].version = 12
    assert "opset 12" in lint(made)[0]


def test_onnx_runtimes_own_quantiser_is_caught(tmp_path):
    """A second origin: its usual output is asymmetric, with integers stored for weights."""
    quantization = pytest.importorskip("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = iter(samples((1, 3, 8, 8), 4))

        def get_next(self) -> Any:
            x = next(self.left, None)
            return None if x is None else {"x": x}

    (tmp_path / "float.onnx").write_bytes(small_cnn())
    quantization.quantize_static(tmp_path / "float.onnx", tmp_path / "int8.onnx", Reader(), per_channel=False)
    found = lint((tmp_path / "int8.onnx").read_bytes())
    for says in ("symmetrically", "reads stored integers", "quantised bias"):
        assert any(says in sentence for sentence in found), says


def test_a_model_that_came_quantised_is_kept_or_refused(cnn, qdq, tmp_path):
    kept = tensorrt.emit(loaded_as_onnx(cnn, qdq, tmp_path / "good.onnx"), recipe())
    assert "the model's own quantisation is kept" in kept.notes
    made = onnx.load_from_string(qdq)
    asymmetric(made.graph, wires(made.graph))
    with pytest.raises(UnsupportedOp, match="symmetrically"):
        tensorrt.emit(loaded_as_onnx(cnn, made.SerializeToString(), tmp_path / "bad.onnx"), recipe())


def loaded_as_onnx(cnn: sdk.model.Model, content: bytes, path: Any) -> sdk.model.Model:
    """The same graph with another file behind it: what is tested is the backend, not the importer."""
    from dataclasses import replace

    path.write_bytes(content)
    return replace(cnn, source=path)


def test_a_transformers_stream_stays_float():
    """Behind MatMul an addition is the stream that layer norms read."""
    content = made_model([node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "x"])], {"x": (1, 5, 8)}, {"w": rand(8, 8)})
    made = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    result, found = quantised(made, samples((1, 5, 8), 4))
    assert found.activations == ("x",) and lint(result, RELEASES["10.0"]) == []
    add = next(n for n in result.graph.node if n.op_type == "Add")
    assert list(add.input) == ["m", "x"]


def test_what_int8_cannot_take_is_told():
    grouped = made_model([node("ConvTranspose", ["x", "w"], group=2)], {"x": (1, 4, 5, 5)}, {"w": rand(4, 3, 2, 2)})
    made = onnx.shape_inference.infer_shapes(onnx.load_from_string(grouped))
    assert places(made).left == ("ConvTranspose node_y stays float: its groups share their scales",)


def test_nan_in_the_middle_is_told():
    content = made_model([node("Log", ["x"], ["l"]), node("MatMul", ["l", "w"])], {"x": (1, 8)}, {"w": rand(8, 8)})
    with pytest.raises(DataError, match="tensor l became NaN"):
        quantised(onnx.shape_inference.infer_shapes(onnx.load_from_string(content)), [np.full((1, 8), -1, F32)])


def test_a_model_of_no_fixed_shape_or_damaged_is_refused(cnn, tmp_path):
    with pytest.raises(ModelError):
        tensorrt.emit(loaded_as_onnx(cnn, b"not a model", tmp_path / "bad.onnx"), recipe("float32"))


def test_every_jetson_of_the_device_files_is_known():
    files = {p.stem for p in (ROOT / "targets" / "linux").glob("jetson-*.toml")}
    assert files == set(DEVICES)
    assert all(j.tensorrt in RELEASES for j in DEVICES.values())


def test_the_example_of_the_documentation_runs(capsys, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "jetson.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    exec(compile("\n".join(blocks), "docs/jetson.md", "exec"), {})
    told = capsys.readouterr().out
    assert "['fp16', 'int8']" in told and "3 layers are int8" in told and "every rule is kept" in told
    assert (tmp_path / "out" / "manifest.json").is_file() and told.count("sqnr_db=") == 3
