"""What is chosen when nobody says what learns: within the budget, more with more, and never what has no gradient."""

from __future__ import annotations

import numpy as np

from sdk.passes.quantise import QuantOptions, quantise
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.training.mcu.auto import auto_choices, smallest_choice
from sdk.training.mcu.choices import choices_of
from sdk.training.mcu.layers import find_layers
from sdk.training.mcu.plan import Learner, learner
from tests.training_nets import NONE, Maker, int8_net, samples


def made(name: str, budget: int | None, **options: object) -> Learner:
    graph = int8_net(name)
    return learner("stm32f746", graph, Training(budget=budget, **options), samples(graph, 24, seed=2))


def captured(one: Learner) -> float:
    """Energy beside the first direction that the chosen adapters hold, summed over layers."""
    found = 0.0
    for choice in auto_choices(one)[:-1]:
        spectrum = one.spectra[choice.layer]
        found += float(spectrum[1 : choice.ranks[2]].sum() / spectrum[1:].sum())
    return found


def test_a_choice_keeps_to_its_budget_and_takes_more_where_there_is_more() -> None:
    everything = made("residual", None)
    apart = everything.plain.ram_bytes - sum(everything.plain.arena_bytes)
    low, high = (everything.quick_bytes(c) for c in (smallest_choice(everything.graph), auto_choices(everything)))
    values = []
    for share in (0.0, 0.3, 0.6, 1.0):
        budget = int(apart + low + share * (high - low))
        one = made("residual", budget)
        assert one.quick_bytes(auto_choices(one)) <= budget - apart == one.arena_room()
        values.append(captured(one))
    assert values == sorted(values) and values[0] < values[-1]


def test_the_count_is_a_bound_that_plans_come_close_to() -> None:
    one = made("residual", None)
    choices = auto_choices(one)
    arena = sum(one.plan(choices).arena_bytes)
    assert one.quick_bytes(choices) <= arena <= 1.05 * one.quick_bytes(choices)


def test_the_classifier_learns_whole_where_it_fits_else_by_an_adapter_else_by_its_bias() -> None:
    last = find_layers(int8_net("point"))[-1].name
    rich = auto_choices(made("point", None))[-1]
    assert (rich.layer, rich.method) == (last, "exact")
    poor = made("point", 1)
    assert auto_choices(poor) == smallest_choice(poor.graph) and auto_choices(poor)[0].method == "bias"
    ranked = made("point", None, method="adapter")
    assert {choice.method for choice in auto_choices(ranked)} == {"adapter"}


def test_a_plan_tells_the_choices_it_was_made_with() -> None:
    one = made("depthwise", None)
    rows = [
        Choice("l2", "bias"), Choice("l3", "adapter", ranks=(0, 0, 3), factors="int8"), Choice("l4", "exact"), Choice("l5", "channels", fraction=0.5),
        Choice("l6", "exact", factors="int8"),
    ]  # fmt: skip
    assert choices_of(one.plan(rows).training) == rows


def test_layers_that_no_gradient_reaches_are_left_alone() -> None:
    m = Maker("max", (10, 10, 3))
    x = m.b.op("max_pool2d", m.conv(m.x, 8, 3), kernel=(2, 2), stride=(2, 2), padding=NONE, activation="none")
    graph = m.classify(m.conv(m.conv(x, 8), 8, 3))
    graph = quantise(graph, samples(graph, 16), QuantOptions())
    one = learner("stm32f746", graph, Training(), samples(graph, 16))
    assert "l1" not in {choice.layer for choice in auto_choices(one)}
    assert np.isfinite(one.quick_bytes(auto_choices(one)))
