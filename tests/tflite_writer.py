"""Writes small .tflite models with LiteRT's own schema module, and runs them on its reference kernels.

So an op's meaning here is compared with LiteRT itself on models of one op, without any file of real data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import pytest

schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="ai-edge-litert is not installed: pip install 'embarq[litert]'")


@dataclass(frozen=True)
class Value:
    """A tensor of the file. `scale` is one number, or several along `axis`; `data` makes it a constant."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "int8"
    scale: Any = None  # one number or several
    zero: int = 0
    axis: int = 0
    data: np.ndarray | None = field(default=None, repr=False)
    signature: tuple[int, ...] | None = None
    variable: bool = False


@dataclass(frozen=True)
class Step:
    """An operator: its kind, options as ("Conv2DOptions", {field: value}), and tensor names ("" for an absent input)."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: tuple[str, dict[str, Any]] | None = None


def build(values: Sequence[Value], steps: Sequence[Step], inputs: Sequence[str], outputs: Sequence[str], versions: int = 5) -> bytes:
    """The bytes of a model with these tensors and operators."""
    model = schema.ModelT()
    model.version = 3
    model.description = "embarq test model"
    model.buffers = [schema.BufferT()]
    index = {v.name: i for i, v in enumerate(values)}
    graph = schema.SubGraphT()
    graph.name = "main"
    graph.tensors = [_tensor(v, model.buffers) for v in values]
    graph.inputs, graph.outputs = [index[n] for n in inputs], [index[n] for n in outputs]
    kinds = list(dict.fromkeys(s.kind for s in steps))
    model.operatorCodes = [_code(k, versions) for k in kinds]
    graph.operators = [_operator(s, kinds, index) for s in steps]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _tensor(value: Value, buffers: list) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape = value.name, list(value.shape)
    tensor.type = getattr(schema.TensorType, value.dtype.upper())
    tensor.isVariable = value.variable
    if value.signature is not None:
        tensor.shapeSignature = list(value.signature)
    if value.scale is not None:
        scales = np.atleast_1d(np.asarray(value.scale, np.float32))
        quant = schema.QuantizationParametersT()
        quant.scale, quant.zeroPoint, quant.quantizedDimension = list(scales), [value.zero] * len(scales), value.axis
        tensor.quantization = quant
    if value.data is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(value.data).tobytes(), np.uint8)
        tensor.buffer = len(buffers)
        buffers.append(buffer)
    return tensor


def _code(kind: str, version: int) -> Any:
    code = schema.OperatorCodeT()
    number = getattr(schema.BuiltinOperator, kind)
    code.deprecatedBuiltinCode, code.builtinCode, code.version = min(number, 127), number, version
    return code


def _operator(step: Step, kinds: list[str], index: dict[str, int]) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex = kinds.index(step.kind)
    operator.inputs = [index[n] if n else -1 for n in step.inputs]
    operator.outputs = [index[n] for n in step.outputs]
    if step.options is not None:
        name, fields = step.options
        options = getattr(schema, name + "T")()
        for key, value in fields.items():
            assert hasattr(options, key), key
            setattr(options, key, value)
        operator.builtinOptionsType, operator.builtinOptions = getattr(schema.BuiltinOptions, name), options
    return operator


def one_op(kind: str, inputs: Sequence[Value | None], outputs: Sequence[Value], options: tuple[str, dict] | None = None, versions: int = 5) -> bytes:
    """A model of one operator; inputs with data are constants."""
    given = [v for v in inputs if v is not None]
    values = list({v.name: v for v in (*given, *outputs)}.values())
    step = Step(kind, tuple(v.name if v is not None else "" for v in inputs), tuple(v.name for v in outputs), options)
    fed = list(dict.fromkeys(v.name for v in given if v.data is None))
    return build(values, [step], fed, [v.name for v in outputs], versions)


def reference(model: bytes, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs of LiteRT's reference kernels. Raises RuntimeError or ValueError when LiteRT refuses the model."""
    return _run(model, inputs, "BUILTIN_REF")[0]


def kernels(model: bytes, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs of the kernels LiteRT takes by default: XNNPACK's where it has them."""
    return _run(model, inputs, "AUTO")[0]


def delegates(model: bytes, inputs: Sequence[np.ndarray]) -> int:
    """Into how many pieces XNNPACK takes the model: 1 when it runs without a break, 0 when it takes nothing."""
    return [op["op_name"] for op in _run(model, inputs, "AUTO")[1]._get_ops_details()].count("DELEGATE")


def _run(model: bytes, inputs: Sequence[np.ndarray], kind: str) -> tuple[list[np.ndarray], Any]:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=OpResolverType[kind], num_threads=1)
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(d["index"]).copy() for d in interpreter.get_output_details()], interpreter
