"""The layers of a planned graph that can learn, by the names their weights have in the source model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdk.errors import UsageError
from sdk.graph.ir import Graph, Node, Tensor
from sdk.planner.training.records import LayerRecord

WEIGHTED = ("conv2d", "depthwise_conv2d", "dense")


@dataclass(frozen=True)
class Layer:
    """A node with weights: `name` as in `LayerRecord`, its node, and its weight and bias tensors (`bias` is None where it has none)."""

    name: str
    node: Node
    weight: Tensor
    bias: Tensor | None

    @property
    def is_depthwise(self) -> bool:
        """True for a depthwise convolution."""
        return self.node.op == "depthwise_conv2d"

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.weight.shape[-1 if self.is_depthwise else 0]

    @property
    def activation(self) -> str:
        """What is fused behind the sums: "none", "relu" or "relu6"."""
        return str(self.node.attrs.get("activation", "none"))

    def real_weight(self) -> np.ndarray:
        """float32, in the graph's layout: OHWI, [1, kh, kw, C] or [O, I]."""
        return real(self.weight)

    def real_bias(self) -> np.ndarray:
        """float32 [O]; zeros where the layer has none."""
        return np.zeros(self.channels, np.float32) if self.bias is None else real(self.bias)


def real(tensor: Tensor) -> np.ndarray:
    """The real values of a constant, float32: `scale * q` in double precision, rounded once."""
    assert tensor.data is not None
    if tensor.quant is None:
        return np.asarray(tensor.data, np.float32)
    shape = [1] * tensor.data.ndim
    if tensor.quant.axis is not None:
        shape[tensor.quant.axis] = -1
    scale, zero = (np.asarray(v, np.float64).reshape(shape) for v in (tensor.quant.scale, tensor.quant.zero_point))
    return ((tensor.data - zero) * scale).astype(np.float32)


def find_layers(graph: Graph) -> tuple[Layer, ...]:
    """Every node with constant weights that a microcontroller can train through, in order."""
    return tuple(_layer(graph, node) for node in graph.nodes if node.op in WEIGHTED and _constant(graph, node))


def _constant(graph: Graph, node: Node) -> bool:
    return graph[node.inputs[1]].is_const and node.attrs.get("groups", 1) == 1 and node.attrs.get("multiplier", 1) == 1


def _layer(graph: Graph, node: Node) -> Layer:
    weight = graph[node.inputs[1]]
    bias = graph[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else None
    return Layer((weight.origin or node.name).removesuffix(".weight"), node, weight, bias)


def by_name(layers: tuple[Layer, ...], name: str) -> Layer:
    """The layer called `name`. Raises UsageError with the names there are."""
    found = next((layer for layer in layers if name in (layer.name, layer.node.name)), None)
    if found is None:
        raise UsageError(f"no layer {name!r} can be trained; there are {', '.join(layer.name for layer in layers)}")
    return found


def trainable_layers(graph: Graph) -> tuple[LayerRecord, ...]:
    """What the planner knows of every layer that can learn: shapes in the source model's order (channels first), without spectra."""
    return tuple(_record(graph, layer) for layer in find_layers(graph))


def _record(graph: Graph, layer: Layer) -> LayerRecord:
    node, shape = layer.node, layer.weight.shape
    x, y = graph[node.inputs[0]].shape, graph[node.outputs[0]].shape
    if node.op == "dense":
        return LayerRecord(layer.name, "linear", x[1:], y[1:], shape, has_bias=layer.bias is not None, activation=_kept(layer))
    (top, bottom), (left, right) = node.attrs["padding"]
    outs, ins = (shape[3], 1) if layer.is_depthwise else (shape[0], shape[3])
    return LayerRecord(
        layer.name, "conv2d", (x[3], x[1], x[2]), (y[3], y[1], y[2]), (outs, ins, shape[1], shape[2]), tuple(node.attrs["stride"]),
        tuple(node.attrs.get("dilation", (1, 1))), (top, bottom, left, right), shape[3] if layer.is_depthwise else 1, layer.bias is not None, _kept(layer),
    )  # fmt: skip


def _kept(layer: Layer) -> str:
    return "" if layer.activation == "none" else layer.activation
