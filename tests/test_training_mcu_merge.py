"""What a board learnt becomes a model again: the same weights, quantised by the ordinary path, and kept only when it is no worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from sdk.errors import DataError, UsageError
from sdk.golden import check_input
from sdk.graph.interpreter import run, step
from sdk.passes.pipeline import FLOAT, apply
from sdk.planner.mcu_training import inference_part
from sdk.planner.plan import Plan, plan_from_dict
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.training.mcu.layers import find_layers
from sdk.training.mcu.merge import accuracy, dequantised, merge, requantised
from sdk.training.mcu.plan import plan_training
from tests.training_nets import NETS, int8_net, samples


def labelled(name: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples, and classes that can be learnt: the sign pattern of two of the sample's means."""
    x = samples(NETS[name](), count, seed)
    means = x.reshape(count, -1, x.shape[-1]).mean(axis=1)
    return x, (means[:, 0] > 0).astype(int) + 2 * (means[:, 1] > 0)


def planned(name: str, way: str, model: object = None) -> Plan:
    graph = NETS[name]() if model is None else model
    rows = [layer for layer in find_layers(int8_net(name))[1:] if not layer.is_depthwise]
    options = {"adapter": {"ranks": (0, 0, 4)}, "channels": {"fraction": 0.5}, "int8": {"factors": "int8"}}.get(way, {})
    method = "exact" if way == "int8" else way
    chosen = [Choice(layer.name, method, **options) for layer in rows]
    return plan_training("stm32f746", graph, Training(learning_rate=0.02), samples(int8_net(name), 32), choices=chosen)


def trained(plan: Plan, x: np.ndarray, y: np.ndarray) -> Mapping[str, np.ndarray]:
    """The variables after one pass over the samples, by the interpreter."""
    state = None
    tensor = plan.graph[plan.graph.inputs[0]]
    for sample, label in zip(x, y, strict=True):
        _, state = step(plan.graph, {tensor.name: check_input(tensor, sample[None]), "label": np.array([label], np.int32)}, state)
    return state


@pytest.mark.parametrize("way", ["exact", "adapter", "channels", "int8"])
def test_the_merged_float_model_says_what_the_trained_board_says(way: str) -> None:
    plan = planned("residual", way, int8_net("residual"))
    x, y = labelled("residual", 24, seed=3)
    values = trained(plan, x, y)
    merged = merge(plan, values)
    before = dequantised(plan.training.graph)
    assert not [t.name for t in merged.tensors.values() if t.quant is not None]
    part = inference_part(plan.graph, plan.training)
    learnt = replace(part, tensors={n: replace(t, data=np.asarray(values[n], t.dtype), variable=True) if n in values else t for n, t in part.tensors.items()})
    tensor = learnt[learnt.inputs[0]]
    found, wanted, start = [], [], []
    for sample in x[:6]:
        q = check_input(tensor, sample[None])
        real = (q.astype(np.float32) - tensor.zero_point) * np.float32(tensor.scale)
        wanted.append(np.exp(run(learnt, [q])[plan.training.logits]))
        wanted[-1] = wanted[-1] / wanted[-1].sum()
        found.append(run(merged, [real])[merged.outputs[0]])
        start.append(run(before, [real])[before.outputs[0]])
    moved = np.abs(np.array(wanted) - np.array(start)).max()
    assert np.abs(np.array(found) - np.array(wanted)).max() < 0.15 * moved  # the prefix rounds to int8 on the board, and not here


def test_what_was_learnt_survives_quantising_and_is_judged() -> None:
    plan = planned("residual", "adapter")
    assert plan.training.real is not None
    x, y = labelled("residual", 240, seed=3)
    hx, hy = labelled("residual", 100, seed=4)
    values = trained(plan, x, y)
    again = requantised(plan, values, x, (hx, hy))
    assert again.no_worse and again.accuracy_after > again.accuracy_before + 0.2
    assert again.accuracy_after == accuracy(again.graph, hx, hy)
    assert again.plan.fits and again.plan.training is None
    old = plan.training.graph  # by its own answers nothing is better than the model as it was
    answers = np.array([int(np.argmax(next(iter(run(old, [check_input(old[old.inputs[0]], sample[None])]).values())))) for sample in hx])
    spoilt = {name: value[::-1] * 3 if "bias" in name else value for name, value in values.items()}
    assert not requantised(plan, spoilt, x, (hx, answers)).no_worse
    assert not requantised(plan, values, x).no_worse  # nobody judged it


def test_nothing_learnt_changes_nothing() -> None:
    plan = planned("point", "adapter")
    start = {v.name: np.zeros(v.shape) if v.initial is None else v.initial for v in plan.training.variables}
    merged, base = merge(plan, start), plan.training.real
    assert all((merged[n].data == t.data).all() for n, t in base.tensors.items() if t.is_const)
    float_net = apply(NETS["point"](), FLOAT)
    x = samples(float_net, 1)
    np.testing.assert_allclose(run(merged, [x])[merged.outputs[0]], run(float_net, [x])[float_net.outputs[0]], atol=1e-5)  # equalising moves scale, no value


def test_wrong_values_and_plans_are_told() -> None:
    plan = planned("dense", "exact")
    with pytest.raises(DataError, match=r"the values lack l2.weight; give what session.pull"):
        merge(plan, {})
    wrong = {v.name: np.full(v.shape, np.nan) for v in plan.training.variables}
    with pytest.raises(DataError, match=r"l2.weight has shape .* pull it again"):
        merge(plan, wrong)
    with pytest.raises(UsageError, match=r"does not hold the model it trains; make it anew"):
        merge(plan_from_dict(plan.to_dict(), plan.device), {})
    with pytest.raises(DataError, match=r"0 held-back inputs came with 0 labels"):
        accuracy(plan.training.graph, [], [])
