"""The float ONNX model that everything starts from: exported from a torch program, or the user's own file, in TensorRT's opset."""

from __future__ import annotations

from typing import Any

from sdk.backends.foreign import one_sentence, require
from sdk.backends.onnx.export import to_onnx
from sdk.backends.source import Source
from sdk.backends.tensorrt.lower import lower
from sdk.backends.tensorrt.versions import NEWEST_OPSET, OLDEST_OPSET, Release


def float_model(model: Source, release: Release) -> Any:
    """The model as a ModelProto in the release's opset: constants are initialisers, shapes inferred, no word of its origin.

    Raises UsageError when a package is not installed, UnsupportedOp for an operator the release cannot read, ModelError otherwise.
    """
    onnx = require("onnx", "onnx", "the tensorrt backend")
    made = _raised(to_onnx(model, NEWEST_OPSET), model.name)
    _constants_stored(onnx, made.graph)
    made = lower(made, release.opset)
    made.ir_version = min(made.ir_version, release.ir_version)
    _forget_origin(made)
    _initialisers_are_no_inputs(made.graph)
    with one_sentence(f"{model.name} in ONNX opset {release.opset} is not valid", "aim at a newer TensorRT"):
        made = onnx.shape_inference.infer_shapes(made, data_prop=True)  # first: files may leave the outputs' shapes out
        onnx.checker.check_model(made, full_check=True)
        return made


def _raised(made: Any, name: str) -> Any:
    """At least opset 13, where one scale per channel begins."""
    have = next((o.version for o in made.opset_import if o.domain in ("", "ai.onnx")), 1)
    if have >= OLDEST_OPSET:
        return made
    converter = require("onnx.version_converter", "onnx", "the tensorrt backend")
    with one_sentence(f"{name} of ONNX opset {have} cannot be raised to {OLDEST_OPSET}", f"export it in opset {OLDEST_OPSET} or newer"):
        return converter.convert_version(made, OLDEST_OPSET)


def _constants_stored(onnx: Any, graph: Any) -> None:
    """Constant nodes become initialisers: one place for constants."""
    kept = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
            continue
        stored = onnx.TensorProto()
        stored.CopyFrom(value)
        stored.name = node.output[0]
        graph.initializer.append(stored)
    del graph.node[:]
    graph.node.extend(kept)


def _initialisers_are_no_inputs(graph: Any) -> None:
    """Old files list weights among the inputs, where a caller might replace them; TensorRT wants them constant."""
    stored = {i.name for i in graph.initializer}
    kept = [i for i in graph.input if i.name not in stored]
    del graph.input[:]
    graph.input.extend(kept)


def _forget_origin(model: Any) -> None:
    """Take out what exporters note beside nodes: class names and the paths of the user's source files."""
    model.doc_string = ""
    del model.metadata_props[:]
    graph = model.graph
    graph.doc_string = ""
    for thing in (graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        thing.doc_string = ""
        del thing.metadata_props[:]
