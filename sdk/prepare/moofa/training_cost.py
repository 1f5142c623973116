"""What learning on the device adds to a subnet: the arena of a training step, from the head's own plan.

On a microcontroller the classifier of these nets learns: no gradient goes back through hard-swish. Its variables lie in the arena all the
time, and so does the label; whatever runs in front of it runs above them as it does without learning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdk.errors import UsageError
from sdk.planner.bounds import round_up
from sdk.planner.training.spec import Training
from sdk.prepare.moofa.graphs import Part, parts_graph

if TYPE_CHECKING:
    from sdk.graph.ir import Graph
    from sdk.planner.plan import Plan
    from targets.device import Device

#: int32 [1], there from the first step on.
LABEL_BYTES = 4


@dataclass(frozen=True)
class HeadTraining:
    """Bytes of the head's training step: what stays through all of it, and its whole arena."""

    kept_bytes: int
    arena_bytes: int

    def with_front(self, arena_bytes: int) -> int:
        """Arena of the whole net's step, where what is in front of the head needs `arena_bytes`."""
        return max(self.kept_bytes + arena_bytes, self.arena_bytes)


def classifier_only(training: Training) -> Training:
    """The wish with its layers named. Raises UsageError where more than the classifier is to learn."""
    if training.layers not in ("auto", "classifier"):
        raise UsageError(f"training layers {training.layers!r} of a subnet cannot learn on a microcontroller, for hard-swish has no gradient there; "
                         "train the classifier (layers='classifier')")  # fmt: skip
    return replace(training, layers="classifier")


def head_training(device: Device, head: Part, training: Training) -> HeadTraining:
    """The step of the head alone."""
    plan = step_plan(device, parts_graph([head]), training)
    assert plan.training is not None
    kept = sum(round_up(variable.size_bytes, 4) for variable in plan.training.variables)
    return HeadTraining(kept + LABEL_BYTES, sum(plan.arena_bytes))


def step_plan(device: Device, graph: Graph, training: Training, stripes: bool = False) -> Plan:
    """The plan of a step that trains the classifier of `graph`. `stripes`: as `sdk.plan` does, frozen layers in stripes where that saves arena."""
    from sdk.training.mcu.choices import default_choices
    from sdk.training.mcu.plan import learner

    made = learner(device, graph, classifier_only(training), stripes=stripes)
    return made.plan(default_choices(made), mends=False)
