"""What learns on a microcontroller when nobody says: chosen by the exact programme, with the real arena as the judge.

The programme prices options by the float shapes of the trained part. What a choice really takes, placed and aligned, the planner of
microcontrollers says; so the programme's budget is moved until the largest choice that really fits is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.errors import UnsupportedOp
from sdk.planner.training.choose import Chosen, choose, peak_of
from sdk.planner.training.fronts import Option
from sdk.planner.training.make import Case, full_value, wanted_layers
from sdk.planner.training.options import Setting, layer_options
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training

if TYPE_CHECKING:
    from sdk.planner.plan import Plan
    from sdk.training.mcu.plan import Learner
    from targets.device import Device

Progress = Callable[[str], None]
METHODS = ("bias", "adapter", "exact")
EPS_GRID = (0.6, 0.8, 0.9, 0.95)
#: Plans that are tried to meet the arena.
TRIALS = 7


def plan_board_training(device: Device, model: Any, training: Training, data: tuple[Any, Any] | None, progress: Progress | None = None, **options: Any) -> Plan:
    """The plan of a training step on a microcontroller.

    data: (inputs [n, ...], labels [n]); without them, or for a model that did not come from torch, the layers' gains are not known, and
    as many of the last layers as fit learn. Raises what `sdk.training.mcu.plan.plan_training` raises.
    """
    from sdk.training.mcu.choices import default_choices
    from sdk.training.mcu.plan import learner

    tell = progress or (lambda _: None)
    tell("quantising")
    made = learner(device, model, training, None if data is None else data[0], **options)
    if training.layers != "auto" or training.method not in ("auto", *METHODS) or data is None or getattr(model, "kind", "") != "torch":
        return made.plan(default_choices(made))
    tell("calibrating")
    setting, case = _setting(made, model, training, data)
    rows = _rows(setting, made)
    tell("choosing")
    found = _largest(made, rows)
    if found is None:
        return made.plan(default_choices(made))
    chosen, plan = found
    gain = 100 * chosen.value / full_value(case)
    told = f"Chosen by expected gain: {gain:.1f} % of what training everything exactly would give; every selection tried was placed in the real arena."
    return replace(plan, decisions=(*plan.decisions, told))


def _setting(made: Learner, model: Any, training: Training, data: tuple[Any, Any]) -> tuple[Setting, Case]:
    """Prices of one sample's step, from the float program."""
    from sdk.planner.training.walk import walk_of
    from sdk.training.linux import labelled_data, trainable
    from sdk.training.nn.calibrate import calibrate, ranks_for

    inputs, labels = labelled_data(data)
    inputs = _channels_first(inputs, model)
    program = trainable(model, inputs)
    grid = EPS_GRID if training.method == "auto" else (training.eps,)
    batches = [(inputs[i : i + 16], labels[i : i + 16]) for i in range(0, len(inputs) - len(inputs) % (program.batch or 1), program.batch or 16)]
    found = calibrate(program, batches, grid, ("adapter",))
    methods = METHODS if training.method == "auto" else (training.method,)
    walk = walk_of(program)
    setting = Setting(walk, found.records, training, ranks_for, 1, undo=False, copies=False, methods=methods, eps_grid=grid)
    return setting, Case(model.name, made.device, walk, found.records, ranks_for)


def _channels_first(inputs: np.ndarray, model: Any) -> np.ndarray:
    """Inputs as the torch module takes them, where the board takes them channels last."""
    wanted = next(tuple(node.meta["val"].shape[1:]) for node in model.program.graph.nodes if node.name in model.program.graph_signature.user_inputs)
    if inputs.shape[1:] != wanted and inputs.ndim == 4 and (inputs.shape[3], *inputs.shape[1:3]) == wanted:
        return np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
    return inputs


def _rows(setting: Setting, made: Learner) -> tuple[tuple[Option, ...], ...]:
    """Every layer's options; layers that the board's graph does not have, and adapters it has no basis for, are left out."""
    from sdk.training.mcu.layers import find_layers

    there = {layer.name: layer for layer in find_layers(made.graph)}
    rows = layer_options(setting, wanted_layers(setting.records, setting.training.layers))
    return tuple(
        tuple(o for o in options if not o.trains or (o.choice.layer in there and (o.choice.method != "adapter" or o.choice.layer in made.spectra)))
        for options in rows
    )


def _largest(made: Learner, rows: Sequence[Sequence[Option]]) -> tuple[Chosen, Plan] | None:
    """The most valuable selection that really fits: the programme's budget is halved in on between one that does and one that does not."""
    low, high = 0, peak_of([max(options, key=lambda o: o.value) for options in rows])
    best: tuple[Chosen, Plan] | None = None
    budget = high
    for _ in range(TRIALS):
        chosen = choose(rows, budget, quick=True)
        plan = None if chosen is None else _plan(made, [o.choice for o in chosen.options if o.trains])
        if chosen is not None and plan is not None and plan.fits:
            best = (chosen, plan) if best is None or chosen.value >= best[0].value else best
            low = budget
            if budget == high:
                break
        else:
            high = budget
        budget = (low + high) // 2
    return best


def _plan(made: Learner, choices: list[Choice]) -> Plan | None:
    """The real plan of a selection; None where something in it has no gradient on the board."""
    try:
        return made.plan(choices, mends=False)
    except UnsupportedOp:
        return None
