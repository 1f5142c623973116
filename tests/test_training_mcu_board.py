"""Training steps on the emulated board: what C computes is what torch does in double precision, in exactly the memory that was planned."""

from __future__ import annotations

import numpy as np
import pytest

import sdk
from sdk.errors import DoesNotFit, UsageError
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.training.mcu.layers import find_layers
from sdk.training.mcu.plan import Learner, learner, plan_training
from tests.test_training_mcu import WAYS, boundary, choices, cosine, error, inputs
from tests.training_board import TrainingBoard
from tests.training_nets import CLASSES, NETS, int8_net, samples

pytest.importorskip("torch")
pytest.importorskip("unicorn")
from sdk.training.mcu.reference import Reference

#: (net, way, optimiser) of the everyday tier: together they run every kernel of a step.
EVERYDAY = {("residual", "adapter", "momentum"), ("depthwise", "exact", "sgd"), ("window", "fixed", "sgd"), ("point", "exact", "momentum")}


def cases() -> list[object]:
    every = [(net, way, optimiser) for net in NETS for way in WAYS for optimiser in ("sgd", "momentum")]
    return [pytest.param(*case, marks=[] if case in EVERYDAY else [pytest.mark.long], id="-".join(case)) for case in every]


def made_learner(name: str, training: Training, device: str = "stm32f746") -> Learner:
    graph = int8_net(name)
    return learner(device, graph, training, samples(graph, 16, seed=2))


@pytest.mark.parametrize(("name", "way", "optimiser"), cases())
def test_a_board_learns_what_torch_does_in_the_planned_arena(name: str, way: str, optimiser: str) -> None:
    made = made_learner(name, Training(optimiser=optimiser, learning_rate=0.05))
    chosen = choices(int8_net(name), way)
    plan, (step, _) = made.plan(chosen), made.step(chosen)
    board = TrainingBoard(plan)
    reference = Reference(step.split, step.treatments, step.variables, made.training)
    for number, x in enumerate(inputs(int8_net(name), 3)):
        assert board.step(x, number % CLASSES) == pytest.approx(reference.step(boundary(step, x), number % CLASSES), rel=1e-5)
    assert error(board.variables(), reference.arrays()) < 1e-5  # promised is 1e-4
    assert board.arena_bytes() == plan.arena_bytes
    assert board.board.stack_peak_bytes() <= plan.stack_bytes or plan.estimated


def test_twenty_steps_go_the_way_torch_goes_and_inference_sees_them() -> None:
    graph = int8_net("residual")
    made = made_learner("residual", Training(learning_rate=0.05), "stm32l4r5")
    chosen = choices(graph, "adapter", skip=2)
    plan, (step, _) = made.plan(chosen), made.step(chosen)
    board = TrainingBoard(plan)
    reference = Reference(step.split, step.treatments, step.variables, made.training)
    start = {name: value.copy() for name, value in reference.arrays().items()}
    xs = inputs(graph, 5, seed=9)
    losses = []
    for number in range(20):
        x, label = xs[number % 5], number % 5 % CLASSES
        losses.append(board.step(x, label))
        reference.step(boundary(step, x), label)
    found, wanted = board.variables(), reference.arrays()
    moved = [[side[name] - start[name] for name in wanted] for side in (found, wanted)]
    assert cosine(*moved) >= 0.9999
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    import torch

    logits = reference.forward(boundary(step, xs[0]), reference.values)
    np.testing.assert_allclose(board.logits(xs[0]), logits.numpy(), rtol=1e-4, atol=1e-4)
    assert board.instructions < board.plan.training.forward_steps * 10**6 and torch.is_tensor(logits)


def test_int8_weights_learn_on_the_board_as_in_the_interpreter() -> None:
    from sdk.graph.interpreter import step as interpreted

    graph = int8_net("point")
    made = made_learner("point", Training(learning_rate=0.1))
    layers = find_layers(graph)
    plan = made.plan([Choice(layer.name, "exact", factors="int8") for layer in layers[1:]])
    board, state = TrainingBoard(plan), None
    for number, x in enumerate(inputs(graph, 4)):
        board.step(x, number)
        _, state = interpreted(plan.graph, {plan.graph.inputs[0]: x, "label": np.array([number], np.int32)}, state)
    found = board.variables()
    for name in (f"{layer.name}.weight" for layer in layers[1:]):
        apart = np.abs(found[name].astype(int) - state[name])
        assert found[name].dtype == np.int8 and apart.max() <= 1 and (apart > 0).mean() < 0.01
        assert (found[name] != plan.graph[name].data).any()


def test_an_artifact_that_learns_is_proved_trained_and_pulled() -> None:
    graph = int8_net("dense")
    plan = plan_training("stm32f746", graph, Training(learning_rate=0.05, layers="last2"), samples(graph, 16))
    artifact = sdk.compile(plan)
    assert artifact.manifest["training"]["golden"]["labels"] == [1, 3, 0]
    assert artifact.manifest["outputs"][0]["name"] == plan.training.logits
    with artifact.flash("emulator") as session:  # proves inference and three steps of training
        report = session.verify()
        assert report.ok and report.details == ("3 training steps",)
        before = session.pull()
        result = session.train([(x, n % CLASSES) for n, x in enumerate(inputs(graph, 5))], epochs=4)
        assert result.losses[-1] < result.losses[0]
        after = session.pull()
    assert set(after) == {v.name for v in plan.training.variables if v.part != "hyper"}
    assert all((after[name] != before[name]).any() for name in after)


def test_what_does_not_fit_is_told_with_the_smallest_step() -> None:
    graph = int8_net("depthwise")
    plan = plan_training("stm32f746", graph, Training(budget=7000, layers="all"), samples(graph, 16))
    assert not plan.fits and plan.shortfall[-1].memory == "the training budget"
    least = plan.mends[0]
    assert 0 < least.ram_bytes < plan.ram_bytes and f"{least.ram_bytes:,} bytes of RAM" in str(least)
    with pytest.raises(DoesNotFit, match=r"the training budget is [\d,]+ bytes too small .* train only the bias of l6"):
        sdk.compile(plan)
    enough = plan_training("stm32f746", graph, Training(budget=least.ram_bytes), samples(graph, 16))
    assert enough.fits and enough.ram_bytes == least.ram_bytes


def test_a_larger_budget_lets_more_layers_learn() -> None:
    made = made_learner("residual", Training())
    everything = plan_training("stm32f746", int8_net("residual"), Training(), samples(int8_net("residual"), 16))
    some = plan_training("stm32f746", int8_net("residual"), Training(budget=everything.ram_bytes - 1), samples(int8_net("residual"), 16))
    assert everything.fits and some.fits
    assert 1 <= len(some.training.trained) < len(everything.training.trained)
    assert "Training:" in str(some) and some.training.bytes["weights"] > 0
    assert sdk.planner.records.plan_from_dict(some.to_dict(), some.device).training.layers == some.training.layers
    with pytest.raises(UsageError, match=r"training layers 'last' are not known"):
        from dataclasses import replace

        from sdk.training.mcu.choices import default_choices

        default_choices(replace(made, training=Training(layers="last")))
