"""Read an ONNX model as a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sdk.errors import UsageError
from sdk.graph.ir import Graph

__all__ = ["from_onnx"]


def from_onnx(source: bytes | str | Path, example: Any = None, *, batch: int | None = None, folder: str | Path | None = None,
              input_layout: str | None = None, float_io: bool = False, name: str | None = None) -> Graph:  # fmt: skip
    """The graph of an .onnx file (a path, or its bytes), opset 7 and later: float, or int8 as onnxruntime quantises it.

    example: one input, a sequence, or a mapping by name: its shape stands where the model's is not fixed. `batch` fixes the
    first dimension alone. folder: where weights outside the file lie; that of the path by default.
    input_layout: None keeps the model's own layout. "nhwc" declares every input of four dimensions [N, H, W, C] instead of
    [N, C, H, W], so that the device gets the picture as a camera gives it and nothing is transposed.

    float_io: False takes and gives integers where a quantised model only converts its inputs and outputs, as `quantise` does; True
    leaves those conversions in the graph. A float model has float inputs and outputs either way.

    Weights keep the initialiser's name as `origin`. An operator the graph has no name for becomes an `opaque` node with the
    shapes that the file or ONNX's inference declares. QuantizeLinear and DequantizeLinear around an operator, and the QLinear
    operators, become its integer form in LiteRT's rules: scales, zero points (less 128 for uint8) and weights are the file's,
    the rounding of a result may differ from ONNX Runtime's by one step. What has no integer form stays between a dequantize
    and a quantize. Raises ModelError for a file that is damaged, has no fixed shapes or holds NaN, UsageError for an unfit example.

        from_onnx("net.onnx", np.zeros((1, 3, 96, 96), np.float32))
    """
    if input_layout not in (None, "nhwc"):
        raise UsageError(f"input_layout is {input_layout!r}; it must be None or 'nhwc'")
    from sdk.graph.editor import Editor
    from sdk.graph.onnx_import import layers, math, moves, patterns, pools, quant
    from sdk.graph.onnx_import.qdq import integers
    from sdk.graph.onnx_import.read import read
    from sdk.graph.onnx_import.walk import Walk

    model = read(source, example, batch, None if folder is None else Path(folder))
    handlers = {**moves.HANDLERS, **math.HANDLERS, **layers.HANDLERS, **pools.HANDLERS, **quant.HANDLERS}
    title = name or (Path(source).stem if isinstance(source, (str, Path)) else model.proto.graph.name) or "model"
    walk = Walk(model, handlers, title, input_layout)
    with np.errstate(all="ignore"):  # damaged constants overflow; what is not finite is refused where it is written
        graph = patterns.recognise(Editor(walk.run()).finish())
        return integers(graph, walk.stored, float_io)
