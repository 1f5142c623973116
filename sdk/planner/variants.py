"""Smaller variants of a graph, made to be measured and not to be run: lower resolution, int8 in place of float."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sdk.errors import EmbarqError
from sdk.graph.ir import Graph, Node, Quant, Tensor
from sdk.graph.ops import OPS

#: Ops whose int8 output has one possible scale and zero point.
_FIXED = {
    "softmax": Quant((1 / 256,), (-128,)), "sigmoid": Quant((1 / 256,), (-128,)), "tanh": Quant((1 / 128,), (0,)),
    "log_softmax": Quant((16 / 256,), (127,)),
}  # fmt: skip
_WEIGHTED = {"conv2d": 0, "depthwise_conv2d": 3, "dense": 0}  # op -> the axis of its weight's channels


def at_resolution(graph: Graph, height: int, width: int) -> Graph | None:
    """The graph for an image of height x width, weights and attributes kept; None where some node fixes its size.

    A pooling over its whole input stays one. A reshape keeps its shape, so the values must be as many as before, or its
    dimension that no longer matches makes the answer None.
    """
    if len(graph.inputs) != 1 or len(graph[graph.inputs[0]].shape) != 4:
        return None
    tensors = dict(graph.tensors)
    image = tensors[graph.inputs[0]]
    tensors[image.name] = replace(image, shape=(image.shape[0], height, width, image.shape[3]))
    nodes = []
    try:
        for node in graph.nodes:
            small = _fitted(node, graph, tensors)
            shapes = OPS[small.op].infer(small, tensors)
            for name, (shape, _) in zip(small.outputs, shapes, strict=True):
                if not all(shape):
                    return None
                tensors[name] = replace(tensors[name], shape=shape)
            nodes.append(small)
        return Graph(graph.name, graph.inputs, graph.outputs, tensors, tuple(nodes))
    except (EmbarqError, KeyError, IndexError, ValueError):
        return None


def _fitted(node: Node, graph: Graph, tensors: dict[str, Tensor]) -> Node:
    """The node with a kernel that covered its whole input covering the smaller one."""
    if node.op in ("max_pool2d", "avg_pool2d"):
        before, after = graph[node.inputs[0]].shape[1:3], tensors[node.inputs[0]].shape[1:3]
        if tuple(node.attrs["kernel"]) == before:
            return node.with_attrs(kernel=after, stride=tuple(node.attrs["stride"]))
    return node


def as_int8(graph: Graph) -> Graph | None:
    """The graph with every float32 tensor as int8 and int32 biases, scales made up: right in its sizes, wrong in its values.

    None when it holds no float32.
    """
    if not any(t.dtype == "float32" for t in graph.tensors.values()):
        return None
    tensors = {name: _as_int8(tensor) for name, tensor in graph.tensors.items()}
    for node in graph.nodes:
        if node.op in _WEIGHTED:
            _give_weights(tensors, node)
        if node.op in _FIXED:
            out = node.outputs[0]
            tensors[out] = replace(tensors[out], quant=_FIXED[node.op])
    kept = tuple(node for node in graph.nodes if node.op not in ("quantize", "dequantize"))
    return graph.with_nodes(graph.nodes, tensors) if len(kept) == len(graph.nodes) else None


def _as_int8(tensor: Tensor) -> Tensor:
    if tensor.dtype != "float32":
        return tensor
    data = None if tensor.data is None else np.zeros(tensor.shape, np.int8)
    return replace(tensor, dtype="int8", quant=Quant((0.05,), (0,)), data=data)


def _give_weights(tensors: dict[str, Tensor], node: Node) -> None:
    """Scales per channel for a weight, int32 for its bias, as the quantiser would give them."""
    weight = tensors[node.inputs[1]]
    if weight.dtype != "int8" or not weight.is_const:
        return
    axis = _WEIGHTED[node.op]
    channels = weight.shape[axis]
    tensors[weight.name] = replace(weight, quant=Quant((0.05,) * channels, (0,) * channels, axis))
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = tensors[node.inputs[2]]
        quant = Quant((0.05 * 0.05,) * channels, (0,) * channels, 0)
        tensors[bias.name] = replace(bias, dtype="int32", quant=quant, data=np.zeros(bias.shape, np.int32))
