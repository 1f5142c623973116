"""A graph as a .tflite file: one operator per node, and a few where LiteRT spells an op out.

    data = write(graph)                  # bytes; LiteRT, tflite-runtime and `from_tflite` read them

Float graphs and integer graphs alike. An integer graph's file computes on LiteRT's reference kernels what
`sdk.graph.interpreter` computes, in every byte: where LiteRT has another rule for an op than the graph, or none, the op is
spelt out in operators that give the graph's numbers (`exact`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sdk.backends.litert import exact, layers, math, moves
from sdk.backends.litert.flatfile import encode
from sdk.backends.litert.sheet import Sheet
from sdk.errors import UnsupportedOp
from sdk.graph.ir import Graph, Node

Writing = Callable[[Sheet, Node], None]

#: op -> the function that writes its operators. What is not here, LiteRT cannot express.
WRITINGS: Mapping[str, Writing] = {
    "conv2d": layers.conv2d,
    "depthwise_conv2d": layers.depthwise_conv2d,
    "dense": layers.dense,
    "batch_matmul": layers.batch_matmul,
    "max_pool2d": layers.max_pool2d,
    "avg_pool2d": layers.avg_pool2d,
    **dict.fromkeys(math.BINARY, math.binary),
    **dict.fromkeys((*math.UNARY, *math.SPELT), math.unary),
    "prelu": math.prelu,
    "softmax": math.softmax,
    "log_softmax": math.softmax,
    "quantize": math.convert,
    "dequantize": math.convert,
    "requantize": math.convert,
    "batch_norm": math.batch_norm,
    "layer_norm": exact.layer_norm,
    "mean": math.reduce,
    "sum": math.reduce,
    "reduce_max": math.reduce,
    "argmax": math.argmax,
    "reshape": moves.reshape,
    "transpose": moves.transpose,
    "pad": moves.pad,
    "concat": moves.concat,
    "slice": moves.slice_,
    "gather": moves.gather,
    "tile": moves.tile,
    "cast": moves.cast,
    "resize_nearest": moves.resize,
    "resize_bilinear": moves.resize,
}  # fmt: skip


def write(graph: Graph) -> bytes:
    """The file's bytes. Raises UnsupportedOp for a node LiteRT cannot express, with its name and place in the source."""
    sheet = fill(graph)
    return encode(list(sheet.tensors.values()), sheet.operators, graph.inputs, graph.outputs, graph.name)


def fill(graph: Graph) -> Sheet:
    """Every operator and tensor of the file, before it becomes bytes: cheap, and raises what `write` raises for a node."""
    sheet = Sheet(graph)
    for node in graph.nodes:
        writing = WRITINGS.get(node.op)
        if writing is None:
            raise UnsupportedOp(no_operator(node))
        writing(sheet, node)
    return sheet


def no_operator(node: Node) -> str:
    """The sentence about a node LiteRT has no operator for."""
    where = f" ({node.source})" if node.source else ""
    kind = node.attrs.get("kind", node.op)
    return f"LiteRT's writer has no operator for {kind}{where}; choose the engine onnx or executorch, which take any op their exporters take"


__all__ = ["WRITINGS", "fill", "no_operator", "write"]
