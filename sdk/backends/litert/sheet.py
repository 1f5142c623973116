"""What is being written: the file's tensors and operators so far, and what an op's writing may ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sdk.backends.litert.flatfile import Operator, Options
from sdk.errors import UnsupportedOp
from sdk.graph.ir import Graph, Node, Quant, Tensor

#: Lowest operator versions that know the type of the first input: (float32 and plain integers, int8, int16). Low ones load everywhere.
VERSIONS: dict[str, tuple[int, int, int]] = {
    "CONV_2D": (1, 3, 4), "DEPTHWISE_CONV_2D": (2, 3, 5), "FULLY_CONNECTED": (1, 4, 7), "RELU_N1_TO_1": (1, 1, 1), "HARD_SWISH": (1, 1, 1),
    "ELU": (1, 1, 1), "PRELU": (1, 1, 1), "RESHAPE": (1, 1, 1), "CAST": (1, 1, 1), "LEAKY_RELU": (1, 2, 2), "EXP": (1, 2, 2), "LOG": (1, 2, 2),
    "ABS": (1, 2, 2), "RSQRT": (1, 2, 2), "GELU": (1, 2, 2), "SUB": (1, 2, 5), "MUL": (1, 2, 4), "MAXIMUM": (1, 2, 4), "MINIMUM": (1, 2, 4),
    "SLICE": (1, 2, 4), "STRIDED_SLICE": (1, 2, 4), "GATHER": (1, 2, 4), "TRANSPOSE": (1, 2, 2), "TILE": (1, 2, 2), "QUANTIZE": (1, 2, 2),
    "SQUARED_DIFFERENCE": (1, 2, 2), "DIV": (1, 2, 2), "SQRT": (1, 2, 2), "ARG_MAX": (1, 2, 2),
}  # fmt: skip
#: Operators whose kernels take more than four dimensions from this version on.
MANY_DIMENSIONS = {
    "ADD": 4, "SUB": 5, "MUL": 4, "DIV": 2, "MAXIMUM": 3, "MINIMUM": 3, "SQUARED_DIFFERENCE": 2, "PAD": 4, "PADV2": 4, "SLICE": 5, "STRIDED_SLICE": 4,
    "TRANSPOSE": 4,
}  # fmt: skip
ACTIVATIONS = {"none": 0, "relu": 1, "relu_n1_to_1": 2, "relu6": 3}
_ACTIVATION_OPS = {"relu": "RELU", "relu6": "RELU6", "relu_n1_to_1": "RELU_N1_TO_1"}


class Sheet:
    """Holds the file while it grows; used for one graph and thrown away."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.tensors: dict[str, Tensor] = dict(graph.tensors)
        self.operators: list[Operator] = []
        self._known: dict[tuple[Any, ...], str] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def free(self, stem: str) -> str:
        """`stem`, or `stem_` and so on where a tensor has that name."""
        while stem in self.tensors:
            stem += "_"
        return stem

    def temp(self, stem: str, shape: Sequence[int], dtype: str, quant: Quant | None = None) -> str:
        """A new tensor between two operators."""
        name = self.free(stem)
        self.tensors[name] = Tensor(name, tuple(shape), dtype, quant)
        return name

    def like(self, stem: str, name: str, shape: Sequence[int] | None = None) -> str:
        """A new tensor of the type and quantisation of tensor `name`."""
        tensor = self[name]
        return self.temp(stem, tensor.shape if shape is None else shape, tensor.dtype, tensor.quant)

    def const(self, stem: str, values: Any, dtype: str = "int32", quant: Quant | None = None) -> str:
        """A constant; the same values are filed once."""
        data = np.ascontiguousarray(np.asarray(values, dtype)).reshape(np.shape(values))
        key = (data.shape, dtype, quant, data.tobytes())
        if key not in self._known:
            self._known[key] = self.free(stem)
            self.tensors[self._known[key]] = Tensor(self._known[key], data.shape, dtype, quant, data)
        return self._known[key]

    def add(self, kind: str, inputs: Sequence[str], output: str, options: Options | None = None, version: int = 0) -> None:
        """Append an operator, in the lowest version that knows its types and dimensions, or in `version` where that is higher."""
        first = self[next(n for n in inputs if n)]
        lowest = VERSIONS.get(kind, (1, 2, 3))[{"int8": 1, "int16": 2}.get(first.dtype, 0)]
        if len(self[output].shape) > 4 or len(first.shape) > 4:
            lowest = max(lowest, MANY_DIMENSIONS.get(kind, 1))
        self.operators.append(Operator(kind, tuple(inputs), (output,), options, max(lowest, version)))

    def apart(self, node: Node) -> str:
        """Where a node's operator without a fused activation writes: its output, or a tensor that `activate` then reads."""
        out = node.outputs[0]
        return out if node.attrs.get("activation", "none") == "none" else self.like(f"{out}.raw", out)

    def activate(self, node: Node, raw: str) -> None:
        """The node's activation as an operator of its own, where there is one."""
        if raw != node.outputs[0]:
            self.add(_ACTIVATION_OPS[node.attrs["activation"]], (raw,), node.outputs[0])

    def refuse(self, node: Node, what: str) -> UnsupportedOp:
        """The error about a node that cannot be written."""
        where = f" ({node.source})" if node.source else ""
        return UnsupportedOp(f"node {node.name}{where}: LiteRT {what}")


def activation(node: Node) -> tuple[str, int]:
    """The field of a fused activation."""
    return "b", ACTIVATIONS[node.attrs.get("activation", "none")]
