"""Cross-layer equalisation: channels of one activation brought to like size, without changing what the net computes.

Between a layer with weights and the next, channel `i` may be multiplied by `k_i` on the way out (weight and bias of the
first layer) and divided by it on the way in (weight of the second), as long as what lies between is homogeneous: ReLU,
pooling, zero padding, a mean over pixels. After Nagel et al., "Data-free quantization through weight equalization and
bias correction" (2019), with two differences. Weights here have a scale per output channel, so the first layer's weights
do not mind; what is balanced is the activation's range, as calibration saw it, against the second layer's weights. And a
pair is only changed when the noise predicted from those figures falls.

ReLU6 is not homogeneous: its 6 stays where it is. Behind it, channels are only made larger, and never so that a value
calibration saw, with a margin, would meet the 6; other inputs that do meet it are clipped, as the int8 range clips them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sdk.graph.ir import Graph, Node, Tensor
from sdk.graph.quantmath import dequantise_array
from sdk.passes.calibrate import WEIGHT_AXIS, Stats

_POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_LIMIT = 2.0**10  # the largest factor; beyond it a channel is as good as dead
_RELU6_MARGIN = 1.25
_GAIN = 0.98  # a pair is changed when the predicted noise falls below this share of what it was


@dataclass(frozen=True)
class Pair:
    """A layer, the layers that read its channels, and whether a ReLU6 stands between."""

    first: Node
    seconds: tuple[Node, ...]
    relu6: bool
    between: str  # the tensor the second layers read


def equalise(graph: Graph, stats: Mapping[str, Stats], rounds: int = 2) -> Graph:
    """`graph` with equalised weights; the same function (on everything calibration saw, where a ReLU6 stands between)."""
    data = {t.name: t.data for t in graph.constants() if t.data is not None}
    peak = {name: np.asarray(s.channel_peak, np.float64) for name, s in stats.items()}
    power = {name: np.asarray(s.channel_power, np.float64) for name, s in stats.items()}
    found = pairs(graph)
    for _ in range(rounds):
        for pair in found:
            if pair.between in peak:
                _balance(graph, pair, data, peak, power)
    tensors = {name: _with(t, data[name]) if name in data else t for name, t in graph.tensors.items()}
    return graph.with_nodes(graph.nodes, tensors)


def _with(tensor: Tensor, data: np.ndarray) -> Tensor:
    return tensor if data is tensor.data else replace(tensor, data=data.astype(np.float32))


def equalised_like(graph: Graph, quantised: Graph) -> Graph:
    """The float graph with the factors that `quantised`, made of it, was equalised with; `graph` itself where it was not.

    The factors are read off the weights: each channel of the first layer is `k` times what it was, up to rounding.
    """
    data = {t.name: t.data for t in graph.constants() if t.data is not None}
    nodes = {n.name: n for n in quantised.nodes}
    unused: dict[str, np.ndarray] = {}
    for pair in pairs(graph):
        factor = _factor_of(pair, data, quantised, nodes[pair.first.name])
        if np.abs(np.log(factor)).max() > 0.02:  # below, it is rounding
            _apply(graph, pair, data, unused, unused, factor)
    tensors = {name: _with(t, data[name]) if name in data else t for name, t in graph.tensors.items()}
    return graph.with_nodes(graph.nodes, tensors)


def _factor_of(pair: Pair, data: Mapping[str, np.ndarray], quantised: Graph, node: Node) -> np.ndarray:
    """[C] what the first layer's output channels were multiplied with, by least squares."""
    axis = WEIGHT_AXIS[pair.first.op]
    weight = quantised[node.inputs[1]]
    rows = np.moveaxis(data[pair.first.inputs[1]].astype(np.float64), axis, 0).reshape(weight.shape[axis], -1)
    if weight.data is None:
        return np.ones(len(rows))
    real = weight.data if weight.quant is None else dequantise_array(weight.data, weight.quant)
    other = np.moveaxis(real.astype(np.float64), axis, 0).reshape(len(rows), -1)
    power, product = (rows * rows).sum(1), (rows * other).sum(1)
    return np.where((power > 0) & (product > 0), product / np.where(power > 0, power, 1), 1.0)


def pairs(graph: Graph) -> list[Pair]:
    """Every place where channels may be rescaled."""
    consumers, found = graph.consumers, []
    for node in graph.nodes:
        if node.op in WEIGHT_AXIS and _own_constants(graph, consumers, node):
            pair = _follow(graph, consumers, node)
            if pair is not None:
                found.append(pair)
    return found


def _own_constants(graph: Graph, consumers: Mapping[str, tuple[Node, ...]], node: Node) -> bool:
    """True when the layer's weight and bias are constants that no other node reads."""
    return all(graph[n].is_const and len(consumers[n]) == 1 for n in node.inputs[1:] if n)


def _follow(graph: Graph, consumers: Mapping[str, tuple[Node, ...]], first: Node) -> Pair | None:
    """From `first` through homogeneous ops to layers with weights; None when anything else reads the channels."""
    activation = first.attrs.get("activation", "none")
    if activation not in ("none", "relu", "relu6"):
        return None
    name, relu6, width = first.outputs[0], activation == "relu6", graph[first.outputs[0]].shape[-1]
    while True:
        readers = consumers[name]
        if name in graph.outputs or not readers:
            return None
        if all(_takes(graph, consumers, r, name, width) for r in readers):
            return Pair(first, readers, relu6, name)
        if len(readers) != 1 or not _passes(graph, readers[0], width):
            return None
        relu6 |= readers[0].op == "relu6" or readers[0].attrs.get("activation") == "relu6"
        name = readers[0].outputs[0]


def _takes(graph: Graph, consumers: Mapping[str, tuple[Node, ...]], node: Node, name: str, width: int) -> bool:
    """True when `node` is a layer with its own weight whose input channels are those of tensor `name`."""
    if node.op not in WEIGHT_AXIS or node.inputs[0] != name or node.inputs.count(name) != 1 or node.attrs.get("groups", 1) != 1:
        return False
    weight = graph[node.inputs[1]]
    channels = weight.shape[3] // node.attrs.get("multiplier", 1) if node.op == "depthwise_conv2d" else weight.shape[-1]
    return weight.is_const and len(consumers[weight.name]) == 1 and channels == width


def _passes(graph: Graph, node: Node, width: int) -> bool:
    """True when f(k x) = k f(x) channel by channel, for k > 0, and the channels stay the last dimension."""
    x, out = graph[node.inputs[0]], graph[node.outputs[0]]
    if not x.shape or not out.shape or out.shape[-1] != width or len(node.outputs) != 1:
        return False
    match node.op:
        case "relu" | "relu6" | "leaky_relu":
            return True
        case "max_pool2d" | "avg_pool2d":
            return node.attrs.get("activation", "none") in ("none", "relu", "relu6")
        case "mean":
            return len(x.shape) - 1 not in {a % len(x.shape) for a in node.attrs.get("axes") or range(len(x.shape))}
        case "pad":
            return node.attrs.get("value", 0) == 0 and tuple(node.attrs["paddings"][-1]) == (0, 0)
        case "reshape":
            return x.shape[-1] == width
    return False


def _balance(graph: Graph, pair: Pair, data: dict, peak: dict, power: dict) -> None:
    """Rescale one pair in `data`, `peak` and `power`, when that is predicted to help."""
    weights = [_by_input(node, data[node.inputs[1]]) for node in pair.seconds]
    x_peak, x_power = peak[pair.between], power[pair.between]
    reach = np.max([np.abs(w).max(axis=(1, 2)) for w in weights], axis=0)  # [C] largest weight that reads the channel
    alive = (x_peak > 0) & (reach > 0)
    if not alive.any():
        return
    ceiling = _ceiling(pair, peak, alive)
    want = np.where(alive, np.sqrt(np.where(alive, reach, 1) / np.where(alive, x_peak, 1)), 1.0)
    level = np.where(alive, x_peak.max() / np.where(alive, x_peak, 1), 1.0)
    best, least = np.ones_like(x_peak), _noise(x_peak, x_power, weights, pair, np.ones_like(x_peak)) * _GAIN
    for candidate in [want / np.exp(np.mean(np.log(want[alive])))] + [level**p for p in _POWERS[1:]]:
        factor = np.clip(np.where(alive, candidate, 1.0), 1.0 if pair.relu6 else 1 / _LIMIT, ceiling)
        noise = _noise(x_peak, x_power, weights, pair, factor)
        if noise < least:
            best, least = factor, noise
    _apply(graph, pair, data, peak, power, best)


def _ceiling(pair: Pair, peak: dict, alive: np.ndarray) -> np.ndarray:
    """[C] the largest factor: behind a ReLU6, up to the 6 with a margin."""
    if not pair.relu6:
        return np.full(alive.shape, _LIMIT)
    before = np.maximum(peak[pair.first.outputs[0]], peak[pair.between])  # a mean or pool may have lowered the peak
    return np.clip(6 / (_RELU6_MARGIN * np.where(alive, before, 6.0)), 1.0, _LIMIT)


def _by_input(node: Node, w: np.ndarray) -> np.ndarray:
    """The weight as [C, O, taps]: row i is everything that reads input channel i."""
    match node.op:
        case "depthwise_conv2d":
            multiplier = node.attrs.get("multiplier", 1)  # [1, KH, KW, C*M]
            return w.reshape(-1, w.shape[3] // multiplier, multiplier).transpose(1, 2, 0)
        case "conv2d":
            return w.reshape(w.shape[0], -1, w.shape[3]).transpose(2, 0, 1)
    return w.T[:, :, None]


def _noise(x_peak: np.ndarray, x_power: np.ndarray, weights: list[np.ndarray], pair: Pair, factor: np.ndarray) -> float:
    """Predicted noise power behind the second layers: rounding of the activation, and rounding of their weights."""
    step = float((x_peak * factor).max()) / 255
    total = 0.0
    for node, w in zip(pair.seconds, weights, strict=True):
        scaled = w.astype(np.float64) / factor[:, None, None]  # [C, O, taps]
        total += step**2 / 12 * float((scaled**2).sum())
        if node.op == "depthwise_conv2d":
            continue  # its scale follows the channel: its own rounding noise does not change
        steps = np.abs(scaled).max(axis=(0, 2)) / 127  # [O]
        total += float(steps @ steps) / 12 * float((x_power * factor**2).sum()) * w.shape[2]
    return total


def _apply(graph: Graph, pair: Pair, data: dict, peak: dict, power: dict, factor: np.ndarray) -> None:
    """Multiply the first layer's channels, divide the second layers' inputs, and keep the figures in step."""
    w, bias = pair.first.inputs[1], pair.first.inputs[2] if len(pair.first.inputs) > 2 else ""
    axis = WEIGHT_AXIS[pair.first.op]
    shape = [1] * data[w].ndim
    shape[axis] = -1
    data[w] = (data[w] * factor.reshape(shape)).astype(np.float32)
    if bias:
        data[bias] = (data[bias] * factor).astype(np.float32)
    for node in pair.seconds:
        divisor = np.repeat(factor, node.attrs.get("multiplier", 1)) if node.op == "depthwise_conv2d" else factor
        data[node.inputs[1]] = (data[node.inputs[1]] / divisor).astype(np.float32)
    name = pair.first.outputs[0]
    while True:
        if name in peak:
            peak[name], power[name] = peak[name] * factor, power[name] * factor**2
        if name == pair.between:
            return
        name = graph.consumers[name][0].outputs[0]
