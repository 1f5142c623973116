"""The graph: tensors and nodes, checked when they are made.

A `Graph` is what the planner, the firmware compiler and the reports see. Image tensors are NHWC; an importer that
reads a channel-first model writes the transposes out as nodes, and a pass removes the ones that cancel.
What an op means is in `sdk.graph.ops`; this file knows names, shapes and types only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from sdk.errors import ModelError

#: Data types a tensor may have, and the bytes of one element.
ITEMSIZE: Mapping[str, int] = MappingProxyType(
    {"float32": 4, "int8": 1, "uint8": 1, "int16": 2, "int32": 4, "int64": 8, "bool": 1}
)


@dataclass(frozen=True)
class Quant:
    """Affine quantisation, `real = scale * (q - zero_point)`, in LiteRT's rules.

    One pair for the whole tensor (`axis is None`), or one per index of dimension `axis` (weights: zero points all 0).
    Scales are float32 values.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None

    def __post_init__(self) -> None:
        scale = tuple(float(np.float32(s)) for s in self.scale)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero_point", tuple(int(z) for z in self.zero_point))
        if len(self.scale) != len(self.zero_point) or not self.scale:
            raise ModelError(f"quantisation has {len(self.scale)} scales and {len(self.zero_point)} zero points; they must be as many, and at least one")
        if self.axis is None and len(self.scale) != 1:
            raise ModelError(f"quantisation has {len(self.scale)} scales but no axis; give the axis they belong to")
        if not all(np.isfinite(s) and s > 0 for s in self.scale):
            raise ModelError("a quantisation scale is not a positive finite number; quantise the model again")


@dataclass(frozen=True)
class Tensor:
    """A value in the graph. `data` is set on constants only, with exactly `shape` and `dtype`.

    `origin` names the parameter in the source model (`features.0.weight`), so that fine-tuned values find their way back.
    `variable` marks state that outlives one inference (streaming models); it starts as `data`, or zero where that is None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quant: Quant | None = None
    data: np.ndarray | None = field(default=None, repr=False, compare=False)
    origin: str | None = None
    variable: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(d) for d in self.shape))
        if self.dtype not in ITEMSIZE:
            raise ModelError(f"tensor {self.name} has data type {self.dtype!r}; known are {', '.join(ITEMSIZE)}")
        if any(d < 0 for d in self.shape):
            raise ModelError(f"tensor {self.name} has shape {list(self.shape)}; export the model with fixed sizes, batch included")
        if self.data is not None and (self.data.shape != self.shape or str(self.data.dtype) != self.dtype):
            raise ModelError(f"constant {self.name} is declared {self.dtype}{list(self.shape)} but holds {self.data.dtype}{list(self.data.shape)}")
        if self.quant is not None and self.quant.axis is not None:
            axis = self.quant.axis
            if not 0 <= axis < len(self.shape) or len(self.quant.scale) != self.shape[axis]:
                raise ModelError(f"tensor {self.name} of shape {list(self.shape)} has {len(self.quant.scale)} scales along axis {axis}")

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64)) if self.shape else 1

    @property
    def size_bytes(self) -> int:
        """Bytes the values take."""
        return self.size * ITEMSIZE[self.dtype]

    @property
    def is_const(self) -> bool:
        """True for weights and other values known when the model is compiled."""
        return self.data is not None and not self.variable

    @property
    def scale(self) -> float:
        """The scale of a tensor quantised as a whole."""
        return self._one().scale[0]

    @property
    def zero_point(self) -> int:
        """The zero point of a tensor quantised as a whole."""
        return self._one().zero_point[0]

    def _one(self) -> Quant:
        if self.quant is None or len(self.quant.scale) != 1:
            raise ModelError(f"tensor {self.name} ({self.dtype}) has no single scale and zero point")
        return self.quant


@dataclass(frozen=True)
class Node:
    """One operation. An absent optional input is the empty string; `attrs` holds plain values (numbers, strings, tuples)."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None  # where it stood in the source model: a line of Python, an ONNX node, a .tflite index

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "outputs", tuple(self.outputs))
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    def with_attrs(self, **changes: Any) -> Node:
        """The same node with some attributes replaced."""
        return replace(self, attrs={**self.attrs, **changes})


@dataclass(frozen=True)
class Graph:
    """A model: `nodes` stand in an order that can be executed. Structure is checked here, shapes and types by `sdk.graph.verify`."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "outputs", tuple(self.outputs))
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))
        self._check()

    def _check(self) -> None:
        known = set(self.inputs) | {t.name for t in self.tensors.values() if t.data is not None or t.variable}
        names: set[str] = set()
        for key, tensor in self.tensors.items():
            if key != tensor.name:
                raise ModelError(f"tensor {tensor.name!r} is filed under {key!r}")
        for node in self.nodes:
            if node.name in names:
                raise ModelError(f"two nodes are called {node.name!r}")
            names.add(node.name)
            for name in node.inputs:
                if name and name not in known:
                    raise ModelError(f"node {node.name} ({node.op}) reads {name!r} before anything has written it")
            for name in node.outputs:
                if name not in self.tensors:
                    raise ModelError(f"node {node.name} ({node.op}) writes {name!r}, which is not declared")
                if name in known:
                    raise ModelError(f"node {node.name} ({node.op}) writes {name!r}, which already has a value")
                known.add(name)
        for name in (*self.inputs, *self.outputs):
            if name not in self.tensors or name not in known:
                raise ModelError(f"the model's input or output {name!r} does not exist or has no value")

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def producer(self, name: str) -> Node | None:
        """The node that writes tensor `name`; None for inputs, constants and variables."""
        return self.producers.get(name)

    @property
    def producers(self) -> dict[str, Node]:
        """Tensor name -> the node that writes it."""
        return {out: node for node in self.nodes for out in node.outputs}

    @property
    def consumers(self) -> dict[str, tuple[Node, ...]]:
        """Tensor name -> the nodes that read it, in order."""
        readers: dict[str, list[Node]] = {name: [] for name in self.tensors}
        for node in self.nodes:
            for name in dict.fromkeys(n for n in node.inputs if n):
                readers[name].append(node)
        return {name: tuple(nodes) for name, nodes in readers.items()}

    def constants(self) -> Iterator[Tensor]:
        """Every constant some node reads."""
        used = {n for node in self.nodes for n in node.inputs if n}
        return (t for t in self.tensors.values() if t.is_const and t.name in used)

    def activations(self) -> Iterator[Tensor]:
        """Every tensor that lives in RAM during an inference: inputs and what nodes write."""
        return (t for t in self.tensors.values() if t.data is None and not t.variable)

    def with_nodes(self, nodes: tuple[Node, ...] | list[Node], tensors: Mapping[str, Tensor] | None = None, **changes: Any) -> Graph:
        """A graph with other nodes; tensors that nothing names any more are dropped."""
        pool = dict(self.tensors if tensors is None else tensors)
        inputs, outputs = changes.get("inputs", self.inputs), changes.get("outputs", self.outputs)
        used = {n for node in nodes for n in (*node.inputs, *node.outputs) if n} | set(inputs) | set(outputs)
        return Graph(changes.get("name", self.name), inputs, outputs, {k: v for k, v in pool.items() if k in used}, tuple(nodes))
