"""Where TensorRT wants quantisation, written into an ONNX model: explicit Q/DQ pairs by its documented placement rules.

* All inputs of a weighted layer: one scale for the activation, one for each output channel of the weights (which stay float).
* Nothing between a layer and its batch norm or activation: TensorRT fuses these by itself.
* Both inputs of a residual addition, alike: left in float, a shortcut forces the layer before it to give floats.
* Outputs, biases and everything else stay as they are. One pair serves all readers of a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdk.backends.tensorrt.calibrate import LEVELS, histograms, symmetric_scale
from sdk.backends.tensorrt.graph import Wires, attribute, fresh, label, names_of, weight_axis, wires
from sdk.errors import UnsupportedOp

#: A convolution's output may pass these on its way to the addition it belongs to.
FUSED = frozenset({"BatchNormalization", "Relu", "LeakyRelu", "Clip", "PRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Identity"})
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})


@dataclass(frozen=True)
class Places:
    """What is to be quantised: activations by name; `weights[node's first output]` = (tensor, axis); `left`: sentences on what stays float."""

    activations: tuple[str, ...]
    weights: Mapping[str, tuple[str, int]]
    left: tuple[str, ...]


def places(model: Any) -> Places:
    """The tensors of a float ModelProto (shapes inferred) that the rules above name."""
    w, shapes = wires(model.graph), _float_shapes(model.graph)
    activations: dict[str, None] = {}
    weights: dict[str, tuple[str, int]] = {}
    left = []
    for node in model.graph.node:
        if weight_axis(node) is not None:
            why = _unfit(node, w, shapes)
            if why is None:
                activations[node.input[0]] = None
                weights[node.output[0]] = (node.input[1], weight_axis(node) or 0)
            elif why:
                left.append(f"{label(node)} stays float: {why}")
        elif _is_residual(node, w, shapes):
            activations.update(dict.fromkeys(node.input))
    return Places(tuple(activations), weights, tuple(left))


def _float_shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the float32 tensors that inference knows."""
    known = [v for v in (*graph.input, *graph.value_info, *graph.output) if v.type.tensor_type.elem_type == 1]
    return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in known}


def _unfit(node: Any, w: Wires, shapes: Mapping[str, Any]) -> str | None:
    """Why a layer with weights is not quantised: "" where it has none (attention's products), None where it is."""
    if node.input[1] not in w.stored:
        return "its weights are computed" if node.op_type in CONVOLUTIONS else ""
    if node.input[0] in w.stored or node.input[0] not in shapes:
        return "its input is no float tensor of known shape"
    stored = w.stored[node.input[1]]
    if stored.data_type != 1:
        return "its weights are no floats"
    if node.op_type == "MatMul" and len(stored.dims) != 2:
        return "its weights are no matrix"
    if node.op_type == "Gemm" and (attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0):
        return "it transposes or scales its input"
    if node.op_type == "ConvTranspose" and attribute(node, "group", 1) != 1:
        return "its groups share their scales"
    return None


def _is_residual(node: Any, w: Wires, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """An addition of two computed tensors of one shape that follows a convolution: TensorRT fuses it with that layer.

    Behind a MatMul the sum is the stream of a transformer, which layer norms read in float; int8 would only cost accuracy there.
    """
    if node.op_type != "Add" or len(set(node.input)) != 2 or any(n in w.stored for n in node.input):
        return False
    a, b = (shapes.get(n) for n in node.input)
    return a is not None and a == b and len(a) > 2 and any(_follows_convolution(n, w) for n in node.input)


def _follows_convolution(name: str, w: Wires) -> bool:
    while w.made_by(name) in FUSED:
        name = w.maker[name].input[0]
    return w.made_by(name) in CONVOLUTIONS


def quantised(model: Any, samples: Any, choice: str = "mse") -> tuple[Any, Places]:
    """The model with Q/DQ pairs, and where they stand. `samples`: calibration inputs; `choice`: how activation ranges are chosen.

    Raises UnsupportedOp where no layer can be int8, DataError for samples that do not fit.
    """
    import onnx

    found = places(model)
    if not found.weights:
        raise UnsupportedOp(f"the model has no layer with constant weights that int8 could take ({'; '.join(found.left) or 'none at all'}); choose float16")
    seen = histograms(model, found.activations, samples)
    scales = {name: symmetric_scale(h, choice) for name, h in seen.items()}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    _Inserter(made.graph).insert(found, scales)
    return onnx.shape_inference.infer_shapes(made), found


def weight_scales(weights: np.ndarray, axis: int) -> np.ndarray:
    """One scale for each channel of `axis`, the channel's largest weight at 127: float32 [channels]."""
    peak = np.abs(weights).max(axis=tuple(i for i in range(weights.ndim) if i != axis)).astype(np.float32)
    return np.where(peak > 1e-12, peak / np.float32(LEVELS), np.float32(1 / LEVELS)).astype(np.float32)


class _Inserter:
    """Puts pairs into a graph, in place, each right behind the tensor it quantises."""

    def __init__(self, graph: Any) -> None:
        self.graph, self.taken, self.stored = graph, names_of(graph), wires(graph).stored

    def insert(self, found: Places, scales: Mapping[str, float]) -> None:
        from onnx import numpy_helper

        nodes = list(self.graph.node)
        renamed: dict[str, str] = {}
        made = [pair for i in self.graph.input for pair in self._activation(i.name, scales, renamed)]
        of_weights: dict[tuple[str, int], str] = {}
        for node in nodes:
            self._rewire(node, found, renamed)
            if node.output[0] in found.weights:
                key = found.weights[node.output[0]]
                if key not in of_weights:
                    pair = self.pair(key[0], weight_scales(numpy_helper.to_array(self.stored[key[0]]), key[1]), key[1])
                    of_weights[key] = pair[1].output[0]
                    made += pair
                node.input[1] = of_weights[key]
            made.append(node)
            for output in node.output:
                made += self._activation(output, scales, renamed)
        del self.graph.node[:]
        self.graph.node.extend(made)

    def _activation(self, name: str, scales: Mapping[str, float], renamed: dict[str, str]) -> list[Any]:
        if name not in scales:
            return []
        pair = self.pair(name, np.array(scales[name], np.float32), None)
        renamed[name] = pair[1].output[0]
        return pair

    def _rewire(self, node: Any, found: Places, renamed: Mapping[str, str]) -> None:
        """Quantisable nodes read the quantised tensor; all others go on reading the float one."""
        if node.output[0] in found.weights:
            node.input[0] = renamed[node.input[0]]
        elif node.op_type == "Add" and all(n in renamed for n in node.input) and self._computed(node):
            node.input[:] = [renamed[n] for n in node.input]

    def _computed(self, node: Any) -> bool:
        return not any(n in self.stored for n in node.input)

    def pair(self, name: str, scale: np.ndarray, axis: int | None) -> list[Any]:
        """Q and DQ of `name`; the zero point is given, for without it ONNX means uint8."""
        from onnx import helper, numpy_helper

        s, z, q, dq = (fresh(self.taken, f"{name}_{end}") for end in ("scale", "zero_point", "quantized", "dequantized"))
        self.graph.initializer.extend([numpy_helper.from_array(scale, s), numpy_helper.from_array(np.zeros(scale.shape, np.int8), z)])
        along: dict[str, Any] = {} if axis is None else {"axis": axis}
        return [
            helper.make_node("QuantizeLinear", [name, s, z], [q], name=fresh(self.taken, f"{name}_QuantizeLinear"), **along),
            helper.make_node("DequantizeLinear", [q, s, z], [dq], name=fresh(self.taken, f"{name}_DequantizeLinear"), **along),
        ]
