"""What a subnet costs on a device: arena, flash and time as the planner computes them, in a fraction of a millisecond a subnet.

Between two blocks exactly one tensor is alive, so a net needs the arena of its worst block, and its flash, work and time are sums over
blocks. Each block is planned once, by the planner that plans whole nets; `Costs.plan` plans the whole net, for the few that are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sdk.errors import UsageError
from sdk.graph.ir import Graph
from sdk.planner.assess import Wish, assess
from sdk.planner.flash import flash_breakdown, weight_bytes
from sdk.planner.latency import node_cycles, node_macs
from sdk.planner.measured import Footprint, footprint
from sdk.planner.plan import make_plan
from sdk.prepare.moofa.graphs import block_graph, head_graph, stem_graph, subnet_graph
from sdk.prepare.moofa.space import Block, Ladder, Subnet, blocks, check, smallest
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


@dataclass(frozen=True)
class Piece:
    """A planned part of a net, whose input and output are all that is alive before and after it."""

    arena_bytes: int
    weight_bytes: int
    macs: int
    cycles: float
    calls: tuple[Call, ...] = field(repr=False)  #: without their constants


def plan_piece(device: Device, graph: Graph) -> Piece:
    """The planner's figures for a part of a net on a microcontroller."""
    needs = assess(Wish(device, graph))
    planned, entries = needs.arrangement.graph, needs.code.entries
    calls = {name: call for name, call in needs.calls.items() if call is not None}
    cycles = sum(node_cycles(planned, node, device.isa, entries.get(calls[node.name].function)) for node in planned.nodes if node.name in calls)
    macs = sum(node_macs(planned, node) for node in planned.nodes)
    weights = weight_bytes(array for call in calls.values() for array in call.constants.values())
    return Piece(sum(needs.arrangement.layout.arena_bytes), weights, macs, cycles, tuple(replace(call, constants={}) for call in calls.values()))


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

    def block(self, block: Block) -> Piece:
        """An inverted residual; blocks that differ only in their place are one."""
        return self._piece(geometry(block), lambda: block_graph(block))

    def stem(self, ladder: Ladder, side: int, channels_last: bool) -> Piece:
        """The stem for pictures of `side` pixels."""
        return self._piece(("stem", ladder.stem, ladder.strides[0], side, channels_last), lambda: stem_graph(ladder, side, channels_last))

    def head(self, ladder: Ladder, side: int, classes: int) -> Piece:
        """What follows the last block."""
        key = ("head", ladder.stages[-1], ladder.final, ladder.feature, side, classes)
        return self._piece(key, lambda: head_graph(ladder, side, classes))

    def _piece(self, key: tuple[object, ...], graph: Callable[[], Graph]) -> Piece:
        if key not in self._known:
            self._known[key] = plan_piece(self.device, graph())
        return self._known[key]


class Costs:
    """Costs of a ladder's subnets on a microcontroller, for nets with `classes` outputs.

    channels_last: the picture comes as [1, R, R, 3], as a camera gives it, and needs no transpose.
    pieces: those planned before, for another ladder on the same device.
    Raises UsageError for a device whose memory is not planned: a computer.

        Costs("stm32f746", MOOFA, 1000)(smallest(MOOFA)).arena_bytes
    """

    def __init__(self, device: Device | str, ladder: Ladder, classes: int, channels_last: bool = False, pieces: Pieces | None = None) -> None:
        self.planned = pieces or Pieces(device)
        self.device, self.ladder, self.classes, self.channels_last = self.planned.device, ladder, classes, channels_last
        self._code: dict[frozenset[str], Footprint] = {}
        self._shell = subnet_graph(ladder, smallest(ladder), classes)  # the names of model, input and output stand in flash

    def __call__(self, subnet: Subnet) -> SubnetCost:
        """The subnet's cost. Raises UsageError for a subnet of another ladder."""
        pieces = self.pieces(check(self.ladder, subnet))
        cycles = round(sum(piece.cycles for piece in pieces))
        clock = self.device.core.clock_hz
        return SubnetCost(
            arena_bytes=max(piece.arena_bytes for piece in pieces),
            flash_bytes=self._fixed_flash(call for piece in pieces for call in piece.calls) + sum(piece.weight_bytes for piece in pieces),
            macs=sum(piece.macs for piece in pieces),
            cycles=cycles,
            latency_ms=1e3 * cycles / clock if clock else 0.0,
        )

    def pieces(self, subnet: Subnet) -> list[Piece]:
        """The stem, every block, the head."""
        built = blocks(self.ladder, subnet)
        stem = self.planned.stem(self.ladder, subnet.resolution, self.channels_last)
        return [stem, *map(self.planned.block, built), self.planned.head(self.ladder, built[-1].side_after, self.classes)]

    def plan(self, subnet: Subnet) -> Plan:
        """The whole net planned as any other is; its weights are made up."""
        return make_plan(self.device, subnet_graph(self.ladder, subnet, self.classes, self.channels_last), mends=False)

    def _fixed_flash(self, calls: Iterable[Call]) -> int:
        """Flash besides the weights: the kernels' code once, a struct and a step for each call."""
        listed = list(calls)
        functions = frozenset(call.function for call in listed)
        if functions not in self._code:
            self._code[functions] = footprint(self.device, "zig", sorted(functions))
        return flash_breakdown(self._shell, listed, self._code[functions]).total


def geometry(block: Block) -> tuple[object, ...]:
    """All that a block's plan depends on: its place in the net is not in it."""
    return (block.inputs, block.hidden, block.outputs, block.kernel, block.stride, block.side, block.activation, block.squeeze, block.expands)
