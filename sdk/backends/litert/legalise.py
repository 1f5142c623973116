"""Float ops that LiteRT has no operator for, as several it has: done before a graph is quantised, so that the integers meet
only ops with fast integer kernels. What is small or sensitive (a layer_norm) is named, to be kept in float32.

    graph, floats = legalise(graph)          # quantise(graph, samples, QuantOptions(keep_float=floats))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sdk.backends.litert.layers import same_padding, uncounted_factor
from sdk.graph.ir import Graph, Node, Tensor
from sdk.graph.ops import OPS

_NONE = ((0, 0), (0, 0))


@dataclass
class _Rewriting:
    """The graph being rewritten: tensors and nodes so far, names of nodes to keep in float32."""

    tensors: dict[str, Tensor]
    nodes: list[Node] = field(default_factory=list)
    floats: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def const(self, stem: str, value: Any) -> str:
        """A float32 constant; a name that was given before stands for the same value."""
        data = np.asarray(value, np.float32)
        name = stem
        while name in self.tensors and not self._holds(name, data):
            name += "_"
        self.tensors[name] = Tensor(name, data.shape, "float32", data=data)
        return name

    def _holds(self, name: str, data: np.ndarray) -> bool:
        have = self.tensors[name].data
        return have is not None and have.dtype == data.dtype and np.array_equal(have, data)

    def add(self, old: Node, op: str, inputs: tuple[str, ...], out: str = "", keep: bool = False, **attrs: Any) -> str:
        """A node that stands for part of `old`; it writes `out`, or a new tensor whose name is returned."""
        part = len([n for n in self.nodes if n.name.startswith(f"{old.name}.")])
        target = self._free(out or f"{old.outputs[0]}.{op}{part}", bool(out))
        node = Node(old.name if out else self._free_node(f"{old.name}.{op}{part}"), op, inputs, (target,), attrs, old.source)
        if not out:
            ((shape, dtype),) = OPS[op].infer(node, self.tensors)
            self.tensors[target] = Tensor(target, shape, dtype)
        self.nodes.append(node)
        if keep:
            self.floats.append(node.name)
        return target

    def _free(self, name: str, given: bool) -> str:
        while not given and name in self.tensors:
            name += "_"
        return name

    def _free_node(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def legalise(graph: Graph) -> tuple[Graph, tuple[str, ...]]:
    """(the graph in ops that LiteRT computes with integers, names of the nodes that should stay in float32).

    The last node of each group keeps the old node's name, so that reports compare like with like.
    """
    r = _Rewriting(dict(graph.tensors), taken={n.name for n in graph.nodes})
    for node in graph.nodes:
        rule = RULES.get(node.op)
        if rule is None or graph[node.inputs[0]].dtype != "float32":
            r.nodes.append(node)
        else:
            rule(r, node)
    return graph.with_nodes(r.nodes, r.tensors), tuple(r.floats)


def _silu(r: _Rewriting, node: Node) -> None:
    gate = r.add(node, "sigmoid", node.inputs)
    r.add(node, "mul", (node.inputs[0], gate), node.outputs[0], activation="none")


def _hard_sigmoid(r: _Rewriting, node: Node) -> None:
    gate = r.add(node, "add", (node.inputs[0], r.const("three", 3.0)), activation="relu6")
    r.add(node, "mul", (gate, r.const("sixth", 1 / 6)), node.outputs[0], activation="none")


def _hard_swish(r: _Rewriting, node: Node) -> None:
    """x * relu6(x + 3) / 6. LiteRT has an int8 kernel, but XNNPACK none: each would break the net in two and take longer than its neighbours."""
    gate = r.add(node, "add", (node.inputs[0], r.const("three", 3.0)), activation="relu6")
    share = r.add(node, "mul", (gate, r.const("sixth", 1 / 6)), activation="none")
    r.add(node, "mul", (node.inputs[0], share), node.outputs[0], activation="none")


def _neg(r: _Rewriting, node: Node) -> None:
    r.add(node, "mul", (node.inputs[0], r.const("minus_one", -1.0)), node.outputs[0], activation="none")


def _clip(r: _Rewriting, node: Node) -> None:
    """A clamp that is an activation becomes it; another is a maximum and a minimum."""
    low, high = float(node.attrs["min"]), float(node.attrs["max"])
    known = {(0.0, np.inf): "relu", (0.0, 6.0): "relu6", (-1.0, 1.0): "relu_n1_to_1"}.get((low, high))
    if known:
        r.nodes.append(replace(node, op=known, attrs={}))
        return
    x = node.inputs[0]
    bounds = [(op, name, v) for op, name, v in (("maximum", "min", low), ("minimum", "max", high)) if np.isfinite(v)]
    if not bounds:
        r.nodes.append(node)
        return
    for i, (op, name, value) in enumerate(bounds):
        x = r.add(node, op, (x, r.const(f"{node.name}.{name}", value)), node.outputs[0] if i == len(bounds) - 1 else "", activation="none")


def _layer_norm(r: _Rewriting, node: Node) -> None:
    """Mean, difference, mean square, 1/sqrt: squares of small differences need more than 8 bits, so all of it stays in float32."""
    x, gamma, beta = node.inputs
    last = (len(r.tensors[x].shape) - 1,)
    mean = r.add(node, "mean", (x,), keep=True, axes=last, keep_dims=True)
    offset = r.add(node, "sub", (x, mean), keep=True, activation="none")
    square = r.add(node, "mul", (offset, offset), keep=True, activation="none")
    variance = r.add(node, "mean", (square,), keep=True, axes=last, keep_dims=True)
    safe = r.add(node, "add", (variance, r.const(f"{node.name}.eps", node.attrs["eps"])), keep=True, activation="none")
    inverse = r.add(node, "rsqrt", (safe,), keep=True)
    unit = r.add(node, "mul", (offset, inverse), keep=True, activation="none")
    scaled = r.add(node, "mul", (unit, gamma), keep=True, activation="none")
    r.add(node, "add", (scaled, beta), node.outputs[0], keep=True, activation="none")


def _avg_pool(r: _Rewriting, node: Node) -> None:
    """A border that LiteRT's pools cannot have is written out; where there is none, counting it would only round integers otherwise."""
    attrs = {k: v for k, v in node.attrs.items() if k != "count_include_pad"}
    padding = tuple((int(low), int(high)) for low, high in node.attrs["padding"])
    counted = node.attrs.get("count_include_pad", False) and padding != _NONE
    shape = r.tensors[node.inputs[0]].shape
    if not counted and padding in (_NONE, same_padding(shape[1:3], tuple(attrs["kernel"]), tuple(attrs["stride"]), (1, 1))):
        r.nodes.append(replace(node, attrs=attrs))
        return
    padded = r.add(node, "pad", node.inputs, paddings=((0, 0), *padding, (0, 0)), value=0.0)
    attrs["padding"] = _NONE
    if counted:
        r.add(node, "avg_pool2d", (padded,), node.outputs[0], **attrs)
        return
    mean = r.add(node, "avg_pool2d", (padded,), **{**attrs, "activation": "none"})
    factor = r.const(f"{node.name}.factor", uncounted_factor(shape, node))
    r.add(node, "mul", (mean, factor), node.outputs[0], activation=attrs.get("activation", "none"))


def _softmax(r: _Rewriting, node: Node) -> None:
    """Along the last axis, where integers can."""
    rank = len(r.tensors[node.inputs[0]].shape)
    axis = node.attrs.get("axis", -1) % rank
    if axis == rank - 1:
        r.nodes.append(node)
        return
    order = (*(i for i in range(rank) if i != axis), axis)
    rows = r.add(node, "transpose", node.inputs, perm=order)
    done = r.add(node, node.op, (rows,), **{**node.attrs, "axis": -1})
    r.add(node, "transpose", (done,), node.outputs[0], perm=tuple(order.index(i) for i in range(rank)))


RULES: Mapping[str, Callable[[_Rewriting, Node], None]] = {
    "silu": _silu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _hard_swish,
    "neg": _neg,
    "clip": _clip,
    "layer_norm": _layer_norm,
    "avg_pool2d": _avg_pool,
    "softmax": _softmax,
    "log_softmax": _softmax,
}
