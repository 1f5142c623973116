"""Write the integer graph: nodes in their precision, conversions where two precisions meet.

Node names and the names of the tensors they write stay those of the float graph, so that the two can be compared
layer by layer; a converted copy is called `<tensor>.<type>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sdk.errors import ModelError
from sdk.graph.ir import Graph, Node, Quant, Tensor
from sdk.graph.quantmath import quantise_array
from sdk.passes.quant_rules import FLOAT_INPUTS, SAME_SCALE, WEIGHTED
from sdk.passes.quant_weights import quantise_weights
from sdk.passes.ranges import quant_for

Form = tuple[str, Quant | None]  # data type and quantisation; ("float32", None) for real numbers


@dataclass(frozen=True)
class Scheme:
    """What was decided: node -> precision, (tensor, integer type) -> quantisation."""

    precision: Mapping[str, str]
    quants: Mapping[tuple[str, str], Quant]
    float_io: bool = False

    def form(self, tensor: str, dtype: str) -> Form:
        """How `tensor` looks in `dtype`."""
        return (dtype, None) if dtype == "float32" else (dtype, self.quants[tensor, dtype])


def rewrite(graph: Graph, scheme: Scheme) -> Graph:
    """The graph in the precisions of `scheme`."""
    return _Writer(graph, scheme).write()


class _Writer:
    """The graph being written: its tensors and nodes so far, and every form each value already has."""

    def __init__(self, graph: Graph, scheme: Scheme) -> None:
        self.graph, self.scheme = graph, scheme
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []
        self.native: dict[str, Form] = {}
        self.forms: dict[tuple[str, Form], str] = {}
        self.readers = graph.consumers

    def write(self) -> Graph:
        for name in self.graph.inputs:
            quantised = self.graph[name].dtype == "float32" and not self.scheme.float_io
            self._declare(name, self.scheme.form(name, "int8") if quantised else (self.graph[name].dtype, self.graph[name].quant))
        for tensor in self.graph.tensors.values():
            if tensor.variable or (tensor.is_const and tensor.dtype != "float32"):
                self.tensors[tensor.name] = tensor
        for node in self.graph.nodes:
            self._node(node)
        outputs = tuple(self._output(name) for name in self.graph.outputs)
        return self.graph.with_nodes(self.nodes, self.tensors, outputs=outputs)

    def _declare(self, name: str, form: Form) -> None:
        dtype, quant = form
        self.tensors[name] = replace(self.graph[name], dtype=dtype, quant=quant)
        self.native[name] = form
        self.forms[name, form] = name

    def _node(self, node: Node) -> None:
        precision = self.scheme.precision[node.name]
        match precision:
            case "plain" | "float32":
                inputs = tuple(self._real(name) if name else "" for name in node.inputs)
            case _ if node.op in WEIGHTED:
                inputs = self._weighted(node, precision)
            case _:
                inputs = tuple(self._operand(node, i, precision) for i in range(len(node.inputs)))
        for name in node.outputs:
            keeps = precision in ("plain", "float32") or self.graph[name].dtype != "float32"
            self._declare(name, (self.graph[name].dtype, self.graph[name].quant) if keeps else self.scheme.form(name, precision))
        self.nodes.append(replace(node, inputs=inputs))

    def _real(self, name: str) -> str:
        """`name` as the float graph has it."""
        tensor = self.graph[name]
        if tensor.is_const or tensor.variable:
            self.tensors[name] = tensor
            return name
        return self._as(name, (tensor.dtype, tensor.quant))

    def _operand(self, node: Node, index: int, dtype: str) -> str:
        """Input `index` of an integer node without weights."""
        name = node.inputs[index]
        if not name or self.graph[name].dtype != "float32" or index in FLOAT_INPUTS.get(node.op, ()):
            return self._real(name) if name else ""
        source = node.outputs[0] if node.op in SAME_SCALE else name
        if self.graph[name].is_const:
            return self._constant(node, name, dtype, self.scheme.quants[source, dtype] if node.op in SAME_SCALE else None)
        return self._as(name, self.scheme.form(source, dtype))

    def _constant(self, node: Node, name: str, dtype: str, quant: Quant | None) -> str:
        """A constant operand in integers: the output's scale where the op wants one scale, else the constant's own range."""
        tensor = self.graph[name]
        assert tensor.data is not None
        if quant is None:
            quant = quant_for(dtype, float(tensor.data.min(initial=0)), float(tensor.data.max(initial=0)))
        values = quantise_array(tensor.data, quant.scale[0], quant.zero_point[0], dtype)
        return self._add_constant(name, node, replace(tensor, dtype=dtype, quant=quant, data=values))

    def _add_constant(self, name: str, node: Node, tensor: Tensor) -> str:
        """File a constant under its own name, or with the node's name where several nodes read it (each has its own scale)."""
        key = name if len(self.readers[name]) == 1 else f"{name}.{node.name}"
        self.tensors[key] = replace(tensor, name=key)
        return key

    def _weighted(self, node: Node, dtype: str) -> tuple[str, ...]:
        """(x, w, b) of a layer with weights."""
        x = self._as(node.inputs[0], self.scheme.form(node.inputs[0], dtype))
        weight = self.graph[node.inputs[1]]
        bias = self.graph[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else None
        if weight.data is None:
            raise ModelError(f"node {node.name} ({node.op}) computes its weight; keep it in float")
        made = quantise_weights(weight.data, WEIGHTED[node.op], self.tensors[x].scale, None if bias is None else bias.data, dtype)
        w = self._add_constant(weight.name, node, replace(weight, dtype="int8", quant=made.quant, data=made.values))
        if bias is None or made.bias is None:
            return (x, w, "")
        return (x, w, self._add_constant(bias.name, node, replace(bias, dtype=str(made.bias.dtype), quant=made.bias_quant, data=made.bias)))

    def _as(self, name: str, form: Form) -> str:
        """`name` in `form`, converted (once) where its producer wrote another."""
        if (name, form) in self.forms:
            return self.forms[name, form]
        have, (dtype, quant) = self.native[name], form
        op = "quantize" if have[0] == "float32" else "dequantize" if dtype == "float32" else "requantize"
        made = self._free(f"{name}.{dtype}")
        self.tensors[made] = replace(self.graph[name], name=made, dtype=dtype, quant=quant, origin=None)
        self.nodes.append(Node(self._free_node(f"{made}.{op}"), op, (name,), (made,), source=f"conversion of {name}"))
        self.forms[name, form] = made
        return made

    def _free(self, name: str) -> str:
        while name in self.tensors or name in self.graph.tensors:
            name += "_"
        return name

    def _free_node(self, name: str) -> str:
        taken = {n.name for n in (*self.nodes, *self.graph.nodes)}
        while name in taken:
            name += "_"
        return name

    def _output(self, name: str) -> str:
        """The graph's output: real numbers with `float_io`, int8 without; a 16-bit output stays as it is."""
        if self.graph[name].dtype != "float32" or name not in self.native:
            return name
        if self.scheme.float_io:
            return self._as(name, ("float32", None))
        return name if self.native[name][0] == "int16" else self._as(name, self.scheme.form(name, "int8"))


def with_bias(graph: Graph) -> Graph:
    """Every layer with constant weights given a bias (zeros where it had none), so that one can be corrected."""
    tensors, nodes = dict(graph.tensors), []
    for node in graph.nodes:
        if node.op in WEIGHTED and (len(node.inputs) < 3 or not node.inputs[2]):
            name = f"{node.name}.bias"
            while name in tensors:
                name += "_"
            channels = graph[node.inputs[1]].shape[WEIGHTED[node.op]]
            tensors[name] = Tensor(name, (channels,), "float32", data=np.zeros(channels, np.float32))
            node = replace(node, inputs=(*node.inputs[:2], name))
        nodes.append(node)
    return graph.with_nodes(nodes, tensors)


def pool_as_mean(graph: Graph) -> Graph:
    """Average pools over the whole image written as means: a pool's output has its input's scale, a mean's its own.

    Averages of many pixels span a small part of the pixels' range; at the input's scale two or three of the 8 bits are lost.
    """
    attrs = {"axes": (1, 2), "keep_dims": True}
    return graph.with_nodes([replace(node, op="mean", attrs=attrs) if _is_global_pool(graph, node) else node for node in graph.nodes])


def _is_global_pool(graph: Graph, node: Node) -> bool:
    if node.op != "avg_pool2d" or node.attrs.get("activation", "none") != "none":
        return False
    x, out = graph[node.inputs[0]].shape, graph[node.outputs[0]].shape
    return tuple(node.attrs["kernel"]) == x[1:3] and out[1:3] == (1, 1) and not any(map(any, node.attrs["padding"]))
