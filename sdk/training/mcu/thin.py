"""A smaller forward pass: stripes where the frozen layers in front need the most memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from sdk.graph.ir import Graph
from sdk.kernels.base import Call
from sdk.kernels.table import lower
from sdk.passes.stripes import chains, extra_macs, striped
from sdk.planner.assess import lower_all
from sdk.planner.bounds import step_bounds
from sdk.planner.problem import from_graph
from targets.device import Device

Calls: TypeAlias = "Mapping[str, Call | None]"

#: Stripes tried; the kernel that joins them takes eight.
COUNTS = (2, 3, 4, 6, 8)
#: A chain tried reaches so far in front of and behind the layer that sets the peak.
REACH = 2
#: A cut must save this share of the peak, or it is not worth its copies.
WORTH = 0.05
#: Within this share of the peak, less work counts more than fewer bytes.
SLACK = 0.01


@dataclass(frozen=True)
class Cut:
    """A chain of layers that runs in stripes, and what that is worth."""

    names: tuple[str, ...]
    count: int
    saved_bytes: int
    extra_macs: int

    def __str__(self) -> str:
        what = f"{self.names[0]} to {self.names[-1]} run in {self.count} stripes of rows"
        return f"{what}: {self.saved_bytes:,} bytes less at the peak of the forward pass, {self.extra_macs:,} multiply-accumulates more."


def find_cuts(graph: Graph, device: Device) -> tuple[Cut, ...]:
    """The chains of `graph` to run in stripes, the one that sets the peak first, as long as that lowers the peak."""
    found: list[Cut] = []
    while (cut := _best_cut(graph, device)) is not None:
        graph = striped(graph, cut.names, cut.count)
        found.append(cut)
    return tuple(found)


def thinned(graph: Graph, cuts: Sequence[Cut], frozen: Collection[str]) -> tuple[Graph, tuple[Cut, ...]]:
    """`graph` with those of `cuts` applied whose layers are all `frozen`, and which these are."""
    taken = []
    for cut in cuts:
        if all(name in frozen for name in cut.names):
            graph = striped(graph, cut.names, cut.count)
            taken.append(cut)
    return graph, tuple(taken)


def peak_bytes(graph: Graph, device: Device, known: Calls = MappingProxyType({})) -> tuple[int, str]:
    """The fewest bytes of the fullest step, and its node. `known`: calls of nodes that need not be lowered again."""
    calls = {node.name: known[node.name] if node.name in known else lower(graph, node, device.isa) for node in graph.nodes}
    problem = from_graph(graph, calls)
    bounds = step_bounds(problem)
    at = max(range(len(bounds)), key=lambda n: bounds[n])
    return bounds[at], problem.steps[at].name


def _best_cut(graph: Graph, device: Device) -> Cut | None:
    """The stripes that lower the peak most; of those within some bytes of the best, the ones that compute least twice."""
    known = lower_all(graph, device.isa)
    peak, node = peak_bytes(graph, device, known)
    tried = []
    for names in _around(graph, node):
        for count in COUNTS:
            if count <= graph[_output(graph, names[-1])].shape[1]:
                left, _ = peak_bytes(striped(graph, names, count), device, known)
                tried.append(Cut(names, count, peak - left, extra_macs(graph, names, count)))
    best = max((cut.saved_bytes for cut in tried), default=0)
    if best < WORTH * peak:
        return None
    return min((cut for cut in tried if cut.saved_bytes >= best - SLACK * peak), key=lambda cut: (cut.extra_macs, -cut.saved_bytes))


def _around(graph: Graph, node: str) -> Iterator[tuple[str, ...]]:
    """Chains of layers with `node` in them, or with the layer that `node` reads."""
    for run in chains(graph):
        if node not in run:
            continue
        at = run.index(node)
        for first in range(max(0, at - REACH), at + 1):
            for last in range(max(at, first + 1), min(len(run), at + REACH + 1)):
                yield run[first : last + 1]


def _output(graph: Graph, name: str) -> str:
    return next(node.outputs[0] for node in graph.nodes if node.name == name)
