"""What a Linux engine has to hold and compute for a graph at a precision: the quantities that its memory and time are fitted to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sdk.graph.ir import Graph, Node, Tensor
from sdk.planner.latency import node_macs

POINTER_BYTES = 8
#: Ops whose MACs run at rates of their own; every other op is counted by the bytes it moves.
KINDS = {"conv2d": "conv", "depthwise_conv2d": "depthwise", "dense": "dense", "batch_matmul": "dense"}
CONVOLUTIONS = ("conv2d", "depthwise_conv2d")
#: Ops that only give the same bytes another shape.
FREE = ("reshape",)


@dataclass(frozen=True)
class NodeWork:
    """One node: `kind` is conv, depthwise, dense or other; `moved_bytes` is what it reads (weights too) and writes."""

    kind: str
    macs: int
    moved_bytes: int


@dataclass(frozen=True)
class Work:
    """A graph at a precision. `window_bytes`: a pointer for every tap of every window, as engines keep them for convolutions."""

    conv_weights_bytes: int  # engines keep more copies of these, in the order their kernels like
    other_weights_bytes: int
    activations_bytes: int  # peak by liveness
    window_bytes: int
    nodes: tuple[NodeWork, ...]


def work_of(graph: Graph, arena_bytes: int, precision: str) -> Work:
    """The work of `graph`, whose values need `arena_bytes` at their peak, when it is run at `precision`.

    A float graph is counted as the engine will have it: weights of two or more axes at 1 byte (int8) or 2 (float16) a value.
    """
    stored = sum(_weight_bytes(t, precision) for t in graph.constants())
    of_convs = {node.inputs[1] for node in graph.nodes if node.op in CONVOLUTIONS}
    conv = sum(_weight_bytes(t, precision) for t in graph.constants() if t.name in of_convs)
    shrunk = _value_itemsize(precision) / 4 if _is_float(graph) else 1.0
    nodes = tuple(_node_work(graph, node, precision) for node in graph.nodes if node.op not in FREE)
    return Work(conv, stored - conv, round(arena_bytes * shrunk), sum(_windows(graph)), nodes)


def _is_float(graph: Graph) -> bool:
    return not any(t.quant is not None for t in graph.activations())


def _value_itemsize(precision: str) -> int:
    """Bytes of a real value between nodes; dynamic int8 keeps floats there."""
    return {"int8": 1, "float16": 2}.get(precision, 4)


def _weight_bytes(tensor: Tensor, precision: str) -> int:
    if tensor.dtype != "float32" or len(tensor.shape) < 2:
        return tensor.size_bytes
    return tensor.size * {"int8": 1, "dynamic-int8": 1, "float16": 2}.get(precision, 4)


def _node_work(graph: Graph, node: Node, precision: str) -> NodeWork:
    tensors = [graph[name] for name in (*node.inputs, *node.outputs) if name]
    moved = sum(_weight_bytes(t, precision) if t.is_const else _value_bytes(t, precision) for t in tensors)
    return NodeWork(KINDS.get(node.op, "other"), node_macs(graph, node), moved)


def _value_bytes(tensor: Tensor, precision: str) -> int:
    return tensor.size * _value_itemsize(precision) if tensor.dtype == "float32" else tensor.size_bytes


def _windows(graph: Graph) -> Iterator[int]:
    """Bytes of pointers, a convolution each; 1x1 kernels need none."""
    for node in graph.nodes:
        if node.op in CONVOLUTIONS:
            weights, out = graph[node.inputs[1]].shape, graph[node.outputs[0]]
            channels = weights[0] if node.op == "conv2d" else weights[-1]
            taps = math.prod(weights[1:3])
            yield out.size // channels * taps * POINTER_BYTES if taps > 1 else 0
