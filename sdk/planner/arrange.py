"""Order, lifetimes and placement put together: a graph and its kernels' wishes in, a checked arrangement out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdk.graph.ir import Graph, Node
from sdk.planner.bounds import lower_bound, step_bounds
from sdk.planner.check import check_placement
from sdk.planner.lifetimes import SCRATCH, Span, lifetimes
from sdk.planner.placement import Layout, Region, place
from sdk.planner.problem import Asks, NoAsks, Problem, from_graph
from sdk.planner.schedule import Schedule, best_order

ORDERS = ("best", "given")


@dataclass(frozen=True)
class Placement:
    """Where a tensor, or a step's scratch, lies. `kind`: "input", "output", "activation", "state" or "scratch" (`tensor`: its node).

    `region` indexes the device's arena regions, `memory` is its name; alive from step `first_step` to `last_step`, both included.
    A tensor that is another's bytes under a new shape has that tensor in `alias_of`.
    """

    tensor: str
    kind: str
    memory: str
    region: int
    offset: int
    size_bytes: int
    first_step: int
    last_step: int
    alias_of: str = ""


@dataclass(frozen=True)
class Arrangement:
    """A graph in its order, its problem, and where everything lies; passed by the independent check."""

    graph: Graph
    problem: Problem
    schedule: Schedule
    layout: Layout
    placements: tuple[Placement, ...]


def reordered(graph: Graph, order: Sequence[str]) -> Graph:
    """`graph` with the nodes named in `order` in that order; every other node (a reshape) follows its producer at once."""
    by_name = {node.name: node for node in graph.nodes}
    listed = set(order)
    followers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.name not in listed:
            followers.setdefault(node.inputs[0], []).append(node)
    nodes: list[Node] = []

    def follow(tensor: str) -> None:
        for node in followers.get(tensor, ()):
            nodes.append(node)
            follow(node.outputs[0])

    for name in (*graph.inputs, *(t.name for t in graph.tensors.values() if t.variable and t.name not in graph.inputs)):
        follow(name)
    for name in order:
        nodes.append(by_name[name])
        for out in by_name[name].outputs:
            follow(out)
    return Graph(graph.name, graph.inputs, graph.outputs, graph.tensors, tuple(nodes))


def without_sharing(calls: Mapping[str, Asks | None]) -> dict[str, Asks | None]:
    """The same kernels, none of which may write over its input."""
    return {name: call and NoAsks(call.scratch_bytes) for name, call in calls.items()}


def arrange(
    graph: Graph,
    calls: Mapping[str, Asks | None],
    regions: Sequence[Region],
    *,
    keep_input: bool = False,
    in_place: bool = True,
    order: str = "best",
    alignment: int = 4,
) -> Arrangement:
    """The best order and placement found; never refuses: `layout.overflow_bytes` says what does not fit.

    Where the best order's placement misses its bound and the given order's is smaller, the given order stays.
    """
    asked = calls if in_place else without_sharing(calls)
    given = from_graph(graph, asked, keep_input=keep_input)
    schedule = best_order(given)
    keep = Schedule(tuple(range(len(given.steps))), schedule.given_peak_bytes, schedule.given_peak_bytes, schedule.exact)
    if order == "given":
        schedule = keep
    problem = given.reordered(schedule.order)
    layout = place(problem, regions, alignment=alignment)
    if schedule.order != keep.order and lower_bound(given, alignment) < _size(layout):
        other = place(given, regions, alignment=alignment)
        if (other.overflow_bytes, _size(other)) < (layout.overflow_bytes, _size(layout)):
            schedule, problem, layout = keep, given, other
    done = reordered(graph, [step.name for step in problem.steps])
    placements = _placements(done, problem, layout, regions)
    check_placement(done, asked, placements, _extent(layout, regions), keep_input=keep_input)
    return Arrangement(done, problem, schedule, layout, placements)


def _size(layout: Layout) -> int:
    return sum(layout.arena_bytes)


def _extent(layout: Layout, regions: Sequence[Region]) -> list[int]:
    """Bytes each region may be used to: its own size, or what a layout that does not fit would need."""
    return [max(used, region.size_bytes) for used, region in zip(layout.arena_bytes, regions, strict=True)]


def _placements(graph: Graph, problem: Problem, layout: Layout, regions: Sequence[Region]) -> tuple[Placement, ...]:
    spans = lifetimes(problem)
    rows = []
    for tensor, buffer in problem.root.items():
        if buffer in layout.spots:
            rows.append(_placement(tensor, _kind(graph, tensor), spans[buffer], layout, regions, "" if tensor == buffer else buffer))
    for name, span in spans.items():
        if name.startswith(SCRATCH):
            rows.append(_placement(name.removeprefix(SCRATCH), "scratch", span, layout, regions, ""))
    return tuple(rows)


def _placement(tensor: str, kind: str, span: Span, layout: Layout, regions: Sequence[Region], alias_of: str) -> Placement:
    spot = layout.spots[span.name]
    return Placement(tensor, kind, regions[spot.region].name, spot.region, spot.offset, span.size_bytes, span.first, span.last, alias_of)


def _kind(graph: Graph, tensor: str) -> str:
    if graph[tensor].variable:
        return "state"
    return "input" if tensor in graph.inputs else "output" if tensor in graph.outputs else "activation"


def live_bytes(arrangement: Arrangement) -> tuple[int, ...]:
    """For each step, the least bytes its live buffers take (sharing counted)."""
    return tuple(step_bounds(arrangement.problem))
