"""Real models: outputs equal to LiteRT's reference kernels in every byte (int8), or close (float32)."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from sdk.graph.from_tflite import from_tflite
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph
from sdk.graph.text import to_text
from tests.data import shared
from tests.tflite_writer import reference

MODELS, PUBLIC = "mlperf_tiny/models", "mlperf_tiny/public"

#: model -> (file of samples, file of golden outputs, how many samples the everyday test takes)
GOLDEN = {
    "ic01_resnet8_int8": ("ic01", "ic01_golden", 10),
    "kws01_dscnn_int8": ("kws01", "kws01_golden", 60),
    "vww01_mbv1_025_int8": ("vww_standin_caltech", "vww_standin_caltech_golden", 10),
}
OTHERS = {
    f"{MODELS}/ic_resnet_large_int8.tflite": 4,
    f"{MODELS}/sww_ref_int8.tflite": 20,
    "models_extra/micro_speech_int8.tflite": 20,
    "models_extra/mobilenet_v2_224_pytorch_quant.tflite": 1,
}
FLOATS = ("ad01_autoencoder_fp32", "ic01_resnet8_fp32", "ic_resnet_large_fp32", "vww01_mbv1_025_fp32")


def one_output(graph: Graph, x: np.ndarray) -> np.ndarray:
    return run(graph, [x])[graph.outputs[0]]


def as_input(x: np.ndarray) -> np.ndarray:
    """Pixels 0..255 as the int8 these models take."""
    return (x.astype(np.int16) - 128).astype(np.int8) if x.dtype == np.uint8 else x


def golden(model: str, count: int | None) -> None:
    samples, expected, _ = GOLDEN[model]
    graph = from_tflite(shared(f"{MODELS}/{model}.tflite"))
    x = as_input(np.load(shared(f"{PUBLIC}/{samples}.npz"))["x"])[:count]
    want = np.load(shared(f"{PUBLIC}/{expected}.npz"))["int8_ref"][:count]
    have = np.concatenate([one_output(graph, x[i : i + 20]) for i in range(0, len(x), 20)])
    assert np.array_equal(have, want), f"{(have != want).sum()} of {want.size} bytes differ"


@pytest.mark.parametrize("model", GOLDEN)
def test_golden_outputs_of_a_few_samples(model: str) -> None:
    golden(model, GOLDEN[model][2])


@pytest.mark.long
@pytest.mark.parametrize("model", GOLDEN)
def test_golden_outputs_of_every_public_sample(model: str) -> None:
    golden(model, None)


def ad01(windows: int) -> None:
    graph = from_tflite(shared(f"{MODELS}/ad01_autoencoder_int8.tflite"))
    sound, expected = np.load(shared(f"{PUBLIC}/ad01.npz"))["x"], np.load(shared(f"{PUBLIC}/ad01_golden.npz"))
    source = graph[graph.inputs[0]]
    for index, want in zip(expected["int8_ref_files"], expected["int8_ref"], strict=True):
        flat = sound[index].reshape(-1)
        x = np.stack([flat[128 * i : 128 * i + 640] for i in range(windows)])
        q = np.clip(np.round(x / np.float32(source.scale) + source.zero_point), -128, 127).astype(np.int8)  # as the golden inputs were made
        assert np.array_equal(one_output(graph, q), want[:windows])


def test_golden_outputs_of_ad01() -> None:
    ad01(20)


@pytest.mark.long
def test_golden_outputs_of_ad01_in_full() -> None:
    ad01(196)


@pytest.mark.parametrize("path", OTHERS)
def test_int8_models_equal_litert_on_random_inputs(path: str) -> None:
    graph = from_tflite(shared(path))
    rng = np.random.default_rng(3)
    x = rng.integers(-128, 128, (OTHERS[path], *graph[graph.inputs[0]].shape[1:])).astype(np.int8)
    data = shared(path).read_bytes()
    want = np.concatenate([reference(data, [sample[None]])[0] for sample in x])
    assert np.array_equal(one_output(graph, x), want)


@pytest.mark.parametrize("model", FLOATS)
def test_float_models_are_close_to_litert(model: str) -> None:
    graph = from_tflite(shared(f"{MODELS}/{model}.tflite"))
    rng = np.random.default_rng(3)
    x = rng.normal(size=graph[graph.inputs[0]].shape).astype(np.float32)
    want = reference(shared(f"{MODELS}/{model}.tflite").read_bytes(), [x])[0]
    have = one_output(graph, x)
    assert np.abs(have - want).max() <= 1e-5 * np.abs(want).max()


def test_a_float_model_with_int8_weights_agrees_in_its_answers() -> None:
    """LiteRT quantises the activations of such a model while it runs; here its weights become float32."""
    graph = from_tflite(shared(f"{MODELS}/kws01_dscnn_fp32.tflite"))
    source = from_tflite(shared(f"{MODELS}/kws01_dscnn_int8.tflite"))
    q, want = np.load(shared(f"{PUBLIC}/kws01.npz"))["x"][:100], np.load(shared(f"{PUBLIC}/kws01_golden.npz"))["fp32"][:100]
    x = source[source.inputs[0]]
    have = one_output(graph, (np.float32(x.scale) * (q.astype(np.float32) - x.zero_point)).astype(np.float32))
    assert (have.argmax(1) == want.argmax(1)).mean() >= 0.98
    assert np.abs(have - want).max() < 0.2


def test_a_batch_gives_what_single_samples_give() -> None:
    graph = from_tflite(shared(f"{MODELS}/sww_ref_int8.tflite"))
    x = np.random.default_rng(1).integers(-128, 128, (5, *graph[graph.inputs[0]].shape[1:])).astype(np.int8)
    single = np.concatenate([one_output(graph, sample[None]) for sample in x])
    assert np.array_equal(one_output(graph, x), single)


@pytest.mark.long
def test_the_largest_file_is_read_quickly() -> None:
    """Work is counted in calls of Python functions, which no busy machine changes: so many take a fraction of a second."""
    path = shared("models_extra/mobilenet_v2_224_pytorch_quant.tflite")
    calls = []
    sys.setprofile(lambda frame, event, arg: calls.append(1) if event == "call" else None)
    try:
        from_tflite(path)
    finally:
        sys.setprofile(None)
    assert 0 < len(calls) < 400_000


def test_the_listing_names_every_node_of_a_real_model() -> None:
    graph = from_tflite(shared(f"{MODELS}/kws01_dscnn_int8.tflite"))
    text = to_text(graph)
    assert text.count("\n") == 1 + len(graph.inputs) + len(graph.nodes) + len(graph.outputs)
    assert all(f"  {node.name}: {node.op}(" in text for node in graph.nodes)
