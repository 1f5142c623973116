"""Which bytes each channel of an int8 graph can take, whatever the input: interval arithmetic over the interpreter's integers.

A channel is an index of a tensor's last dimension. An interval holds for every position and every possible input, so a
channel whose interval is one byte is a constant, proven and not observed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sdk.graph import quantmath as qm
from sdk.graph.interpreter import compute
from sdk.graph.ir import Graph, Node, Tensor

LAYERS = ("conv2d", "depthwise_conv2d", "dense")
#: Ops whose output never falls when an input value rises, and which give a larger range the larger their inputs' ranges are.
RISING = frozenset({
    "add", "maximum", "minimum", "relu", "relu6", "relu_n1_to_1", "requantize", "max_pool2d", "avg_pool2d", "mean", "reduce_max", "reshape", "transpose",
    "pad", "slice", "gather", "tile", "concat",
})  # fmt: skip
#: Beyond this ratio of scales a rescaled value could overflow 32 bits and wrap, which is not rising.
LARGEST_RATIO = 2.0**8


@dataclass(frozen=True)
class Ranges:
    """Smallest and largest byte of each channel: `low`, `high` [C] int64."""

    low: np.ndarray
    high: np.ndarray

    @property
    def constant(self) -> np.ndarray:
        """[C] bool: the channel is the byte `low`, always."""
        return self.low == self.high


def channel_ranges(graph: Graph) -> dict[str, Ranges]:
    """The ranges of every int8 activation, by name."""
    found = {name: anything(graph[name]) for name in graph.inputs if is_plain(graph[name])}
    for node in graph.nodes:
        for name in node.outputs:
            if is_plain(graph[name]):
                found[name] = _of_node(graph, node, found)
    return found


def is_plain(tensor: Tensor) -> bool:
    """An int8 activation with one scale, at least one dimension, and no state."""
    return tensor.dtype == "int8" and tensor.data is None and not tensor.variable and tensor.quant is not None and bool(tensor.shape) and tensor.size > 0


def anything(tensor: Tensor) -> Ranges:
    """What holds without knowing where a tensor comes from."""
    return Ranges(*(np.full(tensor.shape[-1], limit, np.int64) for limit in qm.RANGE["int8"]))


def has_constant_weights(graph: Graph, node: Node) -> bool:
    """True for a layer on int8 whose weights and bias are known."""
    return node.op in LAYERS and is_plain(graph[node.inputs[0]]) and all(graph[n].is_const for n in node.inputs[1:] if n)


def is_padded(node: Node) -> bool:
    """True when some window reaches beyond the image, where values are the zero point."""
    return any(map(any, node.attrs.get("padding", ())))


def weights_of(graph: Graph, node: Node) -> np.ndarray:
    """int64 weights without their zero point: conv2d [O, KH * KW, C/groups], dense [O, 1, C], depthwise [KH * KW, C * M]."""
    tensor = graph[node.inputs[1]]
    assert tensor.data is not None and tensor.quant is not None
    weights = tensor.data.astype(np.int64) - (tensor.zero_point if len(tensor.quant.scale) == 1 else 0)
    if node.op == "depthwise_conv2d":
        return weights.reshape(-1, weights.shape[-1])
    return weights.reshape(weights.shape[0], -1, weights.shape[-1])


def _of_node(graph: Graph, node: Node, found: Mapping[str, Ranges]) -> Ranges:
    out = graph[node.outputs[0]]
    if has_constant_weights(graph, node) and node.attrs.get("groups", 1) == 1 and node.inputs[0] in found:
        return _of_layer(graph, node, found[node.inputs[0]])
    known = all(n in found or graph[n].is_const for n in node.inputs if n)
    if node.op in RISING and len(node.outputs) == 1 and known and _cannot_wrap(graph, node):
        ends = [_computed(graph, node, found, end) for end in ("low", "high")]
        axes = tuple(range(len(out.shape) - 1))
        return Ranges(ends[0].min(axis=axes).astype(np.int64), ends[1].max(axis=axes).astype(np.int64))
    return anything(out)


def _cannot_wrap(graph: Graph, node: Node) -> bool:
    scales = [t.quant.scale[0] for n in (*node.inputs, *node.outputs) if n and (t := graph[n]).quant is not None and t.quant.axis is None]
    return max(scales, default=1.0) <= LARGEST_RATIO * min(scales, default=1.0)


def _computed(graph: Graph, node: Node, found: Mapping[str, Ranges], end: str) -> np.ndarray:
    """The node's output when every value of its inputs stands at one end of its range."""
    values = {n: np.broadcast_to(getattr(found[n], end).astype(np.int8), graph[n].shape) for n in node.inputs if n in found}
    return compute(graph, node, values)[0]


def _of_layer(graph: Graph, node: Node, ranges: Ranges) -> Ranges:
    x, out = graph[node.inputs[0]], graph[node.outputs[0]]
    low, high = _sums(graph, node, ranges.low - x.zero_point, ranges.high - x.zero_point)
    limits = qm.output_range(node, out)
    if node.op == "dense":
        scales = np.array(qm.effective_scales(node, graph))
        ends = [qm.scale_once(total, scales) for total in (low, high)]
    else:
        mult, shift = (np.array(v, np.int64) for v in qm.conv_multipliers(node, graph))
        room = np.int64(2**31) >> np.maximum(shift, 0)  # sums this large would wrap when they are shifted left
        ends = [qm.multiply_by_quantized_multiplier(np.clip(total, -room + 1, room - 1), mult, shift) for total in (low, high)]
        wraps = (low <= -room) | (high >= room)
        ends = [np.where(wraps, limit, end) for limit, end in zip((-(2**30), 2**30), ends, strict=True)]
    return Ranges(*(np.clip(end + out.zero_point, *limits) for end in ends))


def _sums(graph: Graph, node: Node, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest accumulator [O] for inputs, less their zero point, in [low, high] [C]."""
    if is_padded(node):
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    weights = weights_of(graph, node)
    up, down = np.maximum(weights, 0), np.minimum(weights, 0)
    if node.op == "depthwise_conv2d":
        low, high = (np.repeat(v, node.attrs["multiplier"]) for v in (low, high))
        ends = (up.sum(0) * low + down.sum(0) * high, up.sum(0) * high + down.sum(0) * low)
    else:
        ends = (up.sum(1) @ low + down.sum(1) @ high, up.sum(1) @ high + down.sum(1) @ low)
    bias = graph[node.inputs[2]].data if len(node.inputs) > 2 and node.inputs[2] else None
    start = 0 if bias is None else bias.astype(np.int64)
    return ends[0] + start, ends[1] + start
