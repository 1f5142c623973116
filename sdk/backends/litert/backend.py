"""The LiteRT backend: a model and a recipe in, a .tflite out.

A float or quantised `.tflite` is handed on as it is. Everything else is written from the graph: float32 as it stands after
the float passes, int8 after our own quantisation, with float32 inputs and outputs where the source model has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sdk.backends.litert.flatfile import weights_bytes
from sdk.backends.litert.interface import float_edges, keep_names
from sdk.backends.litert.legalise import legalise
from sdk.backends.litert.split_depthwise import split_depthwise
from sdk.backends.litert.writer import fill, no_operator, write
from sdk.backends.payload import Payload, Port
from sdk.backends.source import Source
from sdk.errors import UnsupportedOp, UsageError
from sdk.graph.ir import Graph, Node, Tensor
from sdk.planner.recipes import Recipe

ENTRY = "model.tflite"
#: The engine's package on the device, in the version that the tests of this release run.
REQUIRES = {"ai-edge-litert": "2.3.0"}


def refusal(model: Source, recipe: Recipe) -> str | None:
    """Why LiteRT cannot run `model` as `recipe` asks, with the mend; None when it can."""
    if recipe.precision not in ("float32", "int8"):
        others = {"dynamic-int8": "int8, or the engine onnx or executorch", "float16": "float32, or the engine tensorrt on a Jetson"}
        return f"LiteRT files are written in float32 and int8, not in {recipe.precision}; choose {others[recipe.precision]}"
    if model.is_quantised and recipe.precision == "float32":
        return f"{model.name} is quantised and was asked for in float32; load the float model, or choose int8"
    reason = _custom(model) if is_file(model, recipe) else _unwritable(model, recipe)
    if reason:
        return reason
    if recipe.precision == "int8" and not any(t.dtype in ("float32", "int8", "int16") for t in model.graph.activations()):
        return f"{model.name} computes nothing in float32 that could be quantised; choose float32, which leaves its integers alone"
    return None


def _custom(model: Source) -> str | None:
    """LiteRT knows its own operators, also those our graph has no name for; it does not know other people's."""
    custom = (node for node in model.graph.nodes if str(node.attrs.get("kind", "")).startswith("CUSTOM:"))
    return next((f"{model.name}: {no_operator(node)}" for node in custom), None)


def _unwritable(model: Source, recipe: Recipe) -> str | None:
    """What the writer says of the graph, without making the bytes."""
    try:
        fill(model.graph)
        if recipe.precision == "float32":
            weights_bytes(model.graph.constants(), model.name)
    except UnsupportedOp as error:
        return f"{model.name}: {error}"
    return None


def is_file(model: Source, recipe: Recipe) -> bool:
    """Whether the source's own bytes are the payload."""
    return model.kind == "tflite" and (model.is_quantised or recipe.precision == "float32")


def emit(model: Source, recipe: Recipe, samples: Any = (), progress: Any = None) -> Payload:
    """The payload. `samples` are calibration inputs for int8; `progress(sentence)` is told what takes time.

    Raises UnsupportedOp with `refusal`'s sentence, UsageError when int8 lacks samples.
    """
    reason = refusal(model, recipe)
    if reason:
        raise UnsupportedOp(reason)
    if is_file(model, recipe):
        return _payload(model.graph, model.content(), ("The .tflite is used as it came.",))
    if model.is_quantised:
        # an ONNX file takes real numbers also where it is quantised; the importer hands microcontrollers the integers
        graph = float_edges(model.graph) if model.kind == "onnx" else model.graph
        return _payload(graph, write(_prepared(graph)), ("The model came quantised; its integers are kept as they are.",))
    if recipe.precision == "float32":
        return _payload(model.graph, write(split_depthwise(_prepared(model.graph))), ())
    graph, notes = _int8(model, samples, progress)
    return _payload(model.graph, write(graph), notes)


def _prepared(graph: Graph) -> Graph:
    """After the passes, with inputs and outputs under their names."""
    from sdk.passes.pipeline import prepare

    return keep_names(prepare(graph), graph.outputs)


def int8_graph(graph: Graph, samples: Any) -> tuple[Graph, tuple[str, ...]]:
    """(the int8 graph that is written, with float32 inputs and outputs; names of the nodes left in float32)."""
    _, made, kept = quantised(graph, samples)
    return keep_names(_prepared(made), graph.outputs), kept


def quantised(graph: Graph, samples: Any) -> tuple[Graph, Graph, tuple[str, ...]]:
    """(the float graph that is quantised, the int8 graph it becomes, names of the nodes left in float32)."""
    from sdk.passes.quantise import QuantOptions, quantise

    ready, floats = legalise(split_depthwise(_prepared(graph)))
    ready = _prepared(ready)  # a clamp that turned out to be an activation is fused
    kept = tuple(node.name for node in ready.nodes if node.name in floats or _faster_in_float(ready, node))
    return ready, quantise(ready, samples, QuantOptions(float_io=True, keep_float=kept)), kept


def _faster_in_float(graph: Graph, node: Node) -> bool:
    """Attention: XNNPACK has float32 kernels for these and none in int8, where LiteRT's own take four times as long as all the rest.

    A softmax at the end of a model is too small to matter and stays int8.
    """
    return node.op in ("batch_matmul", "gelu") or (node.op in ("softmax", "log_softmax") and node.outputs[0] not in graph.outputs)


def _int8(model: Source, samples: Any, progress: Any) -> tuple[Graph, tuple[str, ...]]:
    if samples is None or (isinstance(samples, Sequence) and not len(samples)):
        raise UsageError(f"{model.name} is a float model: int8 needs calibration data; give calibration=, a few hundred real inputs")
    if progress:
        progress("calibrating int8 for LiteRT")
    graph, floats = int8_graph(model.graph, samples)
    kinds = Counter(node.op for node in graph.nodes if node.name in floats)
    names = ", ".join(f"{count} {op}" for op, count in sorted(kinds.items()))
    return graph, (f"Left in float32, where LiteRT is fast or 8 bits too few: {names}.",) if floats else ()


def _payload(graph: Graph, content: bytes, notes: tuple[str, ...]) -> Payload:
    inputs, outputs = (tuple(_port(graph[name]) for name in names) for names in (graph.inputs, graph.outputs))
    return Payload({ENTRY: content}, ENTRY, inputs, outputs, dict(REQUIRES), {}, notes)


def _port(tensor: Tensor) -> Port:
    quantised = tensor.quant is not None and tensor.quant.axis is None
    return Port(tensor.name, tensor.shape, tensor.dtype, tensor.scale if quantised else None, tensor.zero_point if quantised else None)

