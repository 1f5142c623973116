"""Walk an ONNX model and write the graph: one handler per operator, constants computed on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdk.errors import EmbarqError, ModelError
from sdk.graph.builder import Builder
from sdk.graph.ir import Graph
from sdk.graph.onnx_import.constants import COMPUTE
from sdk.graph.onnx_import.read import DTYPES, Source, decode
from sdk.graph.pieces import MASKED


@dataclass(frozen=True)
class Stored:
    """The integers a constant was stored as: real = scale * (values - zero), `scale` and `zero` [1] or one per output channel.

    Handlers see the real numbers; `qdq` gets the integers back by the constant's origin, whatever layout a handler gave it.
    """

    values: np.ndarray
    scale: np.ndarray  # float32
    zero: np.ndarray  # int64, of the file's own type: 128 is the middle of uint8


@dataclass(frozen=True)
class Const:
    """A value known at import, and where it comes from."""

    value: np.ndarray
    origin: str | None = None


class Unknown(Exception):
    """Raised by a handler that does not know this form of its operator; the node becomes opaque."""


@dataclass(frozen=True)
class Call:
    """One ONNX node: its values by position, its attributes, and what handlers need to write nodes."""

    walk: Walk
    node: Any
    inputs: tuple[Any, ...]  # tensor names, Const, or None
    attrs: Mapping[str, Any]

    @property
    def b(self) -> Builder:
        """Where nodes are written."""
        return self.walk.builder

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return self.walk.source.opset

    def has(self, index: int) -> bool:
        """True when input `index` is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def x(self, index: int = 0) -> str:
        """The graph's tensor of input `index`; a constant is written out."""
        if not self.has(index):
            raise ModelError(f"the ONNX node {label(self.node)} has no input {index}; the file is damaged, so export it again")
        return self.walk.as_tensor(self.inputs[index])

    def const(self, index: int) -> Const | None:
        """Constant input `index`, None when absent. Raises Unknown when it is computed at run time."""
        value = self.inputs[index] if self.has(index) else None
        if value is not None and not isinstance(value, Const):
            raise Unknown
        return value

    def array(self, index: int) -> np.ndarray | None:
        """The value of constant input `index`."""
        found = self.const(index)
        return None if found is None else found.value

    def need(self, index: int) -> np.ndarray:
        """The value of constant input `index`, which must be there."""
        found = self.array(index)
        if found is None:
            raise ModelError(f"the ONNX node {label(self.node)} has no input {index}; the file is damaged, so export it again")
        return found

    def ints(self, name: str, index: int | None = None) -> list[int] | None:
        """A list of integers from an attribute, or from a constant input in newer opsets."""
        if name in self.attrs:
            return [int(v) for v in self.attrs[name]]
        value = self.array(index) if index is not None else None
        return None if value is None else [int(v) for v in value.reshape(-1)]

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of input `index`."""
        return self.walk.shape_of(self.inputs[index])

    def origin(self, index: int) -> str | None:
        """Name of the initialiser behind input `index`."""
        value = self.inputs[index] if self.has(index) else None
        return value.origin if isinstance(value, Const) else None


Handler = Callable[[Call], Any]


def label(node: Any) -> str:
    """How a user finds the node: "Conv conv1" or "Conv -> output name"."""
    return f"{node.op_type} {node.name}" if node.name else f"{node.op_type} -> {node.output[0] if node.output else '?'}"


class Walk:
    """The state of one import."""

    def __init__(self, source: Source, handlers: Mapping[str, Handler], name: str, input_layout: str | None = None) -> None:
        self.source, self.handlers, self.builder, self.input_layout = source, handlers, Builder(name), input_layout
        self.outputs = [o.name for o in source.proto.graph.output]
        self.values: dict[str, Any] = {}
        self.stored: dict[str, Stored] = {}  # by origin
        self._declared: dict[str, tuple[tuple[int, ...], str]] | None = None

    def run(self) -> Graph:
        """The graph as the file has it; `qdq` then makes integers of it."""
        for entry in self.source.inputs:
            self.values[entry.name] = self._input(entry.name, entry.shape, entry.dtype)
        for node in self.source.proto.graph.node:
            self.visit(node)
        outputs = self.outputs
        missing = [o for o in outputs if o not in self.values and o not in self.source.weights]
        if missing:
            raise ModelError(f"the output {missing[0]!r} is computed by no node; the file is damaged, so export it again")
        self.builder.scope, self.builder.source = "output", None
        return self.builder.graph([self._output(o) for o in outputs], outputs)

    def _input(self, name: str, shape: tuple[int, ...], dtype: str) -> str:
        """Declare an input; with input_layout "nhwc", pictures come channel-last and are turned here."""
        if self.input_layout != "nhwc" or len(shape) != 4:
            return self.builder.input(name, shape, dtype)
        last = self.builder.input(name, (shape[0], *shape[2:], shape[1]), dtype)
        return self.builder.op("transpose", last, perm=(0, 3, 1, 2))

    # ---- values ----

    def lookup(self, name: str) -> Any:
        """The value called `name`; initialisers are decoded when they are first used."""
        if not name:
            return None
        if name not in self.values:
            if name not in self.source.weights:
                raise ModelError(f"a node reads {name!r} before anything has written it; the file is damaged, so export it again")
            self.values[name] = Const(self.source.weight(name), name)
        return self.values[name]

    def as_tensor(self, value: Any) -> str:
        """The name of a value in the graph."""
        if isinstance(value, Const):
            array = value.value
            if value.origin is None and array.dtype.kind == "f" and np.isneginf(array).any():
                array = np.where(np.isneginf(array), np.float32(MASKED), array)  # a computed attention mask
            stem = value.origin or f"{self.builder.scope or 'const'}.const"
            return self.builder.const(f"{stem}.stored" if stem in self.outputs else stem, array, value.origin)
        if isinstance(value, str):
            return value
        raise Unknown

    def shape_of(self, value: Any) -> tuple[int, ...]:
        """Shape of a value."""
        if value is None:
            raise ModelError("a node lacks an input it needs; the file is damaged, so export it again")
        return tuple(value.value.shape) if isinstance(value, Const) else self.builder.shape(value)

    def _output(self, name: str) -> str:
        """A tensor that a node writes: inputs and constants that are handed through get a reshape of their own."""
        value = self.lookup(name)
        tensor = self.as_tensor(value)
        if isinstance(value, Const) or tensor in self.builder.inputs:
            return self.builder.op("reshape", tensor, shape=self.builder.shape(tensor))
        return tensor

    # ---- nodes ----

    def visit(self, node: Any) -> None:
        """Write one node, or compute it now when all its inputs are known."""
        self.builder.scope = (node.name or (node.output[0] if node.output else node.op_type)).strip("/").replace("/", ".")
        self.builder.source = f"ONNX node {label(node)}"
        try:
            call = Call(self, node, tuple(self.lookup(n) for n in node.input), self._attrs(node))
            results = self._evaluate(call)
            if results is None:
                results = self._handle(call)
        except EmbarqError as error:
            raise type(error)(f"{error} (at {self.builder.source})") from error
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError, MemoryError) as error:
            raise ModelError(f"the {self.builder.source} cannot be read ({_brief(error)}); the file is damaged, so export it again") from error
        results = list(results) if isinstance(results, (list, tuple)) else [results]
        for name, value in zip(node.output, results, strict=False):
            if name and value is not None:
                self.values[name] = value

    def _attrs(self, node: Any) -> dict[str, Any]:
        from onnx.helper import get_attribute_value

        found: dict[str, Any] = {}
        for attribute in node.attribute:
            value = get_attribute_value(attribute)
            if attribute.HasField("t"):
                value = decode(value, self.source.folder)
            found[attribute.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return found

    def _evaluate(self, call: Call) -> Any:
        """The results when they do not depend on the model's inputs; None when they do, or when the operator has no entry."""
        kind = call.node.op_type
        if kind == "Constant":
            return Const(_constant(call.attrs), call.node.output[0])
        if kind in ("Shape", "Size"):
            shape = call.shape(0)
            if kind == "Size":
                return Const(np.array(int(np.prod(shape, dtype=np.int64)), np.int64))
            return Const(np.array(shape[call.attrs.get("start", 0) : call.attrs.get("end", len(shape))], np.int64))
        given = [v for v in call.inputs if v is not None]
        if kind not in COMPUTE or call.node.domain not in ("", "ai.onnx") or not all(isinstance(v, Const) for v in given):
            return None
        try:
            value = COMPUTE[kind]([None if v is None else v.value for v in call.inputs], call.attrs)
        except NotImplementedError:
            return None
        except (ValueError, TypeError, IndexError, KeyError, ArithmeticError) as error:
            raise ModelError(f"a constant cannot be computed ({error}); the file is damaged, so export it again") from error
        origin = given[0].origin if kind in ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten") and given else None
        return Const(np.asarray(value), origin)

    def _handle(self, call: Call) -> Any:
        domain = call.node.domain
        handler = self.handlers.get(call.node.op_type if domain in ("", "ai.onnx") else f"{domain}.{call.node.op_type}")
        nodes, tensors = len(self.builder.nodes), set(self.builder.tensors)
        try:
            if handler is None:
                raise Unknown
            return handler(call)
        except Unknown:
            del self.builder.nodes[nodes:]  # what the handler wrote before it gave up
            for name in set(self.builder.tensors) - tensors:
                del self.builder.tensors[name]
            return self._opaque(call)

    def _opaque(self, call: Call) -> list[str]:
        """A node the graph cannot name, with the shapes that ONNX's own inference or the file gives its outputs."""
        if self._declared is None:
            self._declared = declared_shapes(self.source)
        names = [n for n in call.node.output if n]
        missing = [n for n in names if n not in self._declared]
        if missing:
            raise ModelError(f"the operator {call.node.op_type} is unknown and its output {missing[0]!r} has no declared shape; "
                             "replace it in the source model, or export with shape inference")  # fmt: skip
        inputs = [self.as_tensor(v) for v in call.inputs if v is not None]
        domain = call.node.domain
        kind = f"{domain}.{call.node.op_type}" if domain not in ("", "ai.onnx") else call.node.op_type
        made = iter(self.builder.opaque(kind, inputs, [self._declared[n] for n in names]))
        return [next(made) if n else "" for n in call.node.output]


def _brief(error: Exception) -> str:
    """The first line of an error, with the kind of error where the text alone says little."""
    text = (str(error).splitlines() or [""])[0][:120]
    return f"{type(error).__name__}: {text}" if isinstance(error, KeyError) or not text else text


def _constant(attrs: Mapping[str, Any]) -> np.ndarray:
    """The value of a Constant node, however it is written."""
    for key, value in attrs.items():
        match key:
            case "value":
                return np.asarray(value)
            case "value_float" | "value_floats":
                return np.asarray(value, np.float32)
            case "value_int" | "value_ints":
                return np.asarray(value, np.int64)
    raise ModelError("a Constant holds neither numbers nor a tensor; export the model without strings and sparse tensors")


def declared_shapes(source: Source) -> dict[str, tuple[tuple[int, ...], str]]:
    """Value name -> (shape, dtype) where the file or ONNX's inference knows them, for the inputs' fixed shapes."""
    from onnx import shape_inference

    proto = type(source.proto)()
    proto.CopyFrom(source.proto)
    shapes = {i.name: i.shape for i in source.inputs}
    for value in proto.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            dim.dim_value = size
    try:
        proto = shape_inference.infer_shapes(proto)
    except Exception:  # inference refuses what it does not understand; then only what the file declares is known
        proto = source.proto
    found = {}
    for value in (*proto.graph.value_info, *proto.graph.output):
        kind = value.type.tensor_type
        dims = [d.dim_value for d in kind.shape.dim]
        if kind.HasField("shape") and all(d.HasField("dim_value") and d.dim_value > 0 for d in kind.shape.dim) and kind.elem_type in DTYPES:
            found[value.name] = (tuple(dims), DTYPES[kind.elem_type])
    return found
