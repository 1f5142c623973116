"""The C of one model: constants, parameter structs and the table of steps, from a plan.

The text is a pure function of the plan, so the same plan gives the same bytes. Floats are written as hexadecimal C99
literals: the compiler reads back exactly the float32 that the host computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.errors import UnsupportedOp
from sdk.graph.ir import Graph, Tensor
from sdk.graph.ops import written
from sdk.kernels.base import Call, Ref

if TYPE_CHECKING:
    from sdk.planner.mcu_training import TrainingUse

#: numpy type of a constant -> its C type.
C_TYPES: Mapping[str, str] = {
    "int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "uint16": "uint16_t", "int32": "int32_t", "uint32": "uint32_t",
    "int64": "int64_t", "float32": "float", "bool": "uint8_t",
}  # fmt: skip
DTYPES: Mapping[str, str] = {
    "float32": "EMBARQ_FLOAT32", "int8": "EMBARQ_INT8", "uint8": "EMBARQ_UINT8", "int16": "EMBARQ_INT16", "int32": "EMBARQ_INT32",
    "int64": "EMBARQ_INT64", "bool": "EMBARQ_BOOL",
}  # fmt: skip
MAX_RANK = 6  # EMBARQ_RANK in embarq.h

#: (region index, byte offset) of a buffer: a tensor's name, or a step's scratch.
Place = Callable[[str], tuple[int, int]]
#: (name, constant) -> the C that defines it, or declares it where it is defined elsewhere.
WriteArray = Callable[[str, np.ndarray], str]


def identifier(name: str) -> str:
    """`name` as a C identifier: `kws-01.int8` -> `kws_01_int8`."""
    text = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_").lower() or "model"
    return f"m_{text}" if text[0].isdigit() else text


def model_header(name: str, graph: Graph, arena_bytes: Sequence[int], learns: TrainingUse | None = None) -> str:
    """`<name>.h`: sizes known before anything is linked, and the one symbol of the model; a second one where it learns."""
    ident, upper = identifier(name), identifier(name).upper()
    lines = [f"/* Made by embarq; the model {_comment(name)}. */", f"#ifndef {upper}_MODEL_H", f"#define {upper}_MODEL_H", ""]
    lines += ['#include "embarq_training.h"' if learns else '#include "embarq.h"', ""]
    lines += [f"#define {upper}_ARENA_{r}_BYTES {size}u" for r, size in enumerate(arena_bytes)]
    inputs, outputs = (graph.inputs[:1], (learns.logits,)) if learns else (graph.inputs, graph.outputs)
    for kind, names in (("INPUT", inputs), ("OUTPUT", outputs)):
        lines += [f"#define {upper}_{kind}_{i}_BYTES {graph[n].size_bytes}u" for i, n in enumerate(names)]
    lines += ["", f"extern const embarq_model {ident}_model;"]
    lines += [f"extern const embarq_training {ident}_training;"] if learns else []
    lines += ["", "#endif", ""]
    return "\n".join(lines)


def model_source(name: str, graph: Graph, calls: Sequence[Call], place: Place, scratch: Place, arena_bytes: Sequence[int], plan_id: bytes,
                 array: WriteArray | None = None, learns: TrainingUse | None = None) -> str:  # fmt: skip
    """`<name>.c`: everything constant of one model. `plan_id` is 32 bytes; `array` writes the kernels' constants (default: as C text).

    learns: `graph` is a training step; the model is its first steps, and the step stands behind it.
    """
    ident = identifier(name)
    parts = [f"/* Made by embarq; the model {_comment(name)}. */\n", f'#include "{ident}.h"\n#include "embarq_kernels.h"\n']
    writer = _Writer(graph, place, scratch, array or written_array)
    for index, call in enumerate(calls):
        parts.append(f"\n/* {index}: {_comment(call.node)} */")
        parts += writer.step(index, call)
    parts.append(_steps_table(graph, calls, place))
    inputs, outputs, count = (graph.inputs[:1], (learns.logits,), learns.forward_steps) if learns else (graph.inputs, graph.outputs, len(calls))
    parts.append(tensor_table("inputs", graph, inputs, place))
    parts.append(tensor_table("outputs", graph, outputs, place))
    parts.append(written_array("plan_id", np.frombuffer(plan_id, np.uint8)))
    parts.append(model_struct(f"const embarq_model {ident}_model", name, "", (len(inputs), len(outputs), count), arena_bytes))
    if learns:
        from sdk.backends.firmware.learning import training_tables

        parts += training_tables(ident, name, graph, learns, place, len(calls), arena_bytes)
    return "\n".join(parts) + "\n"


class _Writer:
    """Writes the constants and the parameter struct of each step; equal constants are written once."""

    def __init__(self, graph: Graph, place: Place, scratch: Place, array: WriteArray) -> None:
        self.graph, self.place, self.scratch, self.array = graph, place, scratch, array
        self.seen: dict[tuple[str, bytes], str] = {}

    def step(self, index: int, call: Call) -> list[str]:
        """C lines of step `index`."""
        names, lines = {}, []
        for key, array in call.constants.items():
            content = np.ascontiguousarray(array)
            digest = (str(content.dtype), content.tobytes())
            if digest not in self.seen:
                self.seen[digest] = f"c{index}_{identifier(key)}"
                lines.append(self.array(self.seen[digest], content))
            names[key] = self.seen[digest]
        fields = ",\n".join(f"    .{field} = {self._value(call, value, names)}" for field, value in call.fields)
        lines.append(f"static const {call.struct} p{index} = {{\n{fields}\n}};")
        return lines

    def _value(self, call: Call, value: Any, constants: Mapping[str, str]) -> str:
        match value:
            case Ref("tensor", name):
                return c_ref(self.place(name))
            case Ref("scratch", _):
                return c_ref(self.scratch(call.node)) if call.scratch_bytes else "0"
            case Ref("const", name):
                return constants[name] if name else "0"
            case tuple() | list():
                return "{" + ", ".join(self._value(call, v, constants) for v in value) + "}"
            case bool() | int() | np.integer():
                return _integer(int(value))
            case float() | np.floating():
                return _float(float(value))
        raise TypeError(f"{call.node}: {value!r} cannot be written as C")


def _integer(value: int) -> str:
    if value == -(2**31):
        return "(-2147483647 - 1)"
    return f"{value}u" if value >= 2**31 else str(value)


def _float(value: float) -> str:
    if not np.isfinite(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return f"{float(np.float32(value)).hex()}f"


def c_ref(where: tuple[int, int]) -> str:
    """An `embarq_ref` as C text."""
    return f"EMBARQ_REF({where[0]}, {where[1]})"


def _comment(text: str) -> str:
    """Text that cannot end the comment it stands in, in plain ASCII."""
    return text.encode("ascii", "replace").decode().replace("*/", "* /").replace("\n", " ").replace("\\", "/")


def c_string(text: str) -> str:
    """A C string literal of any name, cut to a length every compiler takes."""
    return '"' + re.sub(r"[^ !#-\[\]-~]", "_", text)[:63].replace("?", "_") + '"'


def written_array(name: str, array: np.ndarray) -> str:
    """A constant array, word aligned because kernels read it by words."""
    flat = array.reshape(-1)
    kind = C_TYPES[str(flat.dtype)]
    body = ",\n    ".join(_rows(flat)) if flat.size else "0"
    return f"static const {kind} {name}[{max(flat.size, 1)}] __attribute__((aligned(4))) = {{\n    {body}\n}};"


def _rows(flat: np.ndarray, width: int = 24) -> Iterable[str]:
    words = [_float(float(v)) for v in flat] if flat.dtype.kind == "f" else _integers(flat)
    for start in range(0, len(words), width):
        yield ",".join(words[start : start + width])


def _integers(flat: np.ndarray) -> list[str]:
    if flat.dtype.itemsize < 4:
        return list(map(str, flat.tolist()))
    if flat.dtype == np.int64:
        return [f"INT64_C({v})" for v in flat.tolist()]
    return [_integer(v) for v in flat.tolist()]


def _steps_table(graph: Graph, calls: Sequence[Call], place: Place) -> str:
    outputs = {node.name: written(node)[0] for node in graph.nodes}
    rows = [
        f"    {{{call.function}, &p{i}, {c_ref(place(outputs[call.node]))}, {graph[outputs[call.node]].size_bytes}u}}"
        for i, call in enumerate(calls)
    ]
    return f"\nstatic const embarq_step steps[{max(len(calls), 1)}] = {{\n" + ",\n".join(rows or ["    {0, 0, 0, 0}"]) + "\n};"


def tensor_table(kind: str, graph: Graph, names: Sequence[str], place: Place) -> str:
    """The C table `kind` of a model's inputs or outputs."""
    rows = ",\n".join(_tensor(graph[name], place) for name in names)
    return f"\nstatic const embarq_tensor {kind}[{len(names)}] = {{\n{rows}\n}};"


def _tensor(tensor: Tensor, place: Place) -> str:
    if len(tensor.shape) > MAX_RANK:
        raise UnsupportedOp(f"{tensor.name} has {len(tensor.shape)} dimensions and firmware takes at most {MAX_RANK}; reshape it in the model")
    single = tensor.quant is not None and len(tensor.quant.scale) == 1
    scale, zero_point = (tensor.scale, tensor.zero_point) if single else (0.0, 0)
    shape = ", ".join(map(str, tensor.shape)) or "0"
    return (
        f"    {{{c_string(tensor.name)}, {c_ref(place(tensor.name))}, {tensor.size_bytes}u, {DTYPES[tensor.dtype]}, {len(tensor.shape)}u, "
        f"{{{shape}}}, {_float(scale)}, {zero_point}}}"
    )


def model_struct(declaration: str, name: str, prefix: str, counts: tuple[int, int, int], arena_bytes: Sequence[int]) -> str:
    """An `embarq_model` over the table `steps` and the tables `<prefix>inputs`, `<prefix>outputs`; counts: inputs, outputs, steps."""
    regions = ", ".join(f"{size}u" for size in arena_bytes) or "0"
    inputs, outputs, steps = counts
    return (
        f"\n{declaration} = {{\n    EMBARQ_ABI, {c_string(name)}, plan_id, {{{regions}}},\n"
        f"    {prefix}inputs, {prefix}outputs, steps, {inputs}u, {outputs}u, {steps}u\n}};"
    )
