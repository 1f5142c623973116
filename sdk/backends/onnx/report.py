"""What int8 costs an ONNX model, layer by layer: both models run with their intermediate results as outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sdk.backends.foreign import one_sentence
from sdk.backends.onnx.emit import session
from sdk.backends.onnx.export import ports, to_onnx
from sdk.backends.onnx.quantise import prepared
from sdk.backends.payload import Payload
from sdk.backends.samples import LayerError, calibration, sqnr_db
from sdk.backends.source import Source
from sdk.planner.recipes import Recipe

#: What the quantiser and the runtime put between layers.
_GLUE = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "Constant", "MatMulInteger", "DynamicQuantizeMatMul")
_SAMPLES = 8


def error_report(model: Source, recipe: Recipe, payload: Payload, samples: Any) -> list[LayerError]:
    """One row per layer whose float result the quantised model has too, in order of execution; the worst batch of noise is the mean over samples.

    samples: as for `emit`; the first eight are used. A float32 payload has one row per output.
    Raises DataError for unfit samples.
    """
    import onnx

    quantised = onnx.load_model_from_string(payload.files[payload.entry])
    with one_sentence(f"ONNX Runtime cannot report on {model.name} at {recipe.precision}", "compile it again"), tempfile.TemporaryDirectory() as folder:
        reference = onnx.load(str(prepared(to_onnx(model), Path(folder))))
        layers = _shared(reference, quantised)
        feeds = calibration(samples, payload.inputs, model.name)[:_SAMPLES]
        before, after = _run(reference, list(layers), feeds), _run(quantised, list(layers.values()), feeds)
    ops = {output: node.op_type for node in reference.graph.node for output in node.output}
    return [LayerError(name, ops.get(name, ""), sqnr_db(a, b)) for name, a, b in zip(layers, before, after, strict=True) if a.shape == b.shape]


def _shared(reference: Any, quantised: Any) -> dict[str, str]:
    """Float tensor of the reference -> the tensor of the quantised model that stands for it, outputs included.

    Where a layer's result is quantised, what the next layer reads is the dequantised one: its rounding belongs to the layer.
    """
    dequantised = dict(_dequantised(quantised))
    made = {output for node in quantised.graph.node if node.op_type not in _GLUE for output in node.output}
    floats = {v.name for v in (*reference.graph.value_info, *reference.graph.output) if v.type.tensor_type.elem_type == 1}
    outputs = {value.name for value in quantised.graph.output}
    names = [output for node in reference.graph.node for output in node.output if output in floats and output in made | outputs]
    return {name: name if name in outputs else dequantised.get(name, name) for name in names}


def _dequantised(quantised: Any) -> Iterator[tuple[str, str]]:
    source = {node.output[0]: node.input[0] for node in quantised.graph.node if node.op_type == "QuantizeLinear"}
    for node in quantised.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in source:
            yield source[node.input[0]], node.output[0]


def _run(proto: Any, names: list[str], feeds: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    """Values of the tensors `names` over all samples, stacked."""
    import onnx

    tapped = onnx.ModelProto()
    tapped.CopyFrom(proto)
    known = {value.name for value in tapped.graph.output}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known)
    runner = session(tapped.SerializeToString())
    inputs = [port.name for port in ports(proto)[0]]
    runs = [runner.run(names, dict(zip(inputs, arrays, strict=True))) for arrays in feeds]
    return [np.stack(values) for values in zip(*runs, strict=True)]
