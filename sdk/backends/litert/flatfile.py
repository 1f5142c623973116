"""The bytes of a .tflite file from plain records: the counterpart of `sdk.graph.tflite_schema`.

A .tflite is a FlatBuffer. Tables are written as `{slot: (kind, value)}`, the slots being the order of the fields in LiteRT's
published schema; flatbuffers' `Builder` lays them out, so nothing but the package that reading needs is needed for writing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdk.errors import UnsupportedOp
from sdk.graph.ir import Tensor
from sdk.graph.tflite_schema import OPERATORS, TYPES

#: One table: slot -> (kind, value). Kinds: struct letters for numbers, text, table, tables, and vectors of numpy types.
Fields = Mapping[int, tuple[str, Any]]

TYPE_CODES: Mapping[str, int] = {name: number for number, name in TYPES.items()}
OPERATOR_CODES: Mapping[str, int] = {name: number for number, name in OPERATORS.items()}
#: A FlatBuffer's offsets have 31 bits; what tables take beside the weights stays below a sixteenth of them.
LARGEST_BYTES = (1 << 31) - (1 << 27)
_SCALARS = {"b": "Int8", "B": "Uint8", "?": "Bool", "i": "Int32", "I": "Uint32", "f": "Float32"}
_PLACEHOLDER = 127


@dataclass(frozen=True)
class Options:
    """An operator's options: the number of their table in the union `BuiltinOptions`, and the fields."""

    union: int
    fields: Fields = field(default_factory=dict)


@dataclass(frozen=True)
class Operator:
    """One operator of the file. An absent input is the empty string."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Options | None = None
    version: int = 1


def encode(tensors: Sequence[Tensor], operators: Sequence[Operator], inputs: Sequence[str], outputs: Sequence[str], name: str) -> bytes:
    """The file. Raises UnsupportedOp when the weights do not fit a FlatBuffer."""
    size = weights_bytes(tensors, name)
    index = {t.name: i for i, t in enumerate(tensors)}
    codes = list(dict.fromkeys((o.kind, o.version) for o in operators))
    buffers: list[Fields] = [{}]
    records = [_tensor(t, buffers) for t in tensors]
    graph: Fields = {
        0: ("tables", records), 1: ("int32", [index[n] for n in inputs]), 2: ("int32", [index[n] for n in outputs]),
        3: ("tables", [_operator(o, codes, index) for o in operators]), 4: ("text", "main"),
    }  # fmt: skip
    model: Fields = {
        0: ("I", 3), 1: ("tables", [_code(*c) for c in codes]), 2: ("tables", [graph]), 3: ("text", name), 4: ("tables", buffers),
        7: ("tables", [_signature(inputs, outputs, index)]),
    }  # fmt: skip
    return _bytes(model, size)


def weights_bytes(tensors: Iterable[Tensor], name: str) -> int:
    """Bytes of all constants. Raises UnsupportedOp when they do not fit a FlatBuffer."""
    size = sum(t.size_bytes for t in tensors if t.data is not None)
    if size > LARGEST_BYTES:
        raise UnsupportedOp(f"the weights of {name} take {size:,} bytes and a .tflite file holds {LARGEST_BYTES:,}; choose int8, or the engine onnx")
    return size


def _tensor(tensor: Tensor, buffers: list[Fields]) -> Fields:
    """The tensor's record; its values, if any, are filed in `buffers`. Buffer 0 is empty and stands for none."""
    fields: dict[int, tuple[str, Any]] = {
        0: ("int32", tensor.shape), 1: ("b", TYPE_CODES[tensor.dtype]), 3: ("text", tensor.name), 5: ("?", tensor.variable), 8: ("?", True),
    }  # fmt: skip
    if tensor.data is not None and not tensor.variable:
        fields[2] = ("I", len(buffers))
        buffers.append({0: ("aligned", np.ascontiguousarray(tensor.data).tobytes())})
    if tensor.quant is not None:
        quant = tensor.quant
        fields[4] = ("table", {2: ("float32", quant.scale), 3: ("int64", quant.zero_point), 6: ("i", quant.axis or 0)})
    return fields


def _code(kind: str, version: int) -> Fields:
    number = OPERATOR_CODES[kind]
    return {0: ("b", min(number, _PLACEHOLDER)), 2: ("i", version), 3: ("i", number)}


def _operator(operator: Operator, codes: Sequence[tuple[str, int]], index: Mapping[str, int]) -> Fields:
    fields: dict[int, tuple[str, Any]] = {
        0: ("I", codes.index((operator.kind, operator.version))), 1: ("int32", [index[n] if n else -1 for n in operator.inputs]),
        2: ("int32", [index[n] for n in operator.outputs]),
    }  # fmt: skip
    if operator.options is not None:
        fields |= {3: ("B", operator.options.union), 4: ("table", operator.options.fields)}
    return fields


def _signature(inputs: Sequence[str], outputs: Sequence[str], index: Mapping[str, int]) -> Fields:
    """`serving_default`, so that runners which ask by name find every input and output under its own."""
    maps = [("tables", [{0: ("text", n), 1: ("I", index[n])} for n in dict.fromkeys(names)]) for names in (inputs, outputs)]
    return {0: maps[0], 1: maps[1], 2: ("text", "serving_default"), 4: ("I", 0)}


def _bytes(model: Fields, size: int) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(size + (1 << 16))  # room for everything at once: growing would copy the weights
    builder.Finish(_table(builder, model), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _table(builder: Any, fields: Fields) -> int:
    """Children first, as FlatBuffers wants it; returns the table's place."""
    ready = {slot: _child(builder, kind, value) if kind not in _SCALARS else value for slot, (kind, value) in fields.items()}
    builder.StartObject(max(fields, default=-1) + 1)
    for slot, (kind, _) in fields.items():
        if kind in _SCALARS:
            getattr(builder, f"Prepend{_SCALARS[kind]}Slot")(slot, ready[slot], None)  # None: written even where it is the default
        else:
            builder.PrependUOffsetTRelativeSlot(slot, ready[slot], 0)
    return builder.EndObject()


def _child(builder: Any, kind: str, value: Any) -> int:
    match kind:
        case "text":
            return builder.CreateString(value)
        case "table":
            return _table(builder, value)
        case "tables":
            places = [_table(builder, v) for v in value]
            builder.StartVector(4, len(places), 4)
            for place in reversed(places):
                builder.PrependUOffsetTRelative(place)
            return builder.EndVector()
        case "aligned":
            return _raw(builder, value, 1, 16)  # kernels load weights 16 bytes at a time
    data = np.asarray(value, np.dtype(kind).newbyteorder("<"))
    return _raw(builder, data.tobytes(), data.itemsize, data.itemsize)


def _raw(builder: Any, data: bytes, item_bytes: int, alignment: int) -> int:
    """A vector of bytes that are laid out already."""
    builder.StartVector(item_bytes, len(data) // item_bytes, alignment)
    builder.head -= len(data)
    builder.Bytes[builder.head : builder.head + len(data)] = data
    return builder.EndVector()
