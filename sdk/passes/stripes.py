"""Layers computed a stripe of rows at a time: the same bytes from less memory, for a few rows computed twice.

    thin = striped(graph, ("expand", "depthwise", "project"), 8)

A chain whose middle is large (an inverted bottleneck) never holds that middle whole: rows of its input are copied out, every layer is
computed for them, and the stripes of the last output are put together. Neighbouring stripes share the rows their windows overlap in.
(Running first layers in patches: Lin et al., MCUNetV2, 2021, arXiv 2110.15352. Full rows, unlike patches, stay contiguous in memory.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sdk.errors import UsageError
from sdk.graph.ir import Graph, Node, Tensor

LAYERS = ("conv2d", "depthwise_conv2d")


@dataclass(frozen=True)
class _Rows:
    """Rows [low, high) of an image, and rows of padding above and below them."""

    low: int
    high: int
    above: int = 0
    below: int = 0


def chains(graph: Graph) -> tuple[tuple[str, ...], ...]:
    """The longest runs of two or more layers of which each alone reads the one before, and which are not the model's output."""
    readers = graph.consumers
    runs: list[list[Node]] = []
    for node in graph.nodes:
        if node.op not in LAYERS or graph[node.inputs[0]].shape[0] != 1:
            continue
        before = graph.producer(node.inputs[0])
        if runs and before is runs[-1][-1] and len(readers[node.inputs[0]]) == 1 and node.inputs[0] not in graph.outputs:
            runs[-1].append(node)
        else:
            runs.append([node])
    return tuple(tuple(node.name for node in run) for run in runs if len(run) > 1)


def striped(graph: Graph, names: Sequence[str], count: int) -> Graph:
    """`graph` with the chain of layers `names` computed in `count` stripes. Raises UsageError for what is no chain, or too many stripes."""
    nodes = {node.name: node for node in graph.nodes}
    chain = [nodes[name] for name in names if name in nodes]
    if not any(tuple(names) == run[i : i + len(names)] for run in chains(graph) for i in range(len(run))):
        raise UsageError(f"{', '.join(names)} are no chain of layers; choose from sdk.passes.stripes.chains(graph)")
    height = graph[chain[-1].outputs[0]].shape[1]
    if not 1 < count <= height:
        raise UsageError(f"{count} stripes of {height} rows are not possible; give a number from 2 to {height}")
    tensors = dict(graph.tensors)
    made: list[Node] = []
    parts = [_stripe(graph, chain, k, height * k // count, height * (k + 1) // count, tensors, made) for k in range(count)]
    made.append(Node(f"{names[-1]}.joined", "concat", tuple(parts), chain[-1].outputs, {"axis": 1}, chain[-1].source))
    inside = set(names)
    order: list[Node] = []
    for node in graph.nodes:
        if node.name == names[-1]:
            order += made
        elif node.name not in inside:
            order.append(node)
    return graph.with_nodes(order, tensors)


def extra_macs(graph: Graph, names: Sequence[str], count: int) -> int:
    """Multiply-accumulates that `count` stripes compute twice."""
    nodes = {node.name: node for node in graph.nodes}
    chain = [nodes[name] for name in names]
    height = graph[chain[-1].outputs[0]].shape[1]
    total = 0
    for k in range(count):
        ranges = _ranges(graph, chain, height * k // count, height * (k + 1) // count)
        for node, rows in zip(chain, ranges[1:], strict=True):
            total += (rows.high - rows.low) * _row_macs(graph, node)
    return total - sum(graph[node.outputs[0]].shape[1] * _row_macs(graph, node) for node in chain)


def _row_macs(graph: Graph, node: Node) -> int:
    _, _, width, channels = graph[node.outputs[0]].shape
    w = graph[node.inputs[1]].shape
    return width * channels * (w[1] * w[2] * (w[3] if node.op == "conv2d" else 1))


def _ranges(graph: Graph, chain: Sequence[Node], low: int, high: int) -> list[_Rows]:
    """Rows of the chain's input, then of each layer's output, that rows [low, high) of the last one take; each with the padding its
    reader adds."""
    found = [_Rows(low, high)]
    for node in reversed(chain):
        kernel, size = graph[node.inputs[1]].shape[1], graph[node.inputs[0]].shape[1]
        stride, dilation, top = node.attrs["stride"][0], node.attrs.get("dilation", (1, 1))[0], node.attrs["padding"][0][0]
        first = found[0].low * stride - top
        last = (found[0].high - 1) * stride - top + (kernel - 1) * dilation + 1
        found.insert(0, _Rows(max(first, 0), min(last, size), max(-first, 0), max(last - size, 0)))
    return found


def _stripe(graph: Graph, chain: Sequence[Node], index: int, low: int, high: int, tensors: dict[str, Tensor], made: list[Node]) -> str:
    """Append the nodes of one stripe; the name of its last output."""
    ranges = _ranges(graph, chain, low, high)
    source = graph[chain[0].inputs[0]]
    value = _rows_of(source, f"{chain[0].name}.rows{index}", ranges[0], tensors)
    end = (1, ranges[0].high, *source.shape[2:])
    attrs = {"begin": (0, ranges[0].low, 0, 0), "end": end, "strides": (1, 1, 1, 1)}
    made.append(Node(f"{chain[0].name}.cut{index}", "slice", (source.name,), (value,), attrs, chain[0].source))
    for node, rows, after in zip(chain, ranges, ranges[1:], strict=False):
        out = _rows_of(graph[node.outputs[0]], f"{node.outputs[0]}.stripe{index}", after, tensors)
        padding = ((rows.above, rows.below), node.attrs["padding"][1])
        made.append(replace(node, name=f"{node.name}.stripe{index}", inputs=(value, *node.inputs[1:]), outputs=(out,)).with_attrs(padding=padding))
        value = out
    return value


def _rows_of(tensor: Tensor, name: str, rows: _Rows, tensors: dict[str, Tensor]) -> str:
    """Declare the tensor of some rows of `tensor`."""
    shape = (1, rows.high - rows.low, *tensor.shape[2:])
    tensors[name] = replace(tensor, name=name, shape=shape, data=None, origin=None)
    return name
