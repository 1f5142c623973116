"""The graph of a training step on a microcontroller against torch: every layer, every way to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from sdk.errors import DataError, UnsupportedOp, UsageError
from sdk.golden import check_input
from sdk.graph.interpreter import run, step
from sdk.graph.ir import Graph
from sdk.graph.verify import verify
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.training.mcu.bases import bases_of, channel_bases, channel_grams, rank_for, spectra_of
from sdk.training.mcu.graph import StepGraph, step_graph
from sdk.training.mcu.layers import find_layers, trainable_layers
from tests.training_nets import CLASSES, NETS, NONE, Maker, int8_net, samples

pytest.importorskip("torch")
from sdk.training.mcu.reference import Reference

#: A method and what goes with it.
WAYS: dict[str, dict[str, Any]] = {
    "exact": {}, "bias": {}, "adapter": {"ranks": (0, 0, 3)}, "channels": {"fraction": 0.5}, "fixed": {"ranks": (0, 0, 3)},
    "adapter-int8": {"ranks": (0, 0, 3), "factors": "int8"},
}  # fmt: skip


def inputs(graph: Graph, count: int = 6, seed: int = 5) -> list[np.ndarray]:
    """Samples as the quantised graph takes them."""
    return [check_input(graph[graph.inputs[0]], x) for x in samples(graph, count, seed)[:, None]]


def choices(graph: Graph, way: str, skip: int = 1) -> list[Choice]:
    """Every layer but the first `skip` learns; depthwise ones exactly, or by their bias where the way is not theirs."""
    method = way.split("-")[0]
    rows = []
    for layer in find_layers(graph)[skip:]:
        own = method in ("exact", "bias") or not layer.is_depthwise
        rows.append(Choice(layer.name, method, **WAYS[way]) if own else Choice(layer.name, "bias"))
    return rows


def made(name: str, way: str, training: Training, skip: int = 1) -> StepGraph:
    graph = int8_net(name)
    return step_graph(graph, choices(graph, way, skip), channel_bases(graph, inputs(graph, 16, seed=2)), training)


def boundary(cut: StepGraph, x: np.ndarray) -> dict[str, np.ndarray]:
    """What the int8 prefix hands to the trained part."""
    graph = cut.split.graph
    values = run(graph, {graph.inputs[0]: x}, keep=True)
    return {name: values[name] for name in cut.split.boundary}


def error(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """Largest difference of a value, relative to the largest value of its tensor."""
    return max(float(np.abs(found[n] - w).max() / max(np.abs(w).max(), 1e-9)) for n, w in wanted.items())


def cosine(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """Of two lists of arrays, each seen as one vector."""
    x, y = (np.concatenate([np.asarray(v, np.float64).ravel() for v in side]) for side in (a, b))
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETS)
def test_a_step_is_what_torch_differentiates(name: str, way: str) -> None:
    training = Training(optimiser="momentum" if way in ("exact", "adapter") else "sgd", learning_rate=0.05)
    cut = made(name, way, training)
    verify(cut.graph)
    reference = Reference(cut.split, cut.treatments, cut.variables, training)
    state = None
    for number, x in enumerate(inputs(int8_net(name), 3)):
        outputs, state = step(cut.graph, {cut.graph.inputs[0]: x, "label": np.array([number % CLASSES], np.int32)}, state)
        loss = reference.step(boundary(cut, x), number % CLASSES)
        assert outputs["loss"][0] == pytest.approx(loss, rel=1e-5)
        assert error(state, reference.arrays()) < 1e-5


def test_int8_weights_move_as_the_real_ones_do_on_average() -> None:
    """One rounding is off by up to a unit; over many steps the noise averages out and the direction stays."""
    graph = int8_net("point")
    layer = find_layers(graph)[2].name
    training = Training(learning_rate=0.1)
    cut = step_graph(graph, [Choice(layer, "exact", factors="int8")], {}, training)
    start = next(v.initial for v in cut.variables if v.name == f"{layer}.weight").astype(float)
    assert start.dtype.kind == "f" and cut.graph[f"{layer}.weight"].dtype == "int8"
    reference, state = Reference(cut.split, cut.treatments, cut.variables, training), None
    for number, x in enumerate(inputs(graph, 40)):
        _, state = step(cut.graph, {cut.graph.inputs[0]: x, "label": np.array([number % CLASSES], np.int32)}, state)
        reference.step(boundary(cut, x), number % CLASSES)
    moved, wanted = state[f"{layer}.weight"] - start, reference.arrays()[f"{layer}.weight"] - start
    assert cosine([moved], [wanted]) > 0.9
    assert 0.8 < np.linalg.norm(moved) / np.linalg.norm(wanted) < 1.3


def test_the_forward_part_alone_is_inference_with_the_weights_as_they_are() -> None:
    cut = made("residual", "adapter", Training())
    graph, x = int8_net("residual"), inputs(int8_net("residual"), 1)[0]
    (logits,) = run(cut.inference, [x]).values()
    wanted = run(graph, [x], keep=True)[cut.split.logits]
    real = (wanted - graph[cut.split.logits].zero_point) * graph[cut.split.logits].scale
    assert np.abs(logits - real).max() < 0.15 * np.abs(real).max()  # the integers' own rounding: the adapters are still zero


def test_the_head_never_holds_its_map() -> None:
    cut = made("point", "adapter", Training())
    heads = [node for node in cut.graph.nodes if node.op == "train_head"]
    assert len(heads) == 1
    assert max(cut.graph[out].size for node in cut.graph.nodes for out in node.outputs if node.op.startswith("train_head")) < 36 * 20


def test_a_shortcut_from_in_front_of_the_cut_stays_an_integer() -> None:
    """Training starts inside a residual block: the block's input is read behind the cut as int8, and has no gradient."""
    graph = int8_net("residual")
    layers = find_layers(graph)
    cut = step_graph(graph, [Choice(layers[6].name, "exact")], {}, Training())  # the second block's last 1x1 layer
    assert len(cut.split.boundary) == 2
    assert all(cut.graph[name].dtype == "int8" for name in cut.split.boundary)
    reference = Reference(cut.split, cut.treatments, cut.variables, Training())
    x = inputs(graph, 1)[0]
    _, state = step(cut.graph, {cut.graph.inputs[0]: x, "label": np.array([2], np.int32)})
    reference.step(boundary(cut, x), 2)
    assert error(state, reference.arrays()) < 1e-5


def test_what_waits_for_the_way_back_is_small() -> None:
    """Frozen layers and adapters keep nothing of their input; the first trained layer keeps it as the integers it came in."""
    adapters, exact = (made("depthwise", way, Training()) for way in ("adapter", "exact"))
    small, large = (sum(cut.graph[n].size_bytes for n in cut.saved) for cut in (adapters, exact))
    assert 0 < small < 0.5 * large
    first = step_graph(int8_net("depthwise"), [Choice("l5", "exact")], {}, Training())
    assert [first.graph[n].dtype for n in first.saved if n in first.split.boundary] == ["int8"]


def test_layers_are_told_by_the_names_of_their_weights() -> None:
    records = trainable_layers(int8_net("depthwise"))
    assert [r.name for r in records] == [f"l{i + 1}" for i in range(6)]
    assert records[1].groups == 8 and records[1].weight_shape == (8, 1, 3, 3) and records[1].input_shape == (8, 9, 9)
    assert records[3].stride == (2, 2) and records[3].output_shape == (12, 5, 5) and records[3].activation == "relu"
    assert records[5].op == "linear" and records[5].weight_shape == (CLASSES, 16)


def test_bases_hold_what_the_channels_vary_in() -> None:
    graph = int8_net("point")
    grams = channel_grams(graph, inputs(graph, 16))
    for name, u in bases_of(grams).items():
        np.testing.assert_allclose(u.T @ u, np.eye(len(u)), atol=1e-12)
        spectrum = spectra_of(grams)[name]
        np.testing.assert_allclose(np.diag(u.T @ grams[name] @ u), spectrum, atol=1e-6 * spectrum[0])
        kept = rank_for(spectrum, 0.9)
        assert spectrum[:kept].sum() >= 0.9 * spectrum.sum() > (spectrum[: kept - 1].sum() if kept > 1 else 0.0)


def test_what_cannot_be_trained_is_told() -> None:
    graph = int8_net("depthwise")
    with pytest.raises(UsageError, match=r"no layer 'l9' can be trained; there are l1, "):
        step_graph(graph, [Choice("l9")], {}, Training())
    with pytest.raises(UsageError, match=r"l2 is depthwise"):
        step_graph(graph, [Choice("l2", "adapter")], {}, Training())
    with pytest.raises(UsageError, match=r"l3 cannot be trained by 'svd' on a microcontroller; choose one of freeze, "):
        step_graph(graph, [Choice("l3", "svd")], {}, Training())
    with pytest.raises(UsageError, match=r"l3 has no basis; give calibration data"):
        step_graph(graph, [Choice("l3", "adapter")], {}, Training())
    with pytest.raises(UsageError, match=r"nothing of depthwise_net is to be trained"):
        step_graph(graph, [], {}, Training())
    with pytest.raises(DataError, match=r"none was given; give calibration="):
        channel_bases(graph, [])


def test_an_op_without_a_gradient_is_refused_with_the_mend() -> None:
    m = Maker("max", (8, 8, 3))
    x = m.b.op("max_pool2d", m.conv(m.x, 4, 3), kernel=(2, 2), stride=(2, 2), padding=NONE, activation="none")
    graph = m.classify(x)
    with pytest.raises(UnsupportedOp, match=r"max_pool2d.*train only layers behind it"):
        step_graph(graph, [Choice("l1", "exact")], {}, Training())
    assert step_graph(graph, [Choice("l2", "exact")], {}, Training()).forward == 5  # a float model learns as well
