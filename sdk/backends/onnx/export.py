"""A model as an ONNX model of fixed shapes: torch through its own exporter, an .onnx file as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sdk.backends.foreign import one_sentence, require
from sdk.backends.payload import Port
from sdk.backends.source import Source
from sdk.errors import ModelError, UsageError
from sdk.graph.ir import Graph

#: ONNX's element types by number -> numpy's names, as far as a model's inputs and outputs have them.
DTYPES = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}


def to_onnx(model: Source, opset: int | None = None) -> Any:
    """The `onnx.ModelProto` of a torch or ONNX model, weights inside, inputs and outputs named as the graph's, shapes fixed.

    opset: what a torch program is exported in; the exporter's own choice by default. A file keeps the opset it has.
    Raises UnsupportedOp for an operator that has no ONNX, ModelError for whatever else the exporter cannot do, UsageError for another kind of model.
    """
    if model.kind == "torch":
        return _from_torch(model, opset)
    if model.kind == "onnx":
        return _from_file(model)
    raise UsageError(f"{model.name} is a {model.kind} model, which has no ONNX; choose backend litert")


def to_bytes(proto: Any, name: str) -> bytes:
    """The serialised model. Raises ModelError beyond protobuf's limit of 2 GiB."""
    if proto.ByteSize() >= 1 << 31:
        raise ModelError(f"{name} is {proto.ByteSize() / 2**30:.1f} GiB and an ONNX file holds at most 2; choose backend executorch or a smaller model")
    return bytes(proto.SerializeToString())


def ports(proto: Any) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """(inputs, outputs) of a model whose shapes are fixed; initialisers listed as inputs are left out. Raises ModelError for an open shape."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    given = [value for value in proto.graph.input if value.name not in stored]
    return tuple(_port(value) for value in given), tuple(_port(value) for value in proto.graph.output)


def _port(value: Any) -> Port:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim)
    if 0 in shape or tensor.elem_type not in DTYPES:
        raise ModelError(f"{value.name} has no fixed shape or no plain data type; give example=, one input of the shape to compile for")
    return Port(value.name, shape, DTYPES[tensor.elem_type])


def _from_torch(model: Source, opset: int | None) -> Any:
    require("onnx", "onnxruntime", "exporting a torch model to ONNX")
    require("onnxscript", "onnxruntime", "exporting a torch model to ONNX")
    torch = require("torch", "torch", "exporting a torch model")
    names = {"input_names": list(model.graph.inputs), "output_names": list(model.graph.outputs)}
    with one_sentence(f"{model.name} cannot be exported to ONNX", "choose backend executorch, or write that part of the model with other operators"):
        program = torch.onnx.export(model.program, dynamo=True, verbose=False, opset_version=opset, external_data=False, **names)
        proto = program.model_proto
    _clean(proto)
    _fix(proto, model.graph)
    return proto


def _clean(proto: Any) -> None:
    """Take out what the exporter writes for its own debugging: stack traces with the user's paths, larger than a small model's weights."""
    del proto.metadata_props[:]
    for part in (proto.graph, *proto.functions):
        del part.metadata_props[:]
        for node in part.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info, *proto.graph.initializer):
        del value.metadata_props[:]


def _from_file(model: Source) -> Any:
    onnx = require("onnx", "onnxruntime", "reading an ONNX model")
    content = model.content()
    with one_sentence(f"{model.source} cannot be read as ONNX", "export it again"):
        proto = onnx.load_model_from_string(content)
        onnx.external_data_helper.load_external_data_for_model(proto, str(model.source.resolve().parent))
    _fix(proto, model.graph)
    return proto


def is_fixed(proto: Any) -> bool:
    """True when every input and output has a shape of numbers only."""
    try:
        ports(proto)
    except ModelError:
        return False
    return True


def _fix(proto: Any, graph: Graph) -> None:
    """Write the graph's shapes where the model's are open; what was computed from the open ones is then inferred anew."""
    if is_fixed(proto):
        return
    import onnx

    stored = {tensor.name for tensor in proto.graph.initializer}
    for value in proto.graph.input:
        if value.name not in stored and value.name in graph.tensors:
            _set_shape(value, source_shape(_dims(value), graph[value.name].shape))
    for value in proto.graph.output:
        if value.name in graph.tensors:
            _set_shape(value, graph[value.name].shape)
    del proto.graph.value_info[:]
    with one_sentence("the model's shapes cannot be inferred from its inputs'", "export it with fixed shapes"):
        inferred = onnx.shape_inference.infer_shapes(proto)
    proto.CopyFrom(inferred)


def _dims(value: Any) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def source_shape(dims: Sequence[int], shape: Sequence[int]) -> tuple[int, ...]:
    """The graph's shape in the file's own layout: a graph read with channel-last inputs declares [N, H, W, C] for the file's [N, C, H, W].

    dims: what the file says, 0 where it is open.  source_shape([0, 3, 0, 0], [1, 8, 8, 3]) == (1, 3, 8, 8)
    """
    first = (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else tuple(shape)
    for candidate in (tuple(shape), first):
        if len(dims) == len(candidate) and all(d in (0, n) for d, n in zip(dims, candidate, strict=True)):
            return tuple(candidate)
    return tuple(shape)


def _set_shape(value: Any, shape: Sequence[int]) -> None:
    dims = value.type.tensor_type.shape
    del dims.dim[:]
    for size in shape:
        dims.dim.add().dim_value = size
