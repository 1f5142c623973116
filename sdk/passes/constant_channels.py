"""Channels that are one constant byte for every possible input, out of the graph.

Training with weight decay leaves layers whose channels saturate at one end of the clamp, or whose weights are all zero. What
such a channel gives to the next layer is one number per output channel: it goes into the bias, and the channel need not be
computed, kept in RAM, or multiplied. Every other byte stays as it was.

A layer (conv2d, dense) joins one set of channels to another; ops in between (depthwise, add, pooling...) tie their input's
channels to their output's. So tensors fall into classes that must keep the same channels, and a channel of a class is live
when a live channel of some reader depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sdk.graph.ir import Graph, Node, Quant, Tensor
from sdk.graph.quantmath import INT32_MAX, INT32_MIN
from sdk.passes.channel_ranges import LAYERS, Ranges, channel_ranges, has_constant_weights, is_padded, is_plain, weights_of

#: Channel i of the output depends on channel i of the inputs, and on nothing else.
TIED = frozenset({
    "add", "sub", "mul", "maximum", "minimum", "relu", "relu6", "relu_n1_to_1", "leaky_relu", "hard_swish", "sigmoid", "tanh", "requantize", "max_pool2d",
    "avg_pool2d",
})  # fmt: skip
#: The fast depthwise kernel takes channels four at a time, and matrices are read four bytes at a time.
GROUP = 4


def remove_constant_channels(graph: Graph) -> Graph:
    """Remove channels of int8 tensors that are provably constant, or that nothing live reads; the constants go into biases."""
    classes = _classes(graph)
    layers = _layers(graph, channel_ranges(graph))
    kept = {name: _kept(live) for name, live in _live(graph, classes, layers).items()}
    if all(channels.all() for channels in kept.values()):
        return graph
    return _Cut(graph, {name: kept[root] for name, root in classes.items()}, layers).result()


def layer_channels(graph: Graph) -> int:
    """Output channels of every convolution and dense layer together: what fell is what `remove_constant_channels` removed."""
    return sum(graph[n.outputs[0]].shape[-1] for n in graph.nodes if n.op in LAYERS)


# ---- what depends on what ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A conv2d or dense whose input channels and output channels are free of one another."""

    node: Node
    reads: np.ndarray  # [O, C] bool: output channel o is multiplied with a value of input channel c that must be there
    folds: np.ndarray  # [C] bool: input channel c is a constant that goes into the bias
    bias: np.ndarray  # [O] int64, with those constants in it


def _layers(graph: Graph, ranges: Mapping[str, Ranges]) -> dict[str, Layer]:
    return {n.name: _layer(graph, n, ranges[n.inputs[0]]) for n in graph.nodes if _is_layer(graph, n)}


def _is_layer(graph: Graph, node: Node) -> bool:
    joins = node.op == "dense" or (node.op == "conv2d" and node.attrs.get("groups", 1) == 1)
    return joins and has_constant_weights(graph, node) and is_plain(graph[node.outputs[0]])


def _layer(graph: Graph, node: Node, ranges: Ranges) -> Layer:
    weights, x = weights_of(graph, node), graph[node.inputs[0]]
    values = ranges.low - x.zero_point
    # At the border a padded layer sees the zero point in place of the channel: only a channel that is the zero point is the same everywhere.
    folds = ranges.constant & (values == 0 if is_padded(node) else True)
    bias = _bias(graph, node, len(weights)) + weights.sum(axis=1) @ np.where(folds, values, 0)
    if bias.min() < INT32_MIN or bias.max() > INT32_MAX:
        folds, bias = np.zeros_like(folds), _bias(graph, node, len(weights))
    return Layer(node, weights.any(axis=1) & ~folds, folds, bias)


def _bias(graph: Graph, node: Node, channels: int) -> np.ndarray:
    data = graph[node.inputs[2]].data if len(node.inputs) > 2 and node.inputs[2] else None
    return np.zeros(channels, np.int64) if data is None else data.astype(np.int64)


def _ties(graph: Graph, node: Node) -> tuple[str, ...]:
    """The activations among the node's inputs whose channels are its output's; empty where that is not so."""
    names = tuple(n for n in node.inputs if n and not graph[n].is_const)
    if len(node.outputs) != 1 or not all(is_plain(graph[n]) for n in (*names, *node.outputs)):
        return ()
    channels, rank = graph[node.outputs[0]].shape[-1], len(graph[node.outputs[0]].shape)
    if any(graph[n].shape[-1] != channels for n in names):
        return ()
    match node.op:
        case "depthwise_conv2d":
            fits = node.attrs["multiplier"] == 1 and has_constant_weights(graph, node)
        case "mean":
            last = len(graph[names[0]].shape) - 1
            fits = node.attrs.get("axes") is not None and all(a not in (last, -1) for a in node.attrs["axes"])
        case "pad" | "reshape":
            fits = True  # as many channels before and after: neither pads nor joins them
        case _:
            constants = [graph[n] for n in node.inputs if n and graph[n].is_const]
            fits = node.op in TIED and all(len(t.shape) <= rank and (t.size == 1 or t.shape[-1] == channels) for t in constants)
    return names if fits else ()


def _classes(graph: Graph) -> dict[str, str]:
    """int8 activation -> the one that stands for its class."""
    parent = {t.name: t.name for t in graph.tensors.values() if is_plain(t)}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for node in graph.nodes:
        for name in _ties(graph, node):
            parent[root(name)] = root(node.outputs[0])
    return {name: root(name) for name in parent}


def _live(graph: Graph, classes: Mapping[str, str], layers: Mapping[str, Layer]) -> dict[str, np.ndarray]:
    """Class -> [C] bool, the channels whose bytes must be right: the smallest answer that holds with every reader."""
    live = {root: np.zeros(graph[root].shape[-1], bool) for root in classes.values()}
    for name in _fixed(graph, layers):
        if name in classes:
            live[classes[name]][:] = True
    ends = [(layer, live[classes[layer.node.inputs[0]]], live[classes[layer.node.outputs[0]]]) for layer in layers.values()]
    before = -1
    while (count := sum(int(c.sum()) for c in live.values())) != before:
        before = count
        for layer, reads, writes in reversed(ends):
            reads |= layer.reads[writes].any(axis=0)
    return live


def _fixed(graph: Graph, layers: Mapping[str, Layer]) -> list[str]:
    """Tensors that must keep every channel: the model's own, and those of ops that mix channels."""
    mixing = [n for n in graph.nodes if n.name not in layers and not _ties(graph, n)]
    return [*graph.inputs, *graph.outputs, *(name for n in mixing for name in (*n.inputs, *n.outputs) if name)]


def _kept(live: np.ndarray) -> np.ndarray:
    """The live channels, filled up to whole groups with others (whose values nobody reads)."""
    kept = live.copy()
    wanted = min(max(GROUP, -(-int(live.sum()) // GROUP) * GROUP), len(live))
    kept[np.flatnonzero(~live)[: wanted - int(live.sum())]] = True
    return kept


# ---- the smaller graph ---------------------------------------------------------------------------------------------


class _Cut:
    """Writes the graph in which each tensor has its kept channels only."""

    def __init__(self, graph: Graph, kept: Mapping[str, np.ndarray], layers: Mapping[str, Layer]) -> None:
        self.graph, self.kept, self.layers = graph, kept, layers
        self.tensors: dict[str, Tensor] = dict(graph.tensors)

    def result(self) -> Graph:
        for name, channels in self.kept.items():
            tensor = self.graph[name]
            self.tensors[name] = replace(tensor, shape=(*tensor.shape[:-1], int(channels.sum())))
        return self.graph.with_nodes([self._node(n) for n in self.graph.nodes], self.tensors)

    def _node(self, node: Node) -> Node:
        touched = [n for n in (*node.inputs, *node.outputs) if n in self.kept and not self.kept[n].all()]
        if not touched:
            return node
        if node.name in self.layers:
            return self._layer(self.layers[node.name])
        channels = self.kept[node.outputs[0]]
        inputs = tuple(self._constant(n, channels) if n and self.graph[n].is_const else n for n in node.inputs)
        attrs = {**node.attrs, "shape": self.tensors[node.outputs[0]].shape} if node.op == "reshape" else node.attrs
        return replace(node, inputs=inputs, attrs=attrs)

    def _constant(self, name: str, channels: np.ndarray) -> str:
        """The kept channels of a weight, bias or operand whose last dimension is the channel."""
        tensor = self.graph[name]
        if tensor.data is None or tensor.size == 1 or tensor.shape[-1] != len(channels):
            return name
        return self._new(tensor, tensor.data[..., channels], _kept_quant(tensor.quant, len(tensor.shape) - 1, channels))

    def _layer(self, layer: Layer) -> Node:
        node, (reads, writes) = layer.node, (self.kept[n] for n in (layer.node.inputs[0], layer.node.outputs[0]))
        weight = self.graph[node.inputs[1]]
        assert weight.data is not None and weight.quant is not None
        nothing = weight.zero_point if len(weight.quant.scale) == 1 else 0
        data = np.where(layer.folds, np.int8(nothing), weight.data)[writes][..., reads]
        weights = self._new(weight, data, _kept_quant(weight.quant, 0, writes))
        return replace(node, inputs=(node.inputs[0], weights, self._new_bias(layer, writes)))

    def _new_bias(self, layer: Layer, channels: np.ndarray) -> str:
        node = layer.node
        x, weight = self.graph[node.inputs[0]], self.graph[node.inputs[1]].quant
        assert weight is not None
        old = self.graph[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else None
        scale = tuple(x.scale * s for s in weight.scale)
        made = Tensor(f"{node.name}.bias", (len(channels),), "int32", Quant(scale, (0,) * len(scale), None if len(scale) == 1 else 0))
        like = old or made
        return self._new(like, layer.bias[channels].astype(np.int32), _kept_quant(like.quant, 0, channels))

    def _new(self, like: Tensor, data: np.ndarray, quant: Quant | None) -> str:
        name, number = f"{like.name}.kept", 0
        while name in self.tensors:
            name = f"{like.name}.kept_{(number := number + 1)}"
        origin = like.origin if data.shape == like.shape else None  # a part of a parameter is not to be written back as the whole
        self.tensors[name] = Tensor(name, data.shape, like.dtype, quant, np.ascontiguousarray(data), origin)
        return name


def _kept_quant(quant: Quant | None, axis: int, channels: np.ndarray) -> Quant | None:
    """Scales of the kept channels, where there is one per channel."""
    if quant is None or quant.axis != axis:
        return quant
    kept = np.flatnonzero(channels)
    return Quant(tuple(quant.scale[i] for i in kept), tuple(quant.zero_point[i] for i in kept), axis)
