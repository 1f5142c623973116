"""`plan_training`: a device, a model and what is to learn in; a `Plan` of the whole step out, with its exact arena."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sdk.errors import UsageError
from sdk.graph.ir import Graph
from sdk.planner.arrange import Placement
from sdk.planner.assess import lower_all
from sdk.planner.mcu_training import TrainedLayer, TrainedVariable, TrainingUse
from sdk.planner.plan import Plan, make_plan
from sdk.planner.records import Mend
from sdk.planner.training.records import Choice
from sdk.planner.training.spec import Training
from sdk.training.mcu.auto import smallest_choice
from sdk.training.mcu.bases import bases_of, channel_grams, spectra_of
from sdk.training.mcu.choices import default_choices
from sdk.training.mcu.graph import LABEL, LOSS, StepGraph, step_graph
from sdk.training.mcu.prepare import Ready, ready
from sdk.training.mcu.thin import Cut, find_cuts, peak_bytes, thinned
from sdk.training.mcu.treat import HYPER, Treatment
from targets.device import Device, load_device

#: Steps of training that prove a firmware.
PROOF_STEPS = 3
#: Times that a choice made by itself is made smaller, and by how many bytes at least.
_ROUNDS, _LEAST_STEP = 4, 64


@dataclass(frozen=True)
class Learner:
    """A model on a device, ready for any choice of what learns: the work that all choices share is done once.

    `cuts`: layers that may run in stripes of rows while they are frozen. `plain`: the plan of inference alone, without any of this.
    """

    device: Device
    name: str
    start: Ready
    cuts: tuple[Cut, ...]
    plain: Plan
    bases: Mapping[str, np.ndarray]
    spectra: Mapping[str, np.ndarray]
    training: Training
    compiler: str
    calls: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)  # kernel calls of the frozen layers, once they were asked for

    @property
    def graph(self) -> Graph:
        """The model as it is planned for inference."""
        return self.start.graph

    def step(self, choices: Sequence[Choice]) -> tuple[StepGraph, tuple[Cut, ...]]:
        """The step that these choices make, frozen layers in front of it in stripes, and which those are."""
        made = step_graph(self.graph, choices, self.bases, self.training, self.spectra)
        thin, cuts = thinned(self.graph, self.cuts, {node.name for node in made.split.prefix})
        return (step_graph(thin, choices, self.bases, self.training, self.spectra) if cuts else made), cuts

    def plan(self, choices: Sequence[Choice], mends: bool = True) -> Plan:
        """The plan of that step."""
        made, cuts = self.step(choices)
        use = _use(made, self)
        plan = make_plan(
            self.device, made.graph, name=self.name, compiler=self.compiler, training=use, mends=False,
            decisions=(*self.start.decisions, *map(str, cuts), *_decisions(made, self)), vectors=_vectors(made, self.start),
        )  # fmt: skip
        plan = replace(plan, training=replace(use, forward_steps=_forward_steps(plan), bytes=_classes(plan, made)))
        return replace(plan, mends=self._mends(plan)) if mends and not plan.fits else plan

    def arena_room(self) -> int:
        """Bytes that the arena may have: what the device leaves it or, where that is less, the budget."""
        apart = self.plain.ram_bytes - sum(self.plain.arena_bytes)
        device = sum(m.free_bytes + m.part("arena") for m in self.plain.memories if m.region >= 0)
        budget = self.training.budget_bytes
        return device if budget is None else min(device, budget - apart)

    def quick_bytes(self, choices: Sequence[Choice]) -> int:
        """The fewest bytes of arena that a step of these choices takes, without looking for where its buffers lie."""
        made, _ = self.step(choices)
        if not self.calls:
            thin, _ = thinned(self.graph, self.cuts, {node.name for node in self.graph.nodes})
            self.calls.update(lower_all(thin, self.device.isa))
            self.calls.update({name: call for name, call in lower_all(self.graph, self.device.isa).items() if name not in self.calls})
        prefix = {node.name for node in made.split.prefix}
        return peak_bytes(made.graph, self.device, {name: call for name, call in self.calls.items() if name in prefix})[0]

    def _mends(self, plan: Plan) -> tuple[Mend, ...]:
        """The least that can be trained, and what it takes."""
        choices = tuple(smallest_choice(self.graph))
        least = self.plan(choices, mends=False)
        room = f"{least.ram_bytes:,} bytes of RAM and {least.flash_bytes:,} of flash"
        text = f"train only the {choices[0].method} of {choices[0].layer}: the smallest step of this model takes {room}"
        return (Mend(text, least.fits, least.ram_bytes, least.flash_bytes, {"choices": choices}),)


def learner(
    device: Device | str, model: Any, training: Training, calibration: Any = None, *, name: str | None = None, quant: Any = None,
    precision: str = "auto", compiler: str = "zig", stripes: bool = True,
) -> Learner:  # fmt: skip
    """What `plan_training` does before it looks at choices. `stripes`: lower the forward peak by running layers in stripes of rows."""
    board = load_device(device)
    if board.kind != "mcu":
        raise UsageError(f"{board.name} is a Linux device; a training graph is for microcontrollers, so plan it with sdk.plan(..., training=...)")
    start = ready(model, calibration, quant, precision)
    cuts = find_cuts(start.graph, board) if stripes else ()
    plain = make_plan(board, start.graph, mends=False, compiler=compiler)
    grams = channel_grams(start.graph, start.samples) if start.samples else {}
    called = str(name or getattr(model, "name", start.graph.name))
    return Learner(board, called, start, cuts, plain, bases_of(grams), spectra_of(grams), training, compiler)


def plan_training(
    device: Device | str, model: Any, training: Training | None = None, calibration: Any = None, *, choices: Sequence[Choice] | None = None, **options: Any
) -> Plan:
    """Plan one step of training `model` on a microcontroller; `Plan.training` says what of it is for learning.

    model: a `sdk.load`ed model, or a graph, float (then `calibration` quantises it) or int8. choices: what each layer does; by default
    the classifier learns whole and as many of the last layers get adapters as fit. options: of `learner`.
    Never raises for "too large": `plan.fits`, `plan.shortfall`, and `plan.mends` with the smallest step there is.
    Raises UsageError for a model that is no classifier of one input, UnsupportedOp where something trained has no gradient.
    """
    training = training or Training()
    made = learner(device, model, training, calibration, **options)
    if choices is not None or training.layers != "auto":
        return made.plan(default_choices(made) if choices is None else choices)
    return _fitted(made)


def _fitted(made: Learner) -> Plan:
    """The plan of what is chosen by itself. What only the plan knows (where buffers lie, flash) may want a little less than was counted:
    the budget is lowered by what is missing, a few times."""
    plan = made.plan(default_choices(made), mends=False)
    for _ in range(_ROUNDS):
        missing = sum(s.over_bytes for s in plan.shortfall)
        if not missing or plan.training is None or (len(plan.training.trained) == 1 and plan.training.trained[0].method == "bias"):
            break
        tighter = max(1, made.plain.ram_bytes - sum(made.plain.arena_bytes) + made.arena_room() - max(missing, _LEAST_STEP))
        made = replace(made, training=replace(made.training, budget=tighter))
        plan = replace(made.plan(default_choices(made), mends=False))
    return plan if plan.fits else made.plan(default_choices(made))


def _use(made: StepGraph, learner: Learner) -> TrainingUse:
    rows = [
        TrainedVariable(v.name, v.layer, v.part, v.initial.shape, str(v.initial.dtype), v.momentum, v.initial if v.initial.any() else None)
        for v in made.variables
    ]
    t = learner.training
    return TrainingUse(
        tuple(_told(t) for t in made.treatments), tuple(rows), LABEL, LOSS, made.logits, HYPER, made.forward, {}, t.optimiser, t.learning_rate,
        t.momentum if t.optimiser == "momentum" else 0.0, sum(learner.plain.arena_bytes), learner.plain.ram_bytes, made.saved, t.budget_bytes,
        learner.start.graph, learner.start.real, {t.layer.name: t.basis.real for t in made.treatments if t.adapter is not None and t.basis},
    )  # fmt: skip


def _told(t: Treatment) -> TrainedLayer:
    stored = "int8" if t.int8 else str(t.basis.stored.dtype) if t.basis else ""
    return TrainedLayer(t.layer.name, t.layer.node.op, t.method, t.basis.rank if t.basis else 0, t.channels, stored, t.layer.node.name)


def _forward_steps(plan: Plan) -> int:
    """Kernel calls up to the one that writes the logits."""
    assert plan.training is not None
    place = plan.placements[plan.training.logits]
    return next(step.index for step in plan.steps if step.output in (place.tensor, place.alias_of)) + 1


def _classes(plan: Plan, made: StepGraph) -> dict[str, int]:
    """Bytes of the arena at its fullest step, by class."""
    from sdk.planner.report import peak_step

    own = {v.name for v in made.variables if not v.learns}
    learns = {v.name for v in made.variables if v.learns}
    alive: tuple[Placement, ...] = plan.alive(peak_step(plan))
    saved = _still_saved(plan, made)
    sizes = {
        "weights": sum(p.size_bytes for p in alive if p.tensor in learns), "optimiser": sum(p.size_bytes for p in alive if p.tensor in own),
        "saved": sum(p.size_bytes for p in alive if p.tensor in saved), "masks": sum(p.size_bytes for p in alive if p.tensor in made.masks),
    }  # fmt: skip
    return {**sizes, "transients": sum(plan.arena_bytes) - sum(sizes.values())}


def _still_saved(plan: Plan, made: StepGraph) -> set[str]:
    """Saved tensors by the names of the buffers they lie in."""
    return {plan.placements[name].alias_of or name for name in made.saved if name in plan.placements}


def _decisions(made: StepGraph, learner: Learner) -> list[str]:
    """What was decided about learning, one sentence each."""
    learning = [t for t in made.treatments if t.trains]
    sentences = [f"{len(learning)} layers learn, the first is {learning[0].layer.name}; {len(made.split.prefix)} steps in front of it stay as they are."]
    if learner.training.batch > 1:
        sentences.append("One sample a step: weights move after every sample, no gradient is kept to be added up.")
    if any(node.op == "train_head" for node in made.graph.nodes):
        sentences.append("The last convolution and the mean over its image are one step: the image between the two is never held.")
    return sentences


def _vectors(made: StepGraph, start: Ready) -> list[tuple[np.ndarray, ...]]:
    """Samples to prove the firmware with: calibration samples, or random inputs where there are none; with labels in turn."""
    from sdk.golden import random_inputs

    inputs = list(start.samples[:PROOF_STEPS]) or [row[0] for row in random_inputs(start.graph, PROOF_STEPS)]
    classes = made.split.classes
    return [(x, np.array([(7 * n + 1) % classes], np.int32)) for n, x in enumerate(inputs)]
