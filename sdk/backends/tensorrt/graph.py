"""Small helpers on ONNX graphs: who makes a tensor, who reads it, which tensors are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Wires:
    """A graph's tensors: `maker[name]` is the node that computes it, `readers[name]` those that take it, `stored[name]` a constant."""

    maker: dict[str, Any]
    readers: dict[str, list[Any]]
    stored: dict[str, Any]
    outputs: frozenset[str]

    def made_by(self, name: str) -> str:
        """The op type that computes `name`, "" for an input or a constant."""
        return self.maker[name].op_type if name in self.maker else ""

    def array(self, name: str) -> np.ndarray | None:
        """The constant's values, None for what is computed."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.stored[name]) if name in self.stored else None


def wires(graph: Any) -> Wires:
    """The wires of a GraphProto whose constants are all initialisers."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in filter(None, node.input):
            readers.setdefault(name, []).append(node)
    maker = {name: node for node in graph.node for name in node.output if name}
    return Wires(maker, readers, {i.name: i for i in graph.initializer}, frozenset(o.name for o in graph.output))


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    import onnx

    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def drop(node: Any, *names: str) -> None:
    """Take attributes off a node, in place."""
    kept = [a for a in node.attribute if a.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def label(node: Any) -> str:
    """What a sentence calls a node: `Conv conv1`, or by its output where it has no name."""
    return f"{node.op_type} {node.name or node.output[0]}"


def fresh(taken: set[str], wish: str) -> str:
    """`wish`, or `wish_1`, `wish_2`, ... where it is taken; the answer is taken from then on."""
    name, n = wish, 0
    while name in taken:
        n += 1
        name = f"{wish}_{n}"
    taken.add(name)
    return name


def names_of(graph: Any) -> set[str]:
    """Every name of a tensor or node in a graph."""
    taken = {n.name for n in graph.node} | {i.name for i in graph.initializer} | {i.name for i in graph.input}
    return taken | {t for n in graph.node for t in (*n.input, *n.output)}


def weight_axis(node: Any) -> int | None:
    """The axis of a weighted op's constant operand that counts output channels; None for an op without weights.

    Conv [out, in, ...]: 0; ConvTranspose [in, out, ...]: 1; Gemm [k, n]: 1, transposed [n, k]: 0; MatMul [k, n]: 1.
    """
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose" | "MatMul":
            return 1
        case "Gemm":
            return 0 if attribute(node, "transB", 0) else 1
    return None
