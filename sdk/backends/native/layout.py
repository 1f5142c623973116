"""A graph on the portable kernels: which C function computes each node, and where every value lies in one arena."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sdk.errors import UnsupportedOp
from sdk.graph.ir import Graph
from sdk.kernels.base import Call
from sdk.planner.arrange import Arrangement, arrange
from sdk.planner.assess import lower_all
from sdk.planner.best_calls import best_calls
from sdk.planner.placement import Region

#: Of every buffer: a vector register of any of the machines.
ALIGNMENT = 16
#: What `embarq_ref` can address in one region.
LARGEST_ARENA = 1 << 28
#: No instruction set: every row of the kernel table that is plain C.
PORTABLE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Laid:
    """A graph in its order with its kernel calls and one arena; `places` maps tensors, `scratches` nodes, to (region 0, byte offset)."""

    graph: Graph
    calls: tuple[Call, ...]
    places: Mapping[str, tuple[int, int]] = field(repr=False)
    scratches: Mapping[str, tuple[int, int]] = field(repr=False)
    arena_bytes: int

    @property
    def steps(self) -> list[dict[str, str]]:
        """{"name", "op"} of every call, in order."""
        ops = {node.name: node.op for node in self.graph.nodes}
        return [{"name": call.node, "op": ops[call.node]} for call in self.calls]


def lay_out(graph: Graph) -> Laid:
    """`graph`, which has been through its passes, on portable kernels.

    Raises UnsupportedOp naming the first node without a kernel, or where the values need more than 256 MiB.
    """
    choice = best_calls(graph, lower_all(graph, PORTABLE), lambda calls: arrange(graph, calls, (Region("arena", LARGEST_ARENA),), alignment=ALIGNMENT))
    found = choice.arrangement
    arena = int(found.layout.arena_bytes[0])
    if found.layout.overflow_bytes or arena >= LARGEST_ARENA:
        raise UnsupportedOp(f"{graph.name} needs {arena:,} bytes for its values and the native engine addresses {LARGEST_ARENA:,}; give it a smaller input")
    return Laid(found.graph, _calls(choice.calls, found), _spots(found, False), _spots(found, True), arena)


def _calls(calls: Mapping[str, Call | None], found: Arrangement) -> tuple[Call, ...]:
    listed = (calls[step.name] for step in found.problem.steps)
    return tuple(call for call in listed if call is not None)


def _spots(found: Arrangement, scratch: bool) -> dict[str, tuple[int, int]]:
    return {p.tensor: (p.region, p.offset) for p in found.placements if (p.kind == "scratch") == scratch}
