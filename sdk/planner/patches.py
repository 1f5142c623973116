"""What running the first layers patch by patch would take: less memory, more work.

The first k layers are computed for one tile of their last output at a time, each tile with the halo its windows need, so that
their large activations exist only as tiles. (MCUNetV2, Lin et al. 2021, arXiv 2110.15352; here the figures only: neighbouring
tiles recompute their halo, the model's input and the last output of the patched layers are whole.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from sdk.graph.ir import Graph, Node
from sdk.planner.arrange import Arrangement
from sdk.planner.bounds import lower_bound, step_bounds
from sdk.planner.latency import node_macs
from sdk.planner.problem import Problem, Step

GRIDS = (2, 3, 4)
_WINDOWED = frozenset({"conv2d", "depthwise_conv2d", "max_pool2d", "avg_pool2d"})
_POINTWISE = frozenset(
    {"add", "sub", "mul", "maximum", "minimum", "relu", "relu6", "relu_n1_to_1", "leaky_relu", "hard_swish", "hard_sigmoid", "sigmoid",
     "tanh", "silu", "gelu", "clip", "abs", "neg", "quantize", "dequantize", "requantize"}
)  # fmt: skip

Range = tuple[int, int]


@dataclass(frozen=True)
class Patched:
    """The first `layers` layers, up to tensor `output`, in grid x grid tiles: bytes of arena and multiply-accumulates added."""

    layers: int
    output: str
    grid: int
    arena_bytes: int
    extra_macs: int


def best_patches(arrangement: Arrangement, room_bytes: int) -> Patched | None:
    """The cheapest patched start whose arena has at most `room_bytes`, else the one with the smallest arena.

    None where no start of the graph can be patched.
    """
    graph, problem = arrangement.graph, arrangement.problem
    by_name = {node.name: node for node in graph.nodes}
    nodes = [by_name[step.name] for step in problem.steps]
    rest = step_bounds(problem)
    found = []
    for k in _cuts(graph, nodes, problem):
        for grid in GRIDS:
            height, width = graph[nodes[k - 1].outputs[0]].shape[1:3]
            if min(height, width) >= grid:
                arena, extra = _patched(graph, nodes[:k], problem, grid)
                found.append(Patched(k, nodes[k - 1].outputs[0], grid, max([arena, *rest[k:]]), extra))
    enough = [p for p in found if p.arena_bytes <= room_bytes]
    if enough:
        return min(enough, key=lambda p: (p.extra_macs, p.arena_bytes, p.layers))
    return min(found, key=lambda p: (p.arena_bytes, p.extra_macs, p.layers), default=None)


def _cuts(graph: Graph, nodes: list[Node], problem: Problem) -> list[int]:
    """Every k >= 2 such that steps 0..k-1 only look at neighbourhoods and hand exactly one tensor to the rest."""
    cuts = []
    for k in range(1, len(nodes)):
        if not _is_local(graph, nodes[k - 1]):
            break
        written = {name for step in problem.steps[:k] for name in step.writes} | set(problem.inputs)
        wanted = {name for step in problem.steps[k:] for name in step.reads} | set(problem.outputs)
        if k >= 2 and written & wanted == {problem.root[nodes[k - 1].outputs[0]]}:
            cuts.append(k)
    return cuts


def _is_local(graph: Graph, node: Node) -> bool:
    shapes = [graph[name].shape for name in node.inputs if name and not graph[name].is_const]
    out = graph[node.outputs[0]].shape
    if len(out) != 4 or out[0] != 1 or any(len(shape) != 4 for shape in shapes):
        return False
    return node.op in _WINDOWED or (node.op in _POINTWISE and all(shape == out for shape in shapes))


def _patched(graph: Graph, nodes: list[Node], problem: Problem, grid: int) -> tuple[int, int]:
    """(bytes at the worst patch, multiply-accumulates added over all patches)."""
    last = nodes[-1].outputs[0]
    rows, columns = graph[last].shape[1:3]
    worst = macs = 0
    for top, bottom in _tiles(rows, grid):
        for left, right in _tiles(columns, grid):
            need = _back(graph, nodes, {last: ((top, bottom), (left, right))})
            macs += sum(_share(graph, node, need) for node in nodes)
            worst = max(worst, _tile_bytes(graph, nodes, problem, need))
    return worst, macs - sum(node_macs(graph, node) for node in nodes)


def _tiles(length: int, count: int) -> list[Range]:
    edges = [length * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def _back(graph: Graph, nodes: list[Node], need: dict[str, tuple[Range, Range]]) -> dict[str, tuple[Range, Range]]:
    """Rows and columns of every tensor that the wanted tile of the last output needs."""
    need = dict(need)
    for node in reversed(nodes):
        if node.outputs[0] not in need:
            continue
        for name in node.inputs:
            if name and not graph[name].is_const:
                ranges = [_window(graph, node, name, axis, need[node.outputs[0]][axis]) for axis in (0, 1)]
                old = need.get(name, (ranges[0], ranges[1]))
                need[name] = (_hull(old[0], ranges[0]), _hull(old[1], ranges[1]))
    return need


def _hull(a: Range, b: Range) -> Range:
    return min(a[0], b[0]), max(a[1], b[1])


def _window(graph: Graph, node: Node, name: str, axis: int, wanted: Range) -> Range:
    """The range of input `name` along an axis that output range `wanted` reads."""
    if node.op not in _WINDOWED:
        return wanted
    kernel = graph[node.inputs[1]].shape[1 + axis] if "conv2d" in node.op else node.attrs["kernel"][axis]
    stride, before = node.attrs["stride"][axis], node.attrs["padding"][axis][0]
    reach = (kernel - 1) * node.attrs.get("dilation", (1, 1))[axis] + 1
    low, high = wanted[0] * stride - before, (wanted[1] - 1) * stride - before + reach
    return max(0, low), min(graph[name].shape[1 + axis], max(high, 1))


def _pixels(tile: tuple[Range, Range]) -> int:
    return (tile[0][1] - tile[0][0]) * (tile[1][1] - tile[1][0])


def _share(graph: Graph, node: Node, need: Mapping[str, tuple[Range, Range]]) -> int:
    """Multiply-accumulates of a node for one tile."""
    out = graph[node.outputs[0]]
    if node.outputs[0] not in need:
        return 0
    return node_macs(graph, node) * _pixels(need[node.outputs[0]]) // (out.shape[1] * out.shape[2])


def _tile_bytes(graph: Graph, nodes: list[Node], problem: Problem, need: Mapping[str, tuple[Range, Range]]) -> int:
    """Arena of one patch: the model's input and the last output whole, tiles between them, the kernels' scratch as it was."""
    last = problem.root[nodes[-1].outputs[0]]
    whole = {*problem.inputs, last}
    sizes = dict(problem.sizes)
    for node in nodes:
        name = node.outputs[0]
        if problem.root[name] not in whole:
            tensor = graph[name]
            pixels = _pixels(need[name]) if name in need else 0
            sizes[problem.root[name]] = tensor.size_bytes * pixels // (tensor.shape[1] * tensor.shape[2])
    steps = tuple(Step(s.name, s.reads, s.writes, s.scratch_bytes) for s in problem.steps[: len(nodes)])
    return lower_bound(Problem(steps, sizes, problem.inputs, (last,), frozenset(whole)))
