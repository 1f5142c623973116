"""Build a graph node by node; shapes and types come from the op table.

    b = Builder("tiny")
    x = b.input("x", (1, 4), "float32")
    y = b.op("dense", x, b.const("w", weights), "")
    graph = b.graph([y])
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sdk.errors import ModelError
from sdk.graph.ir import ITEMSIZE, Graph, Node, Quant, Tensor
from sdk.graph.ops import OPS

#: Ops whose output holds the input's values, and so its quantisation.
MOVES = frozenset({"reshape", "transpose", "pad", "slice", "gather", "tile", "concat", "max_pool2d", "avg_pool2d", "reduce_max"})


class Builder:
    """Collects tensors and nodes; `scope` and `source` are given to the nodes made until they change."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []
        self.inputs: list[str] = []
        self.scope = ""  # stem of the names of the nodes that follow
        self.source: str | None = None
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}
        self._known: dict[tuple[Any, ...] | None, str] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of tensor `name`."""
        return self.tensors[name].shape

    def unique(self, stem: str) -> str:
        """`stem`, or `stem_1`, `stem_2`... when it is taken."""
        stem = stem or "t"
        if stem not in self._taken:
            self._taken.add(stem)
            return stem
        for i in itertools.count(self._counts.get(stem, 0) + 1):
            if (name := f"{stem}_{i}") not in self._taken:
                self._counts[stem] = i
                self._taken.add(name)
                return name
        raise AssertionError  # itertools.count never ends

    def input(self, name: str, shape: Sequence[int], dtype: str, quant: Quant | None = None) -> str:
        """Declare an input of the model."""
        name = self.unique(name)
        self.tensors[name] = Tensor(name, tuple(shape), dtype, quant)
        self.inputs.append(name)
        return name

    def const(self, stem: str, value: Any, origin: str | None = None, quant: Quant | None = None) -> str:
        """A constant; layers that share a weight, by its `origin` and values, share the constant and its place in flash.

        Raises ModelError when it holds NaN or infinity, or has a type the graph does not know.
        """
        data = np.ascontiguousarray(value).reshape(np.shape(value))
        if str(data.dtype) not in ITEMSIZE:
            raise ModelError(f"the constant {origin or stem!r} has data type {data.dtype}; known are {', '.join(ITEMSIZE)}, so convert it first")
        if data.dtype.kind == "f" and not np.isfinite(data).all():
            raise ModelError(f"the weights {origin or stem!r} hold NaN or infinity; train again or load another checkpoint")
        key = (origin, data.shape, str(data.dtype), quant, hashlib.sha256(data.tobytes()).digest()) if origin else None
        if key in self._known:
            return self._known[key]
        name = self.unique(stem)
        if key:
            self._known[key] = name
        self.tensors[name] = Tensor(name, data.shape, str(data.dtype), quant, data, origin)
        return name

    def op(self, op: str, *inputs: str, quant: Quant | None = None, **attrs: Any) -> str:
        """Append one node and return its output. Ops that only move values keep the first input's quantisation."""
        stem = f"{self.scope}.{op}" if self.scope and op in ("transpose", "reshape") else self.scope or op  # the layer itself gets the plain name
        node = Node(self.unique(stem), op, inputs, (self.unique(f"{stem}.out"),), attrs, self.source)
        (shape, dtype), *_ = OPS[op].infer(node, self.tensors)
        if quant is None and op in MOVES:
            quant = self._moved_quant(node)
        return self._append(node, ((shape, dtype if quant is None or dtype != "float32" else "int8"),), quant)[0]

    def opaque(self, kind: str, inputs: Sequence[str], outputs: Sequence[tuple[Sequence[int], str]], **attrs: Any) -> tuple[str, ...]:
        """A node the graph has no name for; `outputs` are (shape, dtype)."""
        stem = self.scope or kind.replace("::", ".").lower()
        names = tuple(self.unique(f"{stem}.out") for _ in outputs)
        node = Node(self.unique(stem), "opaque", tuple(inputs), names, {"kind": kind, **attrs}, self.source)
        return self._append(node, [(tuple(s), d) for s, d in outputs], None)

    def _moved_quant(self, node: Node) -> Quant | None:
        quant = self.tensors[node.inputs[0]].quant
        return quant if quant is None or quant.axis is None else None

    def _append(self, node: Node, outputs: Iterable[tuple[tuple[int, ...], str]], quant: Quant | None) -> tuple[str, ...]:
        for name, (shape, dtype) in zip(node.outputs, outputs, strict=True):
            self.tensors[name] = Tensor(name, shape, dtype, quant)
        self.nodes.append(node)
        return node.outputs

    def graph(self, outputs: Sequence[str], names: Sequence[str] | None = None) -> Graph:
        """The finished graph. `names` renames the outputs where a node writes them and the name is free."""
        renamed = self._renames(outputs, names or outputs)
        tensors = {renamed.get(k, k): replace(t, name=renamed.get(k, k)) for k, t in self.tensors.items()}
        nodes = [replace(n, inputs=_map(n.inputs, renamed), outputs=_map(n.outputs, renamed)) for n in self.nodes]
        return _graph(self.name, self.inputs, _map(outputs, renamed), tensors, nodes)

    def _renames(self, outputs: Sequence[str], names: Sequence[str]) -> dict[str, str]:
        written = {o for n in self.nodes for o in n.outputs}
        renamed: dict[str, str] = {}
        for old, new in zip(outputs, names, strict=True):
            if old in written and old not in renamed and new != old and new not in self.tensors and new not in renamed.values():
                renamed[old] = new
        return renamed


def _map(names: Iterable[str], renamed: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(renamed.get(n, n) for n in names)


def _graph(name: str, inputs: Sequence[str], outputs: Sequence[str], tensors: Mapping[str, Tensor], nodes: Sequence[Node]) -> Graph:
    """A checked graph without the tensors that nothing names."""
    used = {n for node in nodes for n in (*node.inputs, *node.outputs) if n} | set(inputs) | set(outputs)
    return Graph(name, tuple(inputs), tuple(outputs), {k: v for k, v in tensors.items() if k in used}, tuple(nodes))
