"""The LiteRT backend: payloads take and give what the source model does, whatever it is, and refuse in one sentence."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sdk.backends.litert import emit, refusal
from sdk.backends.litert import flatfile as flatfile_module
from sdk.backends.litert.backend import int8_graph
from sdk.backends.litert.interface import float_edges
from sdk.backends.litert.writer import write
from sdk.backends.payload import Payload
from sdk.errors import DataError, UnsupportedOp, UsageError
from sdk.graph.builder import Builder
from sdk.graph.from_tflite import from_tflite
from sdk.graph.ir import Graph, Quant
from sdk.graph.quantmath import dequantise_array, quantise_array
from sdk.model import Model, load
from sdk.passes.pipeline import prepare
from sdk.planner.recipes import Recipe
from tests.data import shared
from tests.small_models import float_cnn, int8_cnn, samples
from tests.test_backend_litert_ops import close, essence, feed_for, outputs, same_bytes
from tests.tflite_writer import Step, Value, build, delegates, kernels, reference

FLOAT, INT8 = Recipe("litert", "float32"), Recipe("litert", "int8")
MODELS = "mlperf_tiny/models"
INT8_MODELS = ("ic01_resnet8_int8", "kws01_dscnn_int8", "vww01_mbv1_025_int8", "ad01_autoencoder_int8", "sww_ref_int8")
FLOAT_MODELS = ("ic01_resnet8_fp32", "vww01_mbv1_025_fp32", "ad01_autoencoder_fp32")


def content(payload: Payload) -> bytes:
    """The .tflite of a payload."""
    return payload.files[payload.entry]


def names(payload: Payload) -> tuple[list, list]:
    """(name, shape, dtype) of inputs and outputs, as the payload says and as LiteRT reports."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content(payload))
    details = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    reported = [(d["name"], tuple(d["shape"].tolist()), np.dtype(d["dtype"]).name) for d in details]
    return [(p.name, p.shape, p.dtype) for p in (*payload.inputs, *payload.outputs)], reported


# ---- graphs and real models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_small_integer_net_is_the_same_in_every_byte(seed: int) -> None:
    graph = int8_cnn(seed)
    same_bytes(graph, feed_for(graph, np.random.default_rng(seed)))
    assert essence(from_tflite(write(graph))) == essence(graph)
    assert delegates(write(graph), feed_for(graph, np.random.default_rng(seed))) == 1


def test_the_same_graph_gives_the_same_file() -> None:
    assert write(int8_cnn(4)) == write(int8_cnn(4))
    assert write(int8_cnn(4)) != write(int8_cnn(5))


@pytest.mark.parametrize("name", INT8_MODELS)
def test_real_integer_models_written_again(name: str) -> None:
    original = shared(f"{MODELS}/{name}.tflite").read_bytes()
    graph = from_tflite(original)
    again = write(graph)
    assert essence(from_tflite(again)) == essence(graph)
    rng = np.random.default_rng(1)
    for _ in range(2):
        feed = feed_for(graph, rng)
        want = reference(original, feed)
        for have, ours, theirs in zip(reference(again, feed), outputs(graph, feed), want, strict=True):
            assert np.array_equal(have, theirs) and np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", FLOAT_MODELS)
def test_real_float_models_written_again(name: str) -> None:
    original = shared(f"{MODELS}/{name}.tflite").read_bytes()
    graph = from_tflite(original)
    assert essence(from_tflite(write(graph))) == essence(graph)
    feed = feed_for(graph, np.random.default_rng(1))
    close(kernels(write(graph), feed)[0], kernels(original, feed)[0])


def test_a_prepared_real_model_keeps_every_byte() -> None:
    """After the passes its convolutions have borders of their own and channels are gone; the file still computes the same."""
    original = shared("models_extra/mobilenet_v2_224_pytorch_quant.tflite").read_bytes()
    graph = prepare(from_tflite(original))
    feed = feed_for(graph, np.random.default_rng(0))
    assert np.array_equal(reference(write(graph), feed)[0], reference(original, feed)[0])


# ---- torch models --------------------------------------------------------------------------------------------------


@cache
def torch_model(name: str) -> tuple[Model, np.ndarray, np.ndarray, np.ndarray]:
    """(model, an input, what torch computes for it, calibration samples)."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'embarq[torch]'")
    from tests.torch_nets import FAMILIES, outputs_of

    family = FAMILIES[name]
    net, x = family.net(), family.samples(1, seed=5)
    return load(net, torch.from_numpy(x), name=name), x, outputs_of(net, x)[0], family.samples(32)


CNNS = ("mobilenet_v2", "mobilenet_v3", "resnet", "mcunet", "keywords", "unet_transposed")
ENCODERS = ("encoder_sdpa", "vit")


@pytest.mark.parametrize("name", (*CNNS, *ENCODERS))
def test_a_torch_model_in_float(name: str) -> None:
    model, x, want, _ = torch_model(name)
    payload = emit(model, FLOAT)
    said, reported = names(payload)
    assert said == reported and payload.inputs[0].shape == x.shape
    close(kernels(content(payload), [x])[0], want, 2e-5)
    close(reference(content(payload), [x])[0], want, 2e-5)
    assert delegates(content(payload), [x]) == 1


@pytest.mark.parametrize("name", CNNS)
def test_a_torch_cnn_in_int8_is_exact_and_near(name: str) -> None:
    model, x, want, data = torch_model(name)
    payload = emit(model, INT8, data)
    said, reported = names(payload)
    assert said == reported and payload.inputs[0].dtype == payload.outputs[0].dtype == "float32"
    graph, floats = int8_graph(model.graph, data)
    assert not floats and content(payload) == write(graph)
    same_bytes(graph, [x])
    have = kernels(content(payload), [x])[0]
    assert signal_db(want, have) > 25
    assert delegates(content(payload), [x]) == (2 if name == "keywords" else 1)  # keywords ends in an int8 softmax
    written = from_tflite(content(payload))
    weights = {written[node.inputs[1]].dtype for node in written.nodes if node.op in ("conv2d", "depthwise_conv2d", "dense")}
    assert weights == {"int8"}


@pytest.mark.parametrize("name", ENCODERS)
def test_attention_stays_in_float_and_is_one_piece(name: str) -> None:
    """XNNPACK has no int8 kernels for it: left in int8, every one would be a break."""
    model, x, want, data = torch_model(name)
    payload = emit(model, INT8, data)
    assert delegates(content(payload), [x]) == 1
    assert signal_db(want, kernels(content(payload), [x])[0]) > 25
    assert "batch_matmul" in payload.notes[0] and "rsqrt" in payload.notes[0]
    graph = from_tflite(content(payload))
    kinds = {node.op: graph[node.inputs[0]].dtype for node in graph.nodes if node.op in ("dense", "softmax", "batch_matmul")}
    assert kinds == {"dense": "int8", "softmax": "float32", "batch_matmul": "float32"}


def signal_db(want: np.ndarray, have: np.ndarray) -> float:
    """Signal to noise of `have`, in dB."""
    noise = np.sum(np.square((want - have).astype(np.float64)))
    return float(10 * np.log10(np.sum(np.square(want.astype(np.float64))) / max(noise, 1e-30)))


def test_tokens_stay_int64_and_are_looked_up() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'embarq[torch]'")
    from torch import nn

    from tests.torch_nets import EncoderLayer

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layer, self.head = nn.Embedding(50, 16), EncoderLayer(16, 2), nn.Linear(16, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(self.embed(x)).mean(1))

    torch.manual_seed(0)
    net, x = Text().eval(), torch.arange(12).reshape(1, 12) * 4
    model = load(net, x)
    payload = emit(model, FLOAT)
    assert payload.inputs[0].dtype == "int64" and names(payload)[0] == names(payload)[1]
    with torch.no_grad():
        want = net(x).numpy()
    close(kernels(content(payload), [x.numpy()])[0], want)
    data = np.random.default_rng(0).integers(0, 50, (32, 12))
    small = emit(model, INT8, data)
    assert small.inputs[0].dtype == "int64" and signal_db(want, kernels(content(small), [x.numpy()])[0]) > 25
    dense = [n for n in from_tflite(content(small)).nodes if n.op == "dense"]
    assert dense and all(from_tflite(content(small))[n.inputs[0]].dtype == "int8" for n in dense)


def test_integers_that_stand_for_themselves_are_not_quantised() -> None:
    b = Builder("count")
    graph = b.graph([b.op("add", b.input("x", (1, 4), "int32"), b.const("one", np.ones((1, 4), np.int32)), activation="none")])
    model = Model("count", graph, "graph")
    assert "computes nothing in float32" in str(refusal(model, INT8))
    assert reference(content(emit(model, FLOAT)), [np.array([[1, 2, 3, 4]], np.int32)])[0].tolist() == [[2, 3, 4, 5]]


def test_several_inputs_and_outputs_keep_their_names_and_order() -> None:
    b = Builder("two")
    a, c = b.input("left", (1, 3), "float32"), b.input("right", (1, 3), "float32")
    graph = b.graph([b.op("sub", a, c, activation="none"), b.op("mul", a, c, activation="none"), c], ["difference", "product", "again"])
    payload = emit(Model("two", graph, "graph"), FLOAT)
    assert names(payload)[0] == names(payload)[1]
    feed = [np.array([[1, 2, 3]], np.float32), np.array([[4, 6, 8]], np.float32)]
    assert [o.tolist() for o in reference(content(payload), feed)] == [[[-3, -4, -5]], [[4, 12, 24]], [[4, 6, 8]]]
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_content=content(payload)).get_signature_runner("serving_default")
    assert runner(left=feed[0], right=feed[1])[graph.outputs[1]].tolist() == [[4, 12, 24]]


def test_outputs_keep_their_names_where_passes_take_the_node_away() -> None:
    b = Builder("named")
    x = b.input("x", (1, 4), "float32")
    y = b.op("relu", x)
    same = b.op("reshape", y, shape=(1, 4))  # an identity, which the passes remove
    graph = b.graph([y, same, b.op("reshape", x, shape=(1, 4))], ["first", "second", "third"])
    for recipe in (FLOAT, INT8):
        payload = emit(Model("named", graph, "graph"), recipe, np.array([[-1.0, 0, 1, 2]], np.float32))
        assert [p.name for p in payload.outputs] == ["first", "second", "third"] and names(payload)[0] == names(payload)[1]
        first, second, third = reference(content(payload), [np.array([[-1, 0, 1, 2]], np.float32)])
        assert np.allclose(first, [[0, 0, 1, 2]], atol=0.02) and np.array_equal(first, second) and np.allclose(third, [[-1, 0, 1, 2]], atol=0.02)


# ---- ONNX models ---------------------------------------------------------------------------------------------------


def test_an_onnx_model_keeps_its_channel_first_interface() -> None:
    """With ONNX Runtime as the judge; a real model of three outputs."""
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'embarq[onnx]'")
    path = shared("models_extra/st_ssd_mobilenet_v1_025_256.onnx")
    model = load(path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    payload = emit(model, FLOAT)
    assert [p.name for p in payload.outputs] == [o.name for o in session.get_outputs()] and payload.inputs[0].shape == (1, 3, 256, 256)
    assert names(payload)[0] == names(payload)[1]
    x = np.random.default_rng(0).normal(size=(1, 3, 256, 256)).astype(np.float32)
    for have, want in zip(kernels(content(payload), [x]), session.run(None, {payload.inputs[0].name: x}), strict=True):
        close(have, want)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_an_onnx_model_quantised_by_onnxruntime_keeps_its_integers(form: str, tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization", reason="onnxruntime is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'embarq[onnx]'")
    from tests.onnx_models import reference as onnx_reference
    from tests.onnx_models import small_cnn

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{"x": np.random.default_rng(i).normal(size=(1, 3, 8, 8)).astype(np.float32)} for i in range(8)])

        def get_next(self) -> dict | None:
            return next(self.left, None)

    (tmp_path / "float.onnx").write_bytes(small_cnn())
    quantization.quantize_static(tmp_path / "float.onnx", tmp_path / "int8.onnx", Reader(), quant_format=quantization.QuantFormat[form],
                                 per_channel=True, activation_type=quantization.QuantType.QInt8)  # fmt: skip
    model = load(tmp_path / "int8.onnx")
    payload = emit(model, INT8)
    assert payload.inputs[0].dtype == payload.outputs[0].dtype == "float32"
    x = np.random.default_rng(99).normal(size=(1, 3, 8, 8)).astype(np.float32)
    (have,) = reference(content(payload), [x])
    source, target = (model.graph[names[0]] for names in (model.graph.inputs, model.graph.outputs))
    feed = quantise_array(x, source.scale, source.zero_point, "int8") if source.dtype == "int8" else x
    (ours,) = outputs(model.graph, [feed])
    assert np.array_equal(have, dequantise_array(ours, target.quant) if target.quant else ours)
    assert np.abs(have - onnx_reference(tmp_path / "int8.onnx", [x])[0]).max() <= 0.02


# ---- files, and graphs that are quantised ----------------------------------------------------------------------------


def small_file(tmp_path: Path, graph: Graph) -> Path:
    path = tmp_path / "small.tflite"
    path.write_bytes(write(graph))
    return path


def test_a_tflite_is_its_own_payload(tmp_path: Path) -> None:
    for graph, recipe in ((float_cnn(), FLOAT), (int8_cnn(), INT8)):
        path = small_file(tmp_path, graph)
        payload = emit(load(path), recipe)
        assert content(payload) == path.read_bytes()
        assert payload.inputs[0].dtype == graph[graph.inputs[0]].dtype


def test_a_float_tflite_is_quantised_by_us(tmp_path: Path) -> None:
    graph = float_cnn()
    model = load(small_file(tmp_path, graph))
    payload = emit(model, INT8, samples(graph))
    x = samples(graph, 1, seed=9)
    assert payload.inputs[0].dtype == "float32"
    assert signal_db(outputs(graph, [x])[0], kernels(content(payload), [x])[0]) > 25


def test_a_quantised_graph_keeps_its_integers() -> None:
    graph = int8_cnn()
    payload = emit(Model("small", graph, "graph"), INT8)
    port, tensor = payload.inputs[0], graph[graph.inputs[0]]
    assert (port.dtype, port.scale, port.zero_point) == ("int8", tensor.scale, tensor.zero_point)
    feed = feed_for(graph, np.random.default_rng(0))
    assert np.array_equal(reference(content(payload), feed)[0], outputs(graph, feed)[0])


def test_integer_edges_become_the_real_numbers_they_stand_for() -> None:
    graph = int8_cnn()
    real = float_edges(graph)
    assert (real.inputs, real.outputs) == (graph.inputs, graph.outputs)
    assert {real[n].dtype for n in (*real.inputs, *real.outputs)} == {"float32"}
    x, tensor, out = samples(graph, 1), graph[graph.inputs[0]], graph[graph.outputs[0]]
    (want,) = outputs(graph, [quantise_array(x, tensor.scale, tensor.zero_point, "int8")])
    assert np.array_equal(outputs(real, [x])[0], dequantise_array(want, out._one()))
    same_bytes(real, [x])


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "words"), [
    ("dynamic-int8", "not in dynamic-int8; choose int8, or the engine onnx or executorch"),
    ("float16", "not in float16; choose float32, or the engine tensorrt"),
])  # fmt: skip
def test_precisions_that_litert_files_are_not_written_in(precision: str, words: str) -> None:
    model = Model("small", float_cnn(), "graph")
    assert words in str(refusal(model, Recipe("litert", precision)))
    with pytest.raises(UnsupportedOp, match=precision):
        emit(model, Recipe("litert", precision))


def test_a_quantised_model_is_not_made_float() -> None:
    model = Model("small", int8_cnn(), "graph")
    assert refusal(model, INT8) is None
    assert "load the float model, or choose int8" in str(refusal(model, FLOAT))


def opaque_graph(kind: str, source: str) -> Graph:
    b = Builder("odd")
    b.source = source
    (y,) = b.opaque(kind, [b.input("x", (1, 4), "float32")], [((1, 4), "float32")])
    return b.graph([y])


def test_an_unknown_op_is_named_with_its_line_and_the_engines_that_take_it() -> None:
    model = Model("odd", opaque_graph("aten::erfinv", "net.py:12"), "torch")
    for recipe in (FLOAT, INT8):
        sentence = str(refusal(model, recipe))
        assert all(words in sentence for words in ("aten::erfinv", "net.py:12", "onnx or executorch"))
        with pytest.raises(UnsupportedOp, match=r"aten::erfinv \(net\.py:12\)"):
            emit(model, recipe, [np.zeros((1, 4), np.float32)])


def test_litert_runs_its_own_operators_also_where_the_graph_has_no_name_for_them(tmp_path: Path) -> None:
    path = tmp_path / "cosine.tflite"
    path.write_bytes(build([Value("x", (1, 4), "float32"), Value("y", (1, 4), "float32")], [Step("COS", ("x",), ("y",))], ["x"], ["y"], 1))
    model = load(path)
    assert [node.op for node in model.graph.nodes] == ["opaque"]
    assert refusal(model, FLOAT) is None and content(emit(model, FLOAT)) == path.read_bytes()
    assert "COS" in str(refusal(model, INT8))
    custom = Model("custom", opaque_graph("CUSTOM:Mine", "operator 0 (CUSTOM:Mine)"), "tflite")
    assert "CUSTOM:Mine" in str(refusal(custom, FLOAT))


@pytest.mark.parametrize("nothing", [(), [], None, np.zeros((0, 12, 12, 3), np.float32)])
def test_int8_without_samples_says_what_to_give(nothing: object) -> None:
    with pytest.raises((UsageError, DataError), match=r"calibration|no samples|empty|at least one"):
        emit(Model("small", float_cnn(), "graph"), INT8, nothing)


def test_weights_that_no_tflite_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatfile_module, "LARGEST_BYTES", 1000)
    with pytest.raises(UnsupportedOp, match=r"take [\d,]+ bytes and a \.tflite file holds 1,000; choose int8, or the engine onnx"):
        write(float_cnn())
    model = Model("small", float_cnn(), "graph")
    assert "a .tflite file holds 1,000" in str(refusal(model, FLOAT)) and refusal(model, INT8) is None


def test_a_refusal_is_known_while_planning() -> None:
    """An integer graph with a pool that LiteRT does not have: said before anything is written."""
    b = Builder("pool")
    x = b.input("x", (1, 7, 8, 3), "int8", Quant((0.1,), (0,)))
    graph = b.graph([b.op("avg_pool2d", x, kernel=(3, 3), stride=(2, 2), padding=((1, 1), (0, 2)), activation="none")])
    model = Model("pool", graph, "graph")
    assert "has no int8 average pool" in str(refusal(model, INT8))
    with pytest.raises(UnsupportedOp, match="pool: node avg_pool2d"):
        emit(model, INT8)


def test_a_tensor_of_another_name_never_overwrites_one(tmp_path: Path) -> None:
    """What the writing names itself steps aside for the model's own names."""
    b = Builder("names")
    x = b.input("perm", (1, 3, 4), "float32")
    y = b.op("transpose", b.op("softmax", x, axis=1, beta=1.0), perm=(0, 2, 1))
    graph = b.graph([y], ["axes"])
    graph = replace(graph, name="names")
    feed = feed_for(graph, np.random.default_rng(0))
    close(reference(write(graph), feed)[0], outputs(graph, feed)[0])
