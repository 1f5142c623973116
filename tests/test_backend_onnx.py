"""The ONNX Runtime backend: its float payload computes what torch does, its int8 payloads nearly so, and what cannot be is said in one sentence."""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs onnx (pip install 'embarq[onnxruntime]')")
ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime (pip install 'embarq[onnxruntime]')")
torch = pytest.importorskip("torch", reason="needs torch (pip install 'embarq[torch]')")

from benchmarks import linux_nets, small_nets  # noqa: E402
from sdk.backends.foreign import first_sentence, unknown_operator  # noqa: E402
from sdk.backends.onnx import emit, error_report, refusal  # noqa: E402
from sdk.backends.onnx.emit import session  # noqa: E402
from sdk.backends.onnx.export import ports, source_shape, to_onnx  # noqa: E402
from sdk.backends.onnx.quantise import BETWEEN, op_types  # noqa: E402
from sdk.backends.payload import Payload  # noqa: E402
from sdk.backends.samples import arrays, sqnr_db  # noqa: E402
from sdk.errors import DataError, ModelError, UnsupportedOp, UsageError  # noqa: E402
from sdk.model import Model, load  # noqa: E402
from sdk.planner.recipes import Recipe  # noqa: E402
from sdk.runner.onnx_engine import OnnxEngine  # noqa: E402
from tests import onnx_models as made  # noqa: E402
from tests.data import shared  # noqa: E402

torch.set_num_threads(1)
FLOAT, INT8, DYNAMIC = (Recipe("onnx", precision) for precision in ("float32", "int8", "dynamic-int8"))


@cache
def source(name: str) -> tuple[torch.nn.Module, Model, tuple[np.ndarray, ...]]:
    """A small net of the Linux comparison: torch module, loaded model, inputs."""
    net = linux_nets.SMALL[name]
    module, samples = net.module(), tuple(net.samples(8))
    return module, load(module, samples[0], name=name), samples


@cache
def payload_of(name: str, precision: str) -> Payload:
    """The payload of a small net, calibrated on its own samples."""
    _, model, samples = source(name)
    return emit(model, Recipe("onnx", precision), samples if precision == "int8" else ())


@cache
def trained_int8() -> Payload:
    """The trained net in int8, calibrated on two thirds of the pictures."""
    _, model, pictures = trained()
    return emit(model, INT8, pictures[:16])


@cache
def trained() -> tuple[torch.nn.Module, Model, tuple[np.ndarray, ...]]:
    """The trained MCUNet-like net, and pictures in its input range."""
    rng = np.random.default_rng(3)
    pictures = tuple(np.clip(0.25 * linux_nets.smooth(rng, small_nets.INPUT_SHAPE) + 0.5, 0, 1).astype(np.float32) for _ in range(24))
    module = small_nets.pretrained("mcunet_like")
    return module, load(module, pictures[0], name="mcunet_like"), pictures


def eager(module: torch.nn.Module, samples: tuple[np.ndarray, ...]) -> np.ndarray:
    """What torch computes, [samples, 1, classes]."""
    with torch.no_grad():
        return np.stack([module(torch.from_numpy(x)).numpy() for x in samples])


def outputs(payload: Payload, samples: tuple[np.ndarray, ...]) -> np.ndarray:
    """What the payload computes, fed by the names and types that it declares."""
    runner, (port,) = session(payload.files[payload.entry]), payload.inputs
    assert [(i.name, tuple(i.shape)) for i in runner.get_inputs()] == [(port.name, port.shape)]
    return np.stack([runner.run([payload.outputs[0].name], {port.name: x.astype(port.dtype)})[0] for x in samples])


def ops(payload: Payload) -> list[str]:
    """The operators of the payload's graph."""
    return [node.op_type for node in onnx.load_model_from_string(payload.files[payload.entry]).graph.node]


# ---- float ----


@pytest.mark.parametrize("name", ["mobilenetv2", "resnet18", "vit_tiny", "text_transformer"])
def test_float_computes_what_torch_does(name):
    module, model, samples = source(name)
    payload = payload_of(name, "float32")
    want, got = eager(module, samples), outputs(payload, samples)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    assert [p.name for p in payload.inputs] == list(model.graph.inputs) and [p.name for p in payload.outputs] == list(model.graph.outputs)
    assert (payload.inputs[0].shape, payload.inputs[0].dtype) == (samples[0].shape, str(samples[0].dtype))
    assert payload.requires == {"onnxruntime": ort.__version__}


def test_batch_norms_are_gone_and_nothing_tells_where_it_was_exported():
    payload = payload_of("mobilenetv2", "float32")
    assert "BatchNormalization" not in ops(payload)
    assert b".py" not in payload.files[payload.entry], "stack traces of the exporter name the user's files"


def test_a_model_of_two_inputs_and_two_outputs_keeps_their_order():
    class Two(torch.nn.Module):
        def forward(self, left, right):
            return left - right, left * 2

    a, b = np.float32([[1, 2]]), np.float32([[5, 7]])
    payload = emit(load(Two(), (a, b)), FLOAT)
    first, second = session(payload.files[payload.entry]).run(None, {p.name: x for p, x in zip(payload.inputs, (a, b), strict=True)})
    assert [p.name for p in payload.inputs] == ["left", "right"]
    np.testing.assert_array_equal(first, a - b)
    np.testing.assert_array_equal(second, 2 * a)


# ---- int8 ----


def test_int8_of_a_trained_net_is_close_and_stays_in_integers():
    module, model, pictures = trained()
    payload = trained_int8()
    want, got = eager(module, pictures[16:]), outputs(payload, pictures[16:])
    assert sqnr_db(want, got) > 25
    found = ops(payload)
    assert "Clip" not in found, "a clip that ends where its convolution's range does costs time and changes nothing"
    assert len(payload.files[payload.entry]) < 0.4 * sum(t.size_bytes for t in model.graph.constants())
    stored = onnx.load_model_from_string(payload.files[payload.entry]).graph.initializer
    weights = [t for t in stored if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    assert len(weights) == found.count("Conv") == 42


def test_reduced_range_keeps_weights_to_seven_bits():
    """What processors without VNNI need: two products of a uint8 and a 7-bit weight fit in 16 bits."""
    _, model, samples = source("resnet18")

    def largest(options):
        stored = onnx.load_model_from_string(emit(model, Recipe("onnx", "int8", options=options), samples).files["model.onnx"]).graph.initializer
        return max(int(np.abs(onnx.numpy_helper.to_array(t).astype(int)).max()) for t in stored if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4)

    assert largest({}) == 127 and largest({"reduce_range": True}) == 64


@pytest.mark.parametrize("name", ["vit_tiny", "text_transformer"])
def test_static_int8_of_a_transformer_quantises_its_layers_and_no_attention(name):
    module, _, samples = source(name)
    payload = payload_of(name, "int8")
    assert sqnr_db(eager(module, samples), outputs(payload, samples)) > 25
    proto = onnx.load_model_from_string(payload.files[payload.entry])
    dequantised = {o for node in proto.graph.node if node.op_type == "DequantizeLinear" for o in node.output}
    fed_integers = {node.op_type for node in proto.graph.node if set(node.input) & dequantised}
    assert "Gemm" in fed_integers or "MatMul" in fed_integers
    assert not fed_integers & {"Softmax", "LayerNormalization", "Gelu", "Mul"}


@pytest.mark.parametrize("name", ["vit_tiny", "text_transformer"])
def test_dynamic_int8_needs_no_samples(name):
    module, _, samples = source(name)
    payload = payload_of(name, "dynamic-int8")
    assert "MatMulInteger" in ops(payload)
    assert sqnr_db(eager(module, samples), outputs(payload, samples)) > 30


def test_a_classifiers_softmax_is_no_attention():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5), torch.nn.Softmax(-1)).eval()
    proto = to_onnx(load(net, np.zeros((1, 3, 8, 8), np.float32)))
    assert set(BETWEEN) <= set(op_types(proto))
    assert not set(BETWEEN) & set(op_types(to_onnx(source("vit_tiny")[1])))


def test_the_report_names_layers_and_finds_the_noisy_one():
    """A layer whose weights span five orders of magnitude within one channel must be the one that falls."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(*(layer for _ in range(3) for layer in (torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.ReLU()))).eval()
    with torch.no_grad():
        net[2].weight[:, 0] *= 1000
        net[2].bias.zero_()
        net[0].weight[0], net[0].bias[0] = 0.0, 0.0  # the large weights meet zeros: they only take the range from the others
    rng = np.random.default_rng(0)
    pictures = [rng.normal(size=(1, 8, 6, 6)).astype(np.float32) for _ in range(8)]
    model = load(net, pictures[0], name="three")
    rows = error_report(model, INT8, emit(model, INT8, pictures), pictures)
    by_order = [row.sqnr_db for row in rows]
    assert [row.op for row in rows].count("Conv") + [row.op for row in rows].count("Relu") == len(rows) >= 3
    assert by_order[0] > 30 and min(by_order[1:]) < 10


def test_the_report_of_a_float_payload_shows_no_noise():
    _, model, samples = source("resnet18")
    rows = error_report(model, FLOAT, payload_of("resnet18", "float32"), samples)
    assert rows and min(row.sqnr_db for row in rows) > 100


# ---- .onnx files ----


def conv_file(tmp_path, shape, weights=None):
    """A file with one convolution; `shape` may hold names."""
    w = made.rand(4, 3, 3, 3) if weights is None else weights
    path = tmp_path / "net.onnx"
    path.write_bytes(made.model([made.node("Conv", ["x", "w"], pads=[1, 1, 1, 1])], {"x": shape}, {"w": w}))
    return path


@pytest.mark.parametrize("layout", [None, "nhwc"])
def test_open_shapes_of_a_file_take_those_of_the_example(tmp_path, layout):
    path = conv_file(tmp_path, ("n", 3, "h", "w"))
    model = load(path, np.zeros((1, 3, 8, 6), np.float32), input_layout=layout)
    payload = emit(model, FLOAT)
    assert payload.inputs[0].shape == (1, 3, 8, 6) and payload.outputs[0].shape == (1, 4, 8, 6)
    x = made.rand(1, 3, 8, 6, seed=5)
    np.testing.assert_array_equal(outputs(payload, (x,))[0], ort.InferenceSession(str(path)).run(None, {"x": x})[0])


def test_weights_beside_the_file_come_into_the_payload(tmp_path):
    proto = onnx.load_model_from_string(conv_file(tmp_path, (1, 3, 8, 8)).read_bytes())
    path = tmp_path / "outside.onnx"
    onnx.save(proto, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    payload = emit(load(path), FLOAT)
    x = made.rand(1, 3, 8, 8)
    (tmp_path / "weights.bin").unlink()
    assert outputs(payload, (x,)).shape == (1, 1, 4, 8, 8)


def test_a_quantised_file_stays_as_it_is(tmp_path):
    _, _, pictures = trained()
    path = tmp_path / "int8.onnx"
    path.write_bytes(trained_int8().files["model.onnx"])
    quantised = load(path)
    assert quantised.is_quantised
    np.testing.assert_array_equal(outputs(emit(quantised, INT8), pictures[:2]), outputs(trained_int8(), pictures[:2]))
    assert "is quantised already" in str(refusal(quantised, FLOAT))


def test_the_layout_of_a_channel_last_graph_is_undone():
    assert source_shape([0, 3, 0, 0], [1, 8, 8, 3]) == (1, 3, 8, 8)
    assert source_shape([0, 3, 0, 0], [1, 3, 8, 8]) == (1, 3, 8, 8)
    assert source_shape([0, 5], [2, 5]) == (2, 5)


# ---- what cannot be ----


class Bessel(torch.nn.Module):
    """An operator that ONNX has not."""

    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_an_operator_without_onnx_is_named():
    model = load(Bessel(), torch.zeros(1, 4), name="waves")
    with pytest.raises(UnsupportedOp, match=r"^waves cannot be exported to ONNX: it does not know the operator prims\.bessel_j0; choose backend ") as caught:
        emit(model, FLOAT)
    assert "\n" not in str(caught.value)


def test_an_operator_that_the_runtime_does_not_know_is_named(tmp_path):
    path = tmp_path / "odd.onnx"
    proto = onnx.load_model_from_string(made.model([made.node("Mystery", ["x"], domain="com.microsoft")], {"x": (1, 4)}))
    for size in (1, 4):
        proto.graph.output[0].type.tensor_type.shape.dim.add().dim_value = size
    path.write_bytes(proto.SerializeToString())
    with pytest.raises((UnsupportedOp, ModelError), match=r"^ONNX Runtime [\d.]+ cannot run odd.*Mystery") as caught:
        emit(load(path), FLOAT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "recipe", "sentence"),
    [
        ("tflite", FLOAT, "does not take; choose backend litert"),
        ("graph", INT8, "does not take; choose backend litert"),
        ("torch", Recipe("onnx", "float16"), "choose precision float32"),
        ("torch", Recipe("onnx", "int8", options={"bits": 4}), "no option 'bits'; known are activations"),
        ("torch", Recipe("onnx", "int8", options={"range": "guess"}), "option range is 'guess'; choose one of minmax"),
    ],
)
def test_each_refusal_is_one_sentence_with_its_mend(kind, recipe, sentence):
    model = source("resnet18")[1]
    model = Model(model.name, model.graph, kind, program=model.program)
    assert sentence in str(refusal(model, recipe))
    with pytest.raises(UsageError, match=sentence.split(";")[0]):
        emit(model, recipe)


def test_dynamic_int8_is_refused_where_nothing_is_multiplied():
    model = load(torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))
    assert "no matrix multiplication" in str(refusal(model, DYNAMIC))
    assert refusal(model, INT8) is None and refusal(source("vit_tiny")[1], DYNAMIC) is None


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        ((), "no calibration sample was given"),
        ([np.zeros((1, 3, 4, 4), np.float32)], r"sample 0 has shape \[1, 3, 4, 4\] and input input takes \[1, 3, 32, 32\]"),
        ([np.full((1, 3, 32, 32), np.nan, np.float32)], "sample 0 holds NaN"),
        ([{"picture": np.zeros((1, 3, 32, 32))}], "sample 0 has no 'input'; it has picture"),
        ([(np.zeros((1, 3, 32, 32)),) * 2], "has 2 arrays and the model takes 1"),
    ],
)
def test_unfit_samples_are_told(samples, sentence):
    with pytest.raises(DataError, match=sentence):
        emit(source("resnet18")[1], INT8, samples)


def test_samples_come_in_every_form():
    inputs = ports(to_onnx(source("resnet18")[1]))[0]
    x = np.ones((3, 32, 32))
    forms = [x, x[None], (x,), {"input": x[None]}]
    assert all(a.shape == (1, 3, 32, 32) and a.dtype == np.float32 for (a,) in arrays(forms, inputs))


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    _, model, _ = source("resnet18")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r'needs onnxruntime, which is not installed; pip install "embarq\[onnxruntime\]"'):
        emit(model, FLOAT)


def test_foreign_errors_become_their_innermost_first_line():
    try:
        try:
            raise ValueError("dimension 3 is odd.\n  at file.cc:12")
        except ValueError as inner:
            raise RuntimeError("export failed, see above") from inner
    except RuntimeError as error:
        assert first_sentence(error) == "dimension 3 is odd"
        assert unknown_operator(error) is None
    assert unknown_operator(RuntimeError("Missing out variants: {'aten::_linalg_svd'}")) == "aten._linalg_svd"


# ---- accuracy on real pictures ----


@pytest.mark.long
@pytest.mark.parametrize("name", list(small_nets.NETS))
def test_int8_loses_less_than_a_point_on_real_pictures(name):
    import io

    Image = pytest.importorskip("PIL.Image", reason="needs pillow")
    with np.load(shared("cifar10/cifar10_lossless_train4000.npz")) as stored:
        samples = [x.transpose(2, 0, 1)[None].astype(np.float32) / 255 for x in stored["x"][:256]]
    with np.load(shared("cifar10/cifar10_jpeg_test.npz")) as stored:
        blob, offsets, labels = stored["jpeg"].tobytes(), stored["offsets"], stored["y"][::2]
    pictures = [np.asarray(Image.open(io.BytesIO(blob[offsets[i] : offsets[i + 1]])).convert("RGB")) for i in range(0, 2 * len(labels), 2)]
    x = [p.transpose(2, 0, 1)[None].astype(np.float32) / 255 for p in pictures]
    module = small_nets.pretrained(name)
    model = load(module, samples[0], name=name)
    correct = {r.precision: np.mean(outputs(emit(model, r, samples), tuple(x))[:, 0].argmax(-1) == labels) for r in (FLOAT, INT8)}
    print(name, correct)
    assert correct["float32"] > 0.7
    assert correct["int8"] >= correct["float32"] - 0.01


def test_large_int8_products_are_exact_on_every_processor(tmp_path):
    """Where 255 times 127 is added to itself, pairs of products do not fit in 16 bits: x86 without VNNI saturated."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(200, 256, (4, 64), np.uint8), rng.integers(96, 128, (64, 8)).astype(np.int8)
    content = _integer_product(w)
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    want = x.astype(np.int64) @ w.astype(np.int64)
    assert np.array_equal(session(content).run(None, {"x": x})[0], want)
    assert np.array_equal(OnnxEngine(str(path), 1, {}).run([x])[0], want)


def test_int8_activations_open_on_every_processor(tmp_path):
    """Fully connected layers between int8 activations: no kernel takes them with uint8 weights, which exact products ask for without VNNI."""
    _, model, samples = source("vit_tiny")
    payload = emit(model, Recipe("onnx", "int8", options={"activations": "int8"}), samples)
    path = tmp_path / "model.onnx"
    path.write_bytes(payload.files[payload.entry])
    assert np.isfinite(OnnxEngine(str(path), 1, {}).run([samples[0]])[0]).all()


def _integer_product(w: np.ndarray) -> bytes:
    """A model of one MatMulInteger: uint8 [4, 64] by `w` int8 [64, n]."""
    types = onnx.TensorProto
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "product",
        [onnx.helper.make_tensor_value_info("x", types.UINT8, (4, w.shape[0]))],
        [onnx.helper.make_tensor_value_info("y", types.INT32, (4, w.shape[1]))], [onnx.numpy_helper.from_array(w, "w")],
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
