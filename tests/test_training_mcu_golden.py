"""Golden training steps: samples on which the board and the interpreter must agree, whatever way rounding goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import sdk
from sdk.graph.interpreter import run, step
from sdk.graph.ir import Graph
from sdk.planner.plan import Plan
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.training.mcu.golden import difference, golden_files, make_training_golden, read_golden, training_manifest
from sdk.training.mcu.plan import plan_training
from sdk.training.mcu.stable import LARGEST_LOSS, SMALLEST_LOSS, Stepper
from tests.data import shared
from tests.training_nets import NETS, samples

LEARNING = [Choice("l1"), Choice("l2")]


def tied_net(offset: float, units: int = 16) -> Graph:
    """The float dense net; for the first of its samples `units` hidden values come out at `offset`, up to float32 rounding."""
    graph = NETS["dense"]()
    weight, bias = graph["l1.weight"], graph["l1.bias"]
    value = np.array(bias.data)
    value[:units] = offset - (weight.data[:units].astype(np.float64) @ samples(graph, 3)[0])
    return graph.with_nodes(graph.nodes, {**graph.tensors, bias.name: replace(bias, data=value)})


def plan_of(graph: Graph, rate: float = 0.05) -> Plan:
    return plan_training("stm32f746", graph, Training(learning_rate=rate), samples(graph, 3), choices=LEARNING, precision="float32")


@pytest.mark.parametrize("offset", [0.0, 3e-8, -3e-8])
def test_a_sample_on_the_threshold_is_passed_over_and_the_board_proves_the_others(offset: float) -> None:
    pytest.importorskip("unicorn")
    plan = plan_of(tied_net(offset))
    artifact = sdk.compile(plan)
    golden = read_golden(artifact.manifest, artifact.files)
    tied = plan.vectors[0][0]
    assert len(golden.labels) == 3 and not any(np.array_equal(x, tied) for x in golden.inputs)
    with artifact.flash("emulator") as session:
        report = session.verify()
    assert report.ok and report.details == ("3 training steps",)


def tied_head() -> Graph:
    """The float net whose last convolution is fused with the mean; one pixel of its first sample is at 0 in every channel."""
    graph = NETS["point"]()
    conv = next(node for node in graph.nodes if "l3.weight" in node.inputs)
    pixel = run(graph, [samples(graph, 3)[:1]], keep=True)[conv.inputs[0]][0, 2, 3].astype(np.float64)
    value = -(graph["l3.weight"].data[:, 0, 0] @ pixel).astype(np.float32)
    return graph.with_nodes(graph.nodes, {**graph.tensors, "l3.bias": replace(graph["l3.bias"], data=value)})


@pytest.mark.parametrize(("net", "learning"), [(lambda: tied_net(3e-8), ("l1", "l2")), (tied_head, ("l3", "l4"))], ids=["dense", "head"])
def test_a_tie_is_seen_and_a_sample_far_from_it_is_not(net: Callable[[], Graph], learning: tuple[str, ...]) -> None:
    graph = net()
    plan = plan_training("stm32f746", graph, Training(learning_rate=0.05), samples(graph, 3), choices=[Choice(n) for n in learning], precision="float32")
    assert any(node.op == "train_head" for node in plan.graph.nodes) == (learning[0] == "l3")
    stepper = Stepper(plan.graph, plan.training)
    apart = []
    for x, label in plan.vectors[:2]:
        entering = stepper.entering(x)
        taken = stepper.step(entering, int(label[0]), stepper.start())
        others = stepper.nudged(entering, int(label[0]), stepper.starts())
        apart.append(max(difference(v, other.variables[n]) for other in others for n, v in taken.variables.items()))
    assert apart[0] > 1e-3 and apart[1] < 1e-5


def test_golden_steps_are_the_interpreters_and_the_same_each_time() -> None:
    plan = plan_of(tied_net(0.0))
    golden, again = make_training_golden(plan), make_training_golden(plan)
    state: Any = None
    for x, label, loss in zip(golden.inputs, golden.labels, golden.losses, strict=True):
        outputs, state = step(plan.graph, {plan.graph.inputs[0]: x, "label": np.array([label], np.int32)}, state)
        assert outputs["loss"][0] == loss
    assert all(np.array_equal(state[name], value) for name, value in golden.variables.items())
    assert golden_files(golden) == golden_files(again) and (golden.labels, golden.losses) == (again.labels, again.losses)


def test_a_net_without_ties_keeps_its_samples_and_so_does_one_with_a_pruned_channel() -> None:
    graph = NETS["dense"]()
    pruned = {name: replace(graph[name], data=np.concatenate([np.zeros_like(graph[name].data[:2]), graph[name].data[2:]])) for name in ("l1.weight", "l1.bias")}
    for net in (graph, graph.with_nodes(graph.nodes, {**graph.tensors, **pruned})):
        plan = plan_of(net)
        golden = make_training_golden(plan)
        assert golden.labels == tuple(int(v[1][0]) for v in plan.vectors) and golden.note == ""
        assert all(np.array_equal(x, v[0]) for x, v in zip(golden.inputs, plan.vectors, strict=True))


def test_where_every_step_diverges_there_are_fewer_and_it_is_told() -> None:
    plan = plan_of(NETS["dense"](), rate=1e6)
    golden = make_training_golden(plan)
    assert len(golden.labels) < 3 and golden.note.startswith(f"{len(golden.labels)} training steps instead of 3: ")
    read = read_golden({"training": training_manifest(plan, golden)}, golden_files(golden))
    assert read.note == golden.note and read.labels == golden.labels


def test_a_label_that_is_known_already_is_no_proof() -> None:
    """Its gradient is next to nothing and its loss the logarithm of nearly 1, which float32 has with an error of 1e-7."""
    graph = NETS["dense"]()
    sure = graph.with_nodes(graph.nodes, {**graph.tensors, "l2.bias": replace(graph["l2.bias"], data=np.array([0, 0, 0, 12, 0], np.float32))})
    plan = plan_of(sure, rate=0.001)
    stepper = Stepper(plan.graph, plan.training)
    x, label = plan.vectors[1]  # label 3
    assert stepper.step(stepper.entering(x), int(label[0]), stepper.start()).loss < 0.01
    golden = make_training_golden(plan)
    assert golden.labels and min(golden.losses) >= SMALLEST_LOSS and max(golden.losses) <= LARGEST_LOSS


@pytest.mark.long
def test_the_movement_net_with_a_tie_in_its_third_step_is_proved() -> None:
    """The third of its samples puts channel 25 of layer 12 at 3.2e-8, and the board's loss was 6.19559 where 6.19049 was expected."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("unicorn")
    shared("har/spsw_har_public.npz")
    from benchmarks import har, training_tasks

    part = training_tasks.person_parts("watch", "phone", har.CHOSEN_ON[:1])[0]
    model = sdk.load(har.pretrained("phone"), example=torch.zeros(1, *part.x.shape[1:]), name="learning")
    training = sdk.Training(batch=1, layers="last4", learning_rate=0.005, budget="256KiB")
    plan = sdk.plan("stm32f746", model, calibration=part.known, training=training)
    with sdk.compile(plan).flash("emulator") as session:
        report = session.verify()
    assert report.ok and report.details == ("3 training steps",)
