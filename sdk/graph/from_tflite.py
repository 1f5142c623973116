"""Imports a LiteRT / TensorFlow Lite model: bytes or a path to a `Graph`, checked.

SAME padding becomes numbers, shape arguments become attributes, arithmetic on shapes is folded, float16 and int4 weights are
widened, and int8 weights beside float activations become float32. An op the graph has no name for stays as `opaque`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sdk.errors import ModelError, UsageError
from sdk.graph.ir import ITEMSIZE, Graph, Node, Quant, Tensor
from sdk.graph.ops import OPS
from sdk.graph.quantmath import RANGE
from sdk.graph.tflite_operator import NoEquivalent, Operator
from sdk.graph.tflite_ops import convert
from sdk.graph.tflite_schema import TYPES, Table, open_model, operator_name
from sdk.graph.verify import MAX_VALUES, verify

MAX_RANK = 8
#: Constants computed while importing (shapes, widened weights) hold at most this many values.
MAX_FOLDED_VALUES = 1 << 26


def from_tflite(source: bytes | str | os.PathLike[str]) -> Graph:
    """The model as a graph.

    Raises ModelError for a damaged or unsupported file, UsageError for a path that cannot be read. Example:
    `from_tflite("kws01_dscnn_int8.tflite").inputs`.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), "model"
    else:
        data, name = _read(Path(source)), Path(source).stem
    model = open_model(data)
    subgraphs = model.tables(2)
    if not subgraphs:
        raise ModelError("the .tflite file holds no graph; export it again")
    graph = _Importer(model, subgraphs[0]).graph(name)
    verify(graph)
    return graph


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}; give the path of a .tflite file") from None


class _Importer:
    """Holds what has been imported so far; used for one file and thrown away."""

    def __init__(self, model: Table, subgraph: Table) -> None:
        self.subgraph = subgraph
        self.codes = [operator_name(code) for code in model.tables(1)]
        self.buffers = model.tables(4)
        self.records = subgraph.tables(0)
        self.names = _unique_names(self.records)
        self.tensors: dict[str, Tensor] = {}
        self.flexible: dict[str, tuple[bool, ...]] = {}  # dimensions the file leaves open
        self.nodes: list[Node] = []
        self.used_names: set[str] = set()
        self.operator: Operator | None = None

    def graph(self, name: str) -> Graph:
        """The whole model."""
        inputs = tuple(self.tensor(i).name for i in self.subgraph.integers(1))
        outputs = tuple(self.tensor(i).name for i in self.subgraph.integers(2))
        for tensor in inputs:
            self._check_input(self.tensors[tensor])
        for index, record in enumerate(self.subgraph.tables(3)):
            self._convert(index, record)
        used = {n for node in self.nodes for n in (*node.inputs, *node.outputs) if n} | set(inputs) | set(outputs)
        return Graph(name, inputs, outputs, {k: t for k, t in self.tensors.items() if k in used}, tuple(self.nodes))

    def _check_input(self, tensor: Tensor) -> None:
        open_dims = [i for i, free in enumerate(self.flexible.get(tensor.name, ())) if free and (i > 0 or tensor.shape[i] != 1)]
        if open_dims:
            raise ModelError(f"input {tensor.name} has no fixed size in dimension {open_dims[0]}; export the model with fixed sizes, batch included")

    # ---- tensors ---------------------------------------------------------------------------------------------------

    def tensor(self, index: int) -> Tensor:
        """The tensor of that index, read when first asked for."""
        if not 0 <= index < len(self.records):
            raise ModelError(f"the .tflite file is damaged: it names tensor {index} and has {len(self.records)}; download or export it again")
        name = self.names[index]
        if name not in self.tensors:
            self.tensors[name] = self._read_tensor(name, self.records[index])
        return self.tensors[name]

    def _read_tensor(self, name: str, record: Table) -> Tensor:
        shape, kind = record.integers(0), TYPES.get(record.integer(1, "b"), "unknown")
        signature = record.integers(7)
        if len(signature) == len(shape):
            self.flexible[name] = tuple(d < 0 for d in signature)
        _check_shape(name, shape)
        if record.table(6) is not None:
            raise ModelError(f"tensor {name} is stored sparse; export the model with dense weights")
        quant = _read_quant(name, record.table(4), shape, kind)
        if kind == "uint8" and quant is not None:
            raise ModelError(f"tensor {name} is quantised to uint8, the old scheme; quantise the model to int8 (full integer quantisation)")
        variable = record.flag(5)
        data = self._data(name, record, shape, kind)
        dtype = {"float16": "float32", "int4": "int8"}.get(kind, kind)
        if dtype not in ITEMSIZE or (kind in ("float16", "int4") and data is None):
            raise ModelError(f"tensor {name} has data type {kind}; known are {', '.join(ITEMSIZE)}, and float16 and int4 for weights")
        return Tensor(name, shape, dtype, quant, data, origin=name if data is not None else None, variable=variable)

    def _data(self, name: str, record: Table, shape: tuple[int, ...], kind: str) -> np.ndarray | None:
        """The constant's values, as a view of the file where its type allows; None when it has none."""
        raw, size = self._buffer(record), int(np.prod(shape, dtype=np.int64))
        if raw is None:
            return np.zeros(shape, kind) if size == 0 and kind in ITEMSIZE else None
        if kind == "int4":
            _check_length(name, len(raw), (size + 1) // 2)
            return _unpack_int4(raw, size).reshape(shape)
        if kind not in ITEMSIZE and kind != "float16":
            return None
        _check_length(name, len(raw), size * np.dtype(kind).itemsize)
        values = np.require(raw.view(np.dtype(kind).newbyteorder("<")), requirements="A").astype(kind, copy=False).reshape(shape)
        return values.astype(np.float32) if kind == "float16" else values

    def _buffer(self, record: Table) -> np.ndarray | None:
        index = record.integer(2, "I")
        if record.integer(10, "I"):
            raise ModelError("the .tflite file keeps its weights in another file; export it as a single file")
        if index >= len(self.buffers):
            raise ModelError(f"the .tflite file is damaged: it names buffer {index} and has {len(self.buffers)}; download or export it again")
        buffer = self.buffers[index]
        start, size = buffer.integer(1, "Q"), buffer.integer(2, "Q")
        if start > 1 and size:  # large models keep data behind the tables
            if start + size > len(buffer.source.data):
                raise ModelError(f"the .tflite file is cut off: buffer {index} ends at byte {start + size} of {len(buffer.source.data)}")
            return np.frombuffer(buffer.source.data, np.uint8, size, start)
        data = buffer.array(0, "uint8")
        return data if data is not None and len(data) else None

    # ---- nodes -----------------------------------------------------------------------------------------------------

    def _convert(self, index: int, record: Table) -> None:
        code = record.integer(0, "I")
        if code >= len(self.codes):
            raise ModelError(f"the .tflite file is damaged: operator {index} names code {code} of {len(self.codes)}; download or export it again")
        inputs = tuple(self.tensor(i).name if i >= 0 else "" for i in record.integers(1))
        outputs = tuple(self.tensor(i).name for i in record.integers(2))
        self.operator = Operator(index, self.codes[code], inputs, outputs, record.table(4))
        try:
            convert(self, self.operator)
        except NoEquivalent:
            kept = tuple(n for n in inputs if n)
            self._add(Node(self._node_name("opaque"), "opaque", kept, outputs, {"kind": self.operator.kind}, self._source()))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor by name."""
        return self.tensors[name].shape

    def constant(self, name: str) -> np.ndarray | None:
        """Value of a constant; None when it is computed or absent."""
        tensor = self.tensors.get(name)
        return tensor.data if tensor is not None and tensor.is_const else None

    def set_constant(self, name: str, value: np.ndarray) -> None:
        """Gives a tensor its value: what would have computed it is not needed."""
        self.tensors[name] = replace(self.tensors[name], shape=value.shape, dtype=str(value.dtype), data=value)

    def temporary(self, base: str, shape: tuple[int, ...], like: str, **changes: Any) -> str:
        """A new tensor of the type and scale of `like`."""
        name = base
        while name in self.tensors or name in self.names:
            name += "_"
        self.tensors[name] = replace(self.tensors[like], name=name, shape=shape, data=None, origin=None, **changes)
        return name

    def emit(self, op: str, inputs: tuple[str, ...], output: str, **attrs: Any) -> None:
        """Adds a node, or computes it now when it only does arithmetic on shapes."""
        node = Node(self._node_name(op), op, inputs, (output,), attrs, self._source())
        ((shape, dtype),) = OPS[op].infer(node, self.tensors)
        self._settle(node, output, shape, dtype)
        if self._foldable(node, op, shape, dtype):
            (value,) = OPS[op].compute(node, self.tensors, {})
            self.set_constant(output, value)
        else:
            self._add(node)

    def _settle(self, node: Node, output: str, shape: tuple[int, ...], dtype: str) -> None:
        """The output's declaration must agree with what the op computes, but for dimensions the file leaves open."""
        tensor, free = self.tensors[output], self.flexible.get(output, ())
        agree = len(shape) == len(tensor.shape) and all(
            a == b or (i < len(free) and free[i]) for i, (a, b) in enumerate(zip(shape, tensor.shape, strict=True)))  # fmt: skip
        if not agree or dtype != tensor.dtype:
            raise ModelError(
                f"{node.source} computes {dtype}{list(shape)} and its output {output} is declared {tensor.dtype}{list(tensor.shape)}; export the model again")
        _check_shape(output, shape)
        self.tensors[output] = replace(tensor, shape=shape)

    def _foldable(self, node: Node, op: str, shape: tuple[int, ...], dtype: str) -> bool:
        if any(self.constant(n) is None for n in node.inputs) or int(np.prod(shape, dtype=np.int64)) > MAX_FOLDED_VALUES:
            return False
        return dtype in ("int32", "int64") or op == "dequantize"

    def _add(self, node: Node) -> None:
        self.used_names.add(node.name)
        self.nodes.append(node)

    def _node_name(self, op: str) -> str:
        assert self.operator is not None
        name = f"{op}_{self.operator.index}"
        while name in self.used_names:
            name += "_"
        return name

    def _source(self) -> str:
        assert self.operator is not None
        return f"operator {self.operator.index} ({self.operator.kind})"


def _unique_names(records: list[Table]) -> list[str]:
    """Names from the file; empty ones are numbered, repeated ones get their index."""
    names, seen = [], set()
    for index, record in enumerate(records):
        name = record.text(3) or f"tensor_{index}"
        while name in seen:
            name = f"{name}_{index}"
        seen.add(name)
        names.append(name)
    return names


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    size = 1
    for d in shape:
        size *= max(d, 1)  # a 0 must not hide a huge dimension beside it
    if len(shape) > MAX_RANK or size > MAX_VALUES or any(d < 0 for d in shape):
        raise ModelError(f"tensor {name} has shape {list(shape)[: MAX_RANK + 1]}; a tensor has at most {MAX_RANK} fixed dimensions and 2**31 values")


def _check_length(name: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise ModelError(f"constant {name} takes {wanted} bytes and the .tflite file holds {found}; download or export it again")


def _unpack_int4(raw: np.ndarray, size: int) -> np.ndarray:
    """Two signed numbers a byte, the low half first."""
    both = np.stack([raw << 4, raw & 0xF0], axis=1).astype(np.uint8).view(np.int8) >> 4
    return both.reshape(-1)[:size]


def _read_quant(name: str, table: Table | None, shape: tuple[int, ...], kind: str) -> Quant | None:
    """The tensor's quantisation; None for floats and for integers that stand for themselves."""
    if table is None or kind not in ("int8", "int16", "int4", "uint8", "int32", "int64"):
        return None
    scale, zero = table.array(2, "float32"), table.array(3, "int64")
    if scale is None or not len(scale):
        return None
    table.source.spend(len(scale))
    if kind in ("int32", "int64") and not (np.isfinite(scale).all() and (scale > 0).all()):
        return None
    points = [0] * len(scale) if zero is None or not len(zero) else zero.tolist()
    points = points * len(scale) if len(points) == 1 else points
    low, high = RANGE.get(kind, RANGE["int32"])
    if kind != "uint8" and not all(low <= z <= high for z in points):
        raise ModelError(f"tensor {name} is {kind} and has a zero point outside {low}..{high}; quantise the model again")
    axis = table.integer(6, "i") if len(scale) > 1 else None
    if axis is not None and not 0 <= axis < len(shape):
        raise ModelError(f"tensor {name} has scales along dimension {axis} of {len(shape)}; export the model again")
    return Quant(tuple(scale.tolist()), tuple(points), axis)

