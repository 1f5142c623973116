"""Does a Q/DQ model keep TensorRT's documented rules for explicit quantisation? Each breach is a sentence that names its node.

The rules are those of NVIDIA's TensorRT developer guide, chapter "Working with quantized types" (in 8.x "Working with INT8"):
explicit quantisation, Q/DQ layer-placement recommendations, limitations; and of onnx-tensorrt's operator table.
The linter knows nothing of how we insert pairs, so it judges models of any origin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import numpy as np

from sdk.backends.tensorrt.graph import Wires, attribute, label, weight_axis, wires
from sdk.backends.tensorrt.versions import DEFAULT, OLDEST_OPSET, RELEASES, Release

Q, DQ = "QuantizeLinear", "DequantizeLinear"
#: TensorRT fuses these into the weighted layer before them.
FUSED = frozenset({"BatchNormalization", "Relu", "LeakyRelu", "Clip", "PRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"})
#: ONNX's ready-made integer operators: other engines' way, which TensorRT's parser does not read.
INTEGER_OPS = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})

Sentences = Iterator[str]


def lint(content: bytes | Any, release: Release = RELEASES[DEFAULT]) -> list[str]:
    """Every breach of a rule in an ONNX model (bytes or ModelProto), as sentences; empty for a model that keeps them all."""
    import onnx

    model = onnx.load_from_string(content) if isinstance(content, bytes) else content
    w = wires(model.graph)
    found = list(_opset(model, release))
    for node in model.graph.node:
        for rule in RULES.values():
            found += rule(node, w)
    return found


def _opset(model: Any, release: Release) -> Sentences:
    have = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if not OLDEST_OPSET <= have <= release.max_opset:
        yield f"the model is of opset {have}; TensorRT {release.name} reads Q/DQ models of opset {OLDEST_OPSET} to {release.max_opset}"


def _zero_point(node: Any, w: Wires) -> Sentences:
    """Quantisation is symmetric: int8, and every zero point 0."""
    if node.op_type not in (Q, DQ):
        return
    if len(node.input) < 3 or not node.input[2]:
        yield f"{label(node)} has no zero point, which means uint8 in ONNX; TensorRT wants int8 with zero point 0"
        return
    zero = w.array(node.input[2])
    if zero is None:
        yield f"{label(node)} computes its zero point; TensorRT wants the constant 0"
    elif zero.dtype != np.int8:
        yield f"{label(node)} has a zero point of type {zero.dtype}; TensorRT wants int8"
    elif zero.any():
        yield f"{label(node)} has zero point {int(zero.flat[np.flatnonzero(zero)[0]])}; TensorRT quantises symmetrically, with zero point 0"


def _scale(node: Any, w: Wires) -> Sentences:
    """Scales are constants, positive and finite."""
    if node.op_type not in (Q, DQ):
        return
    scale = w.array(node.input[1])
    if scale is None:
        yield f"{label(node)} computes its scale; TensorRT wants a constant"
    elif not (np.isfinite(scale).all() and (scale > 0).all()):
        yield f"{label(node)} has a scale that is not positive and finite; TensorRT refuses it"


def _per_tensor(node: Any, w: Wires) -> Sentences:
    """Activations have one scale; only weights have one for each channel."""
    if node.op_type != Q or node.input[0] in w.stored:
        return
    scale = w.array(node.input[1])
    if scale is not None and scale.size > 1:
        yield f"{label(node)} gives an activation {scale.size} scales; TensorRT takes one for each activation tensor"


def _paired(node: Any, w: Wires) -> Sentences:
    """A Q is followed by DQs only, of the same scale and axis, and a DQ comes from a Q."""
    if node.op_type == Q:
        readers = w.readers.get(node.output[0], [])
        if node.output[0] in w.outputs or not readers or any(r.op_type != DQ for r in readers):
            yield f"{label(node)} gives int8 to something else than a DequantizeLinear; TensorRT wants pairs"
        for reader in (r for r in readers if r.op_type == DQ):
            a, b = w.array(node.input[1]), w.array(reader.input[1])
            same = a is not None and b is not None and np.array_equal(a, b)
            if not same or (a is not None and a.size > 1 and attribute(node, "axis", 1) != attribute(reader, "axis", 1)):
                yield f"{label(reader)} has another scale or axis than {label(node)}; a pair has one"
    elif node.op_type == DQ and node.input[0] in w.stored:
        yield f"{label(node)} reads stored integers; keep the weights in float with a QuantizeLinear before it, as every TensorRT from 8.0 on reads them"
    elif node.op_type == DQ and w.made_by(node.input[0]) != Q:
        yield f"{label(node)} does not come from a QuantizeLinear; TensorRT wants pairs"


def _weighted_inputs(node: Any, w: Wires) -> Sentences:
    """A layer with weights has all its inputs quantised, or none; its bias stays float."""
    if weight_axis(node) is None:
        return
    quantised = [w.made_by(n) == DQ for n in node.input[:2]]
    if any(quantised) and not all(quantised):
        missing = "weights" if quantised[0] else "input"
        yield f"{label(node)} has its {'input' if quantised[0] else 'weights'} quantised and its {missing} not; TensorRT wants both or neither"
    if len(node.input) > 2 and w.made_by(node.input[2]) == DQ:
        yield f"{label(node)} has a quantised bias; TensorRT wants it in float"


def _weight_scales(node: Any, w: Wires) -> Sentences:
    """Weights have one scale for each output channel, along the axis that counts them."""
    axis = weight_axis(node)
    source = _weights_of(node, w)
    if axis is None or source is None:
        return
    quantise, weights = source
    scale = w.array(quantise.input[1])
    if scale is None:
        return  # told by another rule
    have = attribute(quantise, "axis", 1) % len(weights.dims)
    if scale.ndim != 1 or scale.size == 1 != weights.dims[axis]:
        yield f"{label(node)} has one scale for all its weights; give one for each of the {weights.dims[axis]} output channels"
    elif have != axis:
        yield f"{label(node)} has its weights' scales along axis {have}; TensorRT wants axis {axis}, the output channels"
    elif scale.size != weights.dims[axis]:
        yield f"{label(node)} has {scale.size} weight scales for {weights.dims[axis]} output channels"


def _weights_of(node: Any, w: Wires) -> tuple[Any, Any] | None:
    """(Q node, stored tensor) of a layer's quantised constant weights."""
    if weight_axis(node) is None or w.made_by(node.input[1]) != DQ:
        return None
    quantise = w.maker.get(w.maker[node.input[1]].input[0])
    if quantise is None or quantise.op_type != Q or quantise.input[0] not in w.stored:
        return None
    return quantise, w.stored[quantise.input[0]]


def _unbroken(node: Any, w: Wires) -> Sentences:
    """No pair between a weighted layer and its batch norm or activation: fusion would be simulated, and lost."""
    if node.op_type not in FUSED or w.made_by(node.input[0]) != DQ:
        return
    quantise = w.maker.get(w.maker[node.input[0]].input[0])
    layer = w.maker.get(quantise.input[0]) if quantise is not None else None
    if layer is not None and weight_axis(layer) is not None:
        yield f"{label(node)} is cut off from {label(layer)} by a Q/DQ pair; TensorRT fuses the two, put the pair behind {node.op_type}"


def _addition(node: Any, w: Wires) -> Sentences:
    """Both inputs of a residual addition are quantised, or neither is."""
    if node.op_type != "Add" or any(n in w.stored for n in node.input):
        return
    quantised = [w.made_by(n) == DQ for n in node.input]
    if any(quantised) and not all(quantised):
        yield f"{label(node)} adds a quantised tensor to {node.input[quantised.index(False)]}, which is not; quantise both inputs or neither"


def _outputs(node: Any, w: Wires) -> Sentences:
    """The model's outputs are not quantised."""
    if node.op_type == DQ and node.output[0] in w.outputs:
        yield f"{label(node)} quantises the model's output; leave it in float"


def _integer_ops(node: Any, w: Wires) -> Sentences:
    """Explicit quantisation is Q/DQ pairs around float operators."""
    if node.op_type in INTEGER_OPS or node.op_type.startswith("QLinear"):
        yield f"{label(node)} is an integer operator, which TensorRT's parser does not read; quantise with Q/DQ pairs"
    elif node.domain not in ("", "ai.onnx"):
        yield f"{label(node)} is of the domain {node.domain}, which TensorRT's parser does not read"


Rule = Callable[[Any, Wires], Sentences]
RULES: MappingProxyType[str, Rule] = MappingProxyType({
    "zero_point": _zero_point, "scale": _scale, "per_tensor": _per_tensor, "paired": _paired, "weighted_inputs": _weighted_inputs,
    "weight_scales": _weight_scales, "unbroken": _unbroken, "addition": _addition, "outputs": _outputs, "integer_ops": _integer_ops,
})  # fmt: skip
