"""How much work the ops of a training step are."""

from __future__ import annotations

import math

from sdk.graph.ir import Graph, Node


def training_macs(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of an op of `sdk.graph.ops.training`, padding counted as if it were data; 0 for those that multiply nothing together.

    A 1x1 convolution of 9 pixels from 56 to 336 channels is 169,344, forward as backward.
    """
    match node.op:
        case "train_conv2d" | "train_dense":
            return _vectors(graph, node.outputs[0]) * (_size(graph, node, 1) + _size(graph, node, 4))
        case "train_head":
            return _vectors(graph, node.inputs[0]) * (_size(graph, node, 1) + _size(graph, node, 4))
        case "train_conv2d_grad" | "train_dense_grad":
            return _vectors(graph, node.inputs[0]) * _size(graph, node, 1)
        case "train_head_grad":
            return _vectors(graph, node.outputs[0]) * _size(graph, node, 2)
        case "train_depthwise":
            return graph[node.outputs[0]].size * _taps(graph, node, 1)
        case "train_depthwise_grad":
            return graph[node.inputs[0]].size * _taps(graph, node, 1)
        case "train_depthwise_update":
            return graph[node.inputs[1]].size * _taps(graph, node, 2)
        case "train_conv2d_update" | "train_dense_update":
            return _update(graph, node, 2, _vectors(graph, node.inputs[1]))
        case "train_head_update":
            return _update(graph, node, 3, _vectors(graph, node.inputs[0]))
        case "mode_product":
            return graph[node.outputs[0]].size * graph[node.inputs[0]].shape[node.attrs["axis"]]
    return 0


def _update(graph: Graph, node: Node, weight: int, vectors: int) -> int:
    """Gradients of what was kept of the input, and their way back through the basis where there is one."""
    shape, kept = graph[node.inputs[weight]].shape, graph[node.inputs[0]].shape[-1]
    rows = math.prod(shape[:-1])
    return rows * kept * (vectors + (shape[-1] if _size(graph, node, weight + 3) else 0))


def _size(graph: Graph, node: Node, index: int) -> int:
    """Values of an input; 0 where it is absent."""
    return graph[node.inputs[index]].size if index < len(node.inputs) and node.inputs[index] else 0


def _taps(graph: Graph, node: Node, index: int) -> int:
    return math.prod(graph[node.inputs[index]].shape[1:3])


def _vectors(graph: Graph, name: str) -> int:
    """Pixels or rows of a tensor."""
    return math.prod(graph[name].shape[:-1])
