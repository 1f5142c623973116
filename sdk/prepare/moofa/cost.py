"""What a subnet costs on a device: arena, flash and time as the planner computes them, in a fraction of a millisecond a subnet.

Between two blocks exactly one tensor is alive, so a net needs the arena of its worst block, and its flash, work and time are sums over
blocks. Each block is planned once, by the planner that plans whole nets. Where the tensor between two blocks has to share bytes on both
sides, for it would not fit beside either neighbour, the blocks are not independent, and are planned together.
`Costs.plan` plans the whole net, for the few that are chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from sdk.errors import UsageError
from sdk.graph.ir import Graph
from sdk.planner.assess import Wish, assess
from sdk.planner.bounds import round_up
from sdk.planner.flash import flash_breakdown, weight_bytes
from sdk.planner.latency import node_cycles, node_macs
from sdk.planner.lifetimes import lifetimes, overlaps
from sdk.planner.measured import Footprint, footprint
from sdk.planner.plan import make_plan
from sdk.planner.problem import Problem
from sdk.planner.training.spec import Training
from sdk.prepare.moofa.graphs import Part, parts, parts_graph, subnet_graph
from sdk.prepare.moofa.space import Block, Ladder, Subnet, smallest
from sdk.prepare.moofa.training_cost import HeadTraining, classifier_only, head_training, step_plan
from targets.device import Device, load_device

if TYPE_CHECKING:
    from sdk.kernels.base import Call
    from sdk.planner.plan import Plan


@dataclass(frozen=True)
class SubnetCost:
    """What one subnet takes of a device. `latency_ms` is the planner's estimate; 0 where the device's clock is not known."""

    arena_bytes: int
    flash_bytes: int  #: code, weights, parameters and tables; what the device reserves is not in it
    macs: int
    cycles: int
    latency_ms: float
    training_bytes: int = 0  #: arena of a step in which the classifier learns; 0 where training was not asked for


@dataclass(frozen=True)
class Piece:
    """A planned part of a net, whose input and output are all that is alive before and after it."""

    arena_bytes: int
    weight_bytes: int
    macs: int
    cycles: float
    enter_bytes: int  #: that its first step would take if its output did not share bytes with the piece's input; 0 where it does not at all
    leave_bytes: int  #: the same of the step that makes the piece's output, and that output
    calls: tuple[Call, ...] = field(repr=False)  #: without their constants


def plan_piece(device: Device, graph: Graph) -> Piece:
    """The planner's figures for a part of a net on a microcontroller."""
    needs = assess(Wish(device, graph))
    planned, entries = needs.arrangement.graph, needs.code.entries
    calls = {name: call for name, call in needs.calls.items() if call is not None}
    cycles = sum(node_cycles(planned, node, device.isa, entries.get(calls[node.name].function)) for node in planned.nodes if node.name in calls)
    macs = sum(node_macs(planned, node) for node in planned.nodes)
    weights = weight_bytes(array for call in calls.values() for array in call.constants.values())
    ends = apart_bytes(needs.arrangement.problem)
    return Piece(sum(needs.arrangement.layout.arena_bytes), weights, macs, cycles, *ends, tuple(replace(call, constants={}) for call in calls.values()))


def apart_bytes(problem: Problem) -> tuple[int, int]:
    """(`enter_bytes`, `leave_bytes`) of a piece: what is alive at its ends' steps if nothing shares a byte; 0 where the end shares none."""
    spans = lifetimes(problem)
    pairs = overlaps(problem, spans)

    def alive(step: int) -> int:
        return sum(round_up(span.size_bytes, 4) for span in spans.values() if span.first <= step <= span.last)

    enter = max((alive(spans[name].last) for name, _ in pairs if name in problem.inputs), default=0)
    return enter, max((alive(spans[made].first) for _, made in pairs if made in problem.outputs), default=0)


class Pieces:
    """Planned pieces of nets for one microcontroller, each planned when it is first asked for.

    Raises UsageError for a device whose memory is not planned: a computer.
    """

    def __init__(self, device: Device | str) -> None:
        self.device = load_device(device)
        if self.device.kind != "mcu":
            raise UsageError(f"{self.device.name} is a computer, whose engines plan memory themselves; give a microcontroller of `embarq devices`")
        self._known: dict[tuple[object, ...], Piece] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, listed: Sequence[Part]) -> Piece:
        """One part of a net, or several neighbours together; parts that differ only in their place are one."""
        key = tuple(map(geometry, listed))
        if key not in self._known:
            self._known[key] = plan_piece(self.device, parts_graph(listed))
        return self._known[key]


class Costs:
    """Costs of a ladder's subnets on a microcontroller, for nets with `classes` outputs.

    channels_last: the picture comes as [1, R, R, 3], as a camera gives it, and needs no transpose.
    pieces: those planned before, for another ladder on the same device.
    training: how the classifier is to learn on the device; `training_bytes` is then told too, for frozen layers that run as they do without
    learning. (The plan of the step has the last word: it runs them in stripes where that saves arena, and the label may displace some bytes.)
    Raises UsageError for a device whose memory is not planned: a computer; and for training of more than the classifier.

        Costs("stm32f746", MOOFA, 1000)(smallest(MOOFA)).arena_bytes
    """

    def __init__(
        self, device: Device | str, ladder: Ladder, classes: int, channels_last: bool = False, pieces: Pieces | None = None, training: Training | None = None
    ) -> None:  # fmt: skip
        self.planned = pieces or Pieces(device)
        self.device, self.ladder, self.classes, self.channels_last = self.planned.device, ladder, classes, channels_last
        self.training = training and classifier_only(training)
        self._code: dict[frozenset[str], Footprint] = {}
        self._heads: dict[Part, HeadTraining] = {}
        self._shell = subnet_graph(ladder, smallest(ladder), classes)  # the names of model, input and output stand in flash

    def __call__(self, subnet: Subnet) -> SubnetCost:
        """The subnet's cost. Raises UsageError for a subnet of another ladder."""
        listed = parts(self.ladder, subnet, self.classes, self.channels_last)
        pieces = [self.planned.of([part]) for part in listed]
        cycles = round(sum(piece.cycles for piece in pieces))
        clock, arena = self.device.core.clock_hz, self._arena(listed, pieces)
        return SubnetCost(
            arena_bytes=arena,
            flash_bytes=self._fixed_flash(call for piece in pieces for call in piece.calls) + sum(piece.weight_bytes for piece in pieces),
            macs=sum(piece.macs for piece in pieces),
            cycles=cycles,
            latency_ms=1e3 * cycles / clock if clock else 0.0,
            training_bytes=self._head(listed[-1], self.training).with_front(arena) if self.training else 0,
        )

    def arenas(self, subnet: Subnet) -> list[int]:
        """Arena of the stem, each block and the head, in order: equal for all in a net that wastes none."""
        return [self.planned.of([part]).arena_bytes for part in parts(self.ladder, subnet, self.classes, self.channels_last)]

    def _arena(self, listed: Sequence[Part], pieces: Sequence[Piece]) -> int:
        """The worst piece's arena; pieces with a tensor between them that fits beside neither neighbour count as one."""
        most, start = max(piece.arena_bytes for piece in pieces), 0
        joined = [min(a.leave_bytes, b.enter_bytes) > most for a, b in pairwise(pieces)]
        for index, tight in enumerate([*joined, False]):
            if not tight:
                most = max(most, self.planned.of(listed[start : index + 1]).arena_bytes) if start < index else most
                start = index + 1
        return most

    def plan(self, subnet: Subnet) -> Plan:
        """The whole net planned as any other is; its weights are made up."""
        return make_plan(self.device, subnet_graph(self.ladder, subnet, self.classes, self.channels_last), mends=False)

    def training_plan(self, subnet: Subnet) -> Plan:
        """The whole step in which the classifier learns, planned as any other is. Raises UsageError where training was not asked for."""
        if self.training is None:
            raise UsageError("a training step is planned for a wish; give Costs(..., training=sdk.Training(layers='classifier'))")
        graph = subnet_graph(self.ladder, subnet, self.classes, self.channels_last)
        return step_plan(self.device, graph, self.training, stripes=True)

    def _head(self, head: Part, training: Training) -> HeadTraining:
        if head not in self._heads:
            self._heads[head] = head_training(self.device, head, training)
        return self._heads[head]

    def _fixed_flash(self, calls: Iterable[Call]) -> int:
        """Flash besides the weights: the kernels' code once, a struct and a step for each call."""
        listed = list(calls)
        functions = frozenset(call.function for call in listed)
        if functions not in self._code:
            self._code[functions] = footprint(self.device, "zig", sorted(functions))
        return flash_breakdown(self._shell, listed, self._code[functions]).total


def geometry(part: Part) -> tuple[object, ...]:
    """All that a part's plan depends on: a block's place in the net is not in it."""
    if not isinstance(part, Block):
        return (part,)
    return (part.inputs, part.hidden, part.outputs, part.kernel, part.stride, part.side, part.activation, part.squeeze, part.expands)
