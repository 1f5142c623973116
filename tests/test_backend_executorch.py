"""The ExecuTorch backend: its float payload computes what torch does, its int8 payloads nearly so, and what cannot be is said in one sentence."""

from __future__ import annotations

import io
import sys
from functools import cache

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch (pip install 'embarq[executorch]')")
pytest.importorskip("executorch.exir", reason="needs executorch (pip install 'embarq[executorch]')")
pytest.importorskip("torchao", reason="needs torchao (pip install 'embarq[executorch]')")

from benchmarks import linux_nets, small_nets  # noqa: E402
from sdk.backends.executorch import emit, error_report, refusal  # noqa: E402
from sdk.backends.executorch.lower import run  # noqa: E402
from sdk.backends.executorch.rewrite import simplified  # noqa: E402
from sdk.backends.payload import Payload  # noqa: E402
from sdk.backends.samples import sqnr_db  # noqa: E402
from sdk.errors import DataError, ModelError, UnsupportedOp, UsageError  # noqa: E402
from sdk.model import Model, load  # noqa: E402
from sdk.planner.recipes import Recipe  # noqa: E402
from tests.data import shared  # noqa: E402

torch.set_num_threads(1)
FLOAT, INT8, DYNAMIC = (Recipe("executorch", precision) for precision in ("float32", "int8", "dynamic-int8"))


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
    return emit(model, Recipe("executorch", precision), samples if precision == "int8" else ())


def eager(module: torch.nn.Module, samples: tuple[np.ndarray, ...]) -> np.ndarray:
    """What torch computes, [samples, 1, classes]."""
    with torch.no_grad():
        return np.stack([module(torch.from_numpy(x)).numpy() for x in samples])


def outputs(payload: Payload, samples: tuple[np.ndarray, ...]) -> np.ndarray:
    """What the payload computes, fed with the type it declares."""
    return np.stack([values[0] for values in run(payload.files[payload.entry], [(x.astype(payload.inputs[0].dtype),) for x in samples])])


@pytest.mark.parametrize("name", ["resnet18", "text_transformer"])
def test_float_computes_what_torch_does(name):
    module, model, samples = source(name)
    payload = payload_of(name, "float32")
    want, got = eager(module, samples), outputs(payload, samples)
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()
    assert len({y.tobytes() for y in got}) == len(samples), "each sample has an output of its own, not a view of the last"
    assert [p.name for p in payload.inputs] == list(model.graph.inputs) and [p.name for p in payload.outputs] == list(model.graph.outputs)
    assert (payload.inputs[0].shape, payload.inputs[0].dtype) == (samples[0].shape, str(samples[0].dtype))
    assert payload.requires["executorch"] and payload.outputs[0].shape == want.shape[1:]


def test_an_input_whose_channels_lie_last_in_memory_is_read_rightly():
    _, _, samples = source("resnet18")
    payload, x = payload_of("resnet18", "float32"), samples[0]
    strided = np.asfortranarray(x)
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(outputs(payload, (strided,)), outputs(payload, (x,)))


def test_what_stays_outside_xnnpack_is_named():
    assert payload_of("resnet18", "float32").notes == ()
    (note,) = payload_of("text_transformer", "float32").notes
    assert "native_layer_norm (3)" in note and "embedding (1)" in note and "portable kernels" in note
    assert "where" not in note and "logical_not" not in note, "attention without a mask needs no guard against rows that are all masked"


@pytest.mark.parametrize("name", ["resnet18", pytest.param("text_transformer", marks=pytest.mark.long)])
def test_int8_is_close_and_small(name):
    module, _, samples = source(name)
    payload = payload_of(name, "int8")
    assert sqnr_db(eager(module, samples), outputs(payload, samples)) > 30
    assert len(payload.files["model.pte"]) < len(payload_of(name, "float32").files["model.pte"])


@pytest.mark.long
def test_dynamic_int8_needs_no_samples():
    module, _, samples = source("text_transformer")
    payload = payload_of("text_transformer", "dynamic-int8")
    assert sqnr_db(eager(module, samples), outputs(payload, samples)) > 30
    linear = sum(layer.weight.nbytes for layer in module.modules() if isinstance(layer, torch.nn.Linear))
    saved = len(payload_of("text_transformer", "float32").files["model.pte"]) - len(payload.files["model.pte"])
    assert 0.5 * linear < saved < 0.75 * linear, "four bytes became one, and scales"


def test_attention_is_rewritten_only_where_it_means_the_same():
    import torch.nn.functional as F

    class Masked(torch.nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x) + F.scaled_dot_product_attention(x, x, x, is_causal=True)

    x = np.random.default_rng(0).normal(size=(1, 2, 6, 4)).astype(np.float32)
    model = load(Masked(), x)
    program = simplified(model.program)
    with torch.no_grad():
        got, want = program.module(check_guards=False)(torch.from_numpy(x)), Masked()(torch.from_numpy(x))
    assert torch.allclose(got, want, atol=1e-6)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("aten.bmm.default") >= 2 and "aten.scaled_dot_product_attention.default" not in targets[:5]
    untouched = load(torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)).program
    assert simplified(untouched) is untouched


def test_the_report_has_a_row_per_layer_and_the_engines_own_output():
    _, model, samples = source("resnet18")
    payload = payload_of("resnet18", "int8")
    rows = error_report(model, INT8, payload, samples)
    assert [row.op for row in rows].count("conv2d") == 6 and rows[-1].op == "output"
    assert all(20 < row.sqnr_db < 80 for row in rows)
    (only,) = error_report(model, FLOAT, payload_of("resnet18", "float32"), samples)
    assert only.sqnr_db > 100 > rows[-1].sqnr_db


# ---- what cannot be ----


def test_an_operator_that_executorch_has_not_is_named():
    class Bessel(torch.nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    with pytest.raises(UnsupportedOp, match=r"^waves cannot be lowered to ExecuTorch: it does not know the operator aten\.special_bessel_j0;") as caught:
        emit(load(Bessel(), torch.zeros(1, 4), name="waves"), FLOAT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "recipe", "sentence"),
    [
        ("onnx", FLOAT, "takes torch programs only; choose backend onnx"),
        ("tflite", INT8, "takes torch programs only; choose backend litert"),
        ("graph", INT8, "takes torch programs only; choose backend litert"),
        ("torch", Recipe("executorch", "float16"), "choose precision float32"),
        ("torch", Recipe("executorch", "int8", options={"bits": 4}), "no option 'bits'"),
    ],
)
def test_each_refusal_is_one_sentence_with_its_mend(kind, recipe, sentence):
    model = source("resnet18")[1]
    model = Model(model.name, model.graph, kind, program=model.program)
    assert sentence in str(refusal(model, recipe))
    with pytest.raises(UsageError, match=sentence.split(";")[0]):
        emit(model, recipe)


def test_dynamic_int8_is_refused_where_no_layer_is_linear():
    model = load(torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))
    assert "no linear layer" in str(refusal(model, DYNAMIC))
    assert refusal(model, INT8) is None and refusal(source("text_transformer")[1], DYNAMIC) is None


def test_int8_without_samples_is_told():
    with pytest.raises(DataError, match="no calibration sample was given"):
        emit(source("resnet18")[1], INT8)


def test_a_foreign_failure_is_one_sentence(monkeypatch):
    import executorch.exir

    def fail(*_, **__):
        raise RuntimeError("partition 3 is odd.\n  File backend.py, line 7")

    monkeypatch.setattr(executorch.exir, "to_edge_transform_and_lower", fail)
    with pytest.raises(ModelError) as caught:
        emit(source("resnet18")[1], FLOAT)
    assert str(caught.value).startswith("resnet18 cannot be lowered to ExecuTorch (partition 3 is odd); ") and "\n" not in str(caught.value)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(UsageError, match=r'needs executorch, which is not installed; pip install "embarq\[executorch\]"'):
        emit(source("resnet18")[1], FLOAT)


# ---- the other nets, and accuracy on real pictures ----


@pytest.mark.long
@pytest.mark.parametrize("name", ["mobilenetv2", "vit_tiny"])
def test_every_precision_of_the_other_nets(name):
    module, _, samples = source(name)
    want = eager(module, samples)
    assert np.abs(outputs(payload_of(name, "float32"), samples) - want).max() <= 1e-4 * np.abs(want).max()
    assert sqnr_db(want, outputs(payload_of(name, "dynamic-int8"), samples)) > 30
    assert sqnr_db(want, outputs(payload_of(name, "int8"), samples)) > 15  # random weights: the trained nets are judged below


@pytest.mark.long
@pytest.mark.parametrize("name", list(small_nets.NETS))
def test_int8_loses_less_than_a_point_on_real_pictures(name):
    Image = pytest.importorskip("PIL.Image", reason="needs pillow")
    with np.load(shared("cifar10/cifar10_lossless_train4000.npz")) as stored:
        samples = [x.transpose(2, 0, 1)[None].astype(np.float32) / 255 for x in stored["x"][:256]]
    with np.load(shared("cifar10/cifar10_jpeg_test.npz")) as stored:
        blob, offsets, labels = stored["jpeg"].tobytes(), stored["offsets"], stored["y"][::2]
    pictures = [np.asarray(Image.open(io.BytesIO(blob[offsets[i] : offsets[i + 1]])).convert("RGB")) for i in range(0, 2 * len(labels), 2)]
    x = tuple(p.transpose(2, 0, 1)[None].astype(np.float32) / 255 for p in pictures)
    module = small_nets.pretrained(name)
    model = load(module, samples[0], name=name)
    scores = {r.precision: outputs(emit(model, r, samples), x)[:, 0] for r in (FLOAT, INT8)}
    correct = {precision: float(np.mean(y.argmax(-1) == labels)) for precision, y in scores.items()}
    print(name, correct, f"{sqnr_db(scores['float32'], scores['int8']):.1f} dB")
    assert correct["float32"] > 0.7
    assert correct["int8"] >= correct["float32"] - 0.01
    assert sqnr_db(scores["float32"], scores["int8"]) > 20
