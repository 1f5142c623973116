"""The draft of a training step: its tensors and nodes so far, and what stands for what in the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sdk.graph.ir import Graph, Node, Quant, Tensor
from sdk.graph.ops import OPS
from sdk.planner.training.spec import Training
from sdk.training.mcu.split import Split
from sdk.training.mcu.treat import Treatment, Variable

#: Op of the model -> the op of a step; "_grad" and "_update" are added for the way back.
LAYERS = {"conv2d": "train_conv2d", "depthwise_conv2d": "train_depthwise", "dense": "train_dense"}
#: A 1x1 convolution's window.
PLAIN: dict[str, Any] = {"stride": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0))}


class Draft:
    """A step being written. `value` maps a tensor of the model to the float one that stands for it, `grads` to its gradient so far."""

    def __init__(self, cut: Split, treatments: Sequence[Treatment], variables: Sequence[Variable], training: Training) -> None:
        self.cut, self.model = cut, cut.graph
        self.momentum = training.optimiser == "momentum"
        self.treatments = {t.layer.node.name: t for t in treatments}
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []
        self.value: dict[str, str] = {}
        self.grads: dict[str, str] = {}
        self.masks: dict[str, str] = {}  # node -> its activation's mask
        self.kept: dict[str, str] = {}  # node -> what its update reads of its input
        self.heads: dict[str, Node] = {}  # mean -> the convolution fused with it
        self.logits = ""
        self.live_outputs = {out for node in cut.live for out in node.outputs}
        self._declare_variables(variables)

    def _declare_variables(self, variables: Sequence[Variable]) -> None:
        ints = {f"{t.layer.name}.weight": t.layer.weight.quant for t in self.treatments.values() if t.int8}
        for v in variables:
            data = v.initial if v.initial.any() else None
            origin = v.name if v.learns else None
            self.tensors[v.name] = Tensor(v.name, v.initial.shape, str(v.initial.dtype), ints.get(v.name), data, origin, variable=True)

    def _free(self, name: str) -> str:
        while name in self.tensors:
            name += "_"
        return name

    def emit(self, op: str, stem: str, *inputs: str, outs: Sequence[str] = (), **attrs: Any) -> tuple[str, ...]:
        """Append a node; the names of its outputs. `outs` names them, else they are called after the node."""
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        taken = {node.name for node in self.nodes}
        name = stem
        while name in taken:
            name += "_"
        infer = OPS[op].infer(Node(name, op, inputs, ("?",), attrs), self.tensors)
        names = tuple(self._free(outs[i] if i < len(outs) else f"{stem}.out") for i in range(len(infer)))
        for made, (shape, dtype) in zip(names, infer, strict=True):
            self.tensors[made] = Tensor(made, shape, dtype)
        self.nodes.append(Node(name, op, inputs, names, attrs, self._source(stem)))
        return names

    def _source(self, stem: str) -> str | None:
        return next((node.source for node in self.cut.live if stem.startswith(node.name)), None)

    def constant(self, name: str, data: np.ndarray, quant: Quant | None = None) -> str:
        """A constant of the step, filed once under its name."""
        if name not in self.tensors:
            self.tensors[name] = Tensor(name, data.shape, str(data.dtype), quant, data)
        return name

    def real(self, name: str, reader: str) -> str:
        """The float tensor that stands for the model's `name`. A boundary tensor stays an integer and is converted for each reader,
        which costs less memory than keeping its real numbers."""
        if name in self.value:
            return self.value[name]
        if self.model[name].dtype == "float32":
            return name
        return self.emit("dequantize", f"{reader}.real", name)[0]

    def weight(self, t: Treatment) -> str:
        """The layer's weights: its variable where they learn, else the model's own constant."""
        if t.method in ("exact", "fixed"):
            return f"{t.layer.name}.weight"
        w = t.layer.weight
        self.tensors[w.name] = w
        return w.name

    def bias(self, t: Treatment) -> str:
        """The layer's bias in real numbers: a variable where it learns."""
        if t.trains and t.layer.bias is not None:
            return f"{t.layer.name}.bias"
        return self.constant(f"{t.layer.name}.bias", t.layer.real_bias()) if t.layer.bias is not None else ""

    def basis(self, t: Treatment, flat: bool = False) -> str:
        """U^T as a layer's weight: [K, 1, 1, C], or [K, C] for dense layers and `flat`."""
        assert t.basis is not None
        matrix = np.ascontiguousarray(t.basis.stored.T)
        quant = Quant(t.basis.scale, (0,) * t.basis.rank, 0) if t.basis.scale else None
        if flat or t.layer.node.op == "dense":
            return self.constant(f"{t.layer.name}.basis.flat", matrix, quant)
        return self.constant(f"{t.layer.name}.basis", matrix.reshape(t.basis.rank, 1, 1, -1), quant)

    def graph(self, label: str, loss: str) -> Graph:
        """The finished graph."""
        used = {n for node in self.nodes for n in (*node.inputs, *node.outputs) if n} | set(self.model.inputs) | {label}
        used |= {t.name for t in self.tensors.values() if t.variable}
        tensors = {name: replace(t) for name, t in self.tensors.items() if name in used}
        return Graph(self.model.name, (*self.model.inputs, label), (loss, self.logits), tensors, tuple(self.nodes))

    def waiting(self, forward: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(tensors, masks) that the first `forward` nodes write and later ones read."""
        made = {out for node in self.nodes[:forward] for out in node.outputs}
        read = dict.fromkeys(n for node in self.nodes[forward:] for n in node.inputs if n in made and n != self.logits)
        masks = set(self.masks.values())
        return tuple(n for n in read if n not in masks), tuple(n for n in read if n in masks)


def window(node: Node) -> dict[str, Any]:
    """The window's attributes as the training ops want them; nothing for a dense layer."""
    return {} if node.op == "dense" else {"dilation": (1, 1), **{k: node.attrs[k] for k in PLAIN if k in node.attrs}}
