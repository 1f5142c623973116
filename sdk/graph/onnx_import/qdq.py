"""Real numbers between `dequantize` and `quantize` become integer nodes in LiteRT's rules.

Scales, zero points, weights and biases are the file's own integers. What LiteRT has no integer form for (weights with a
zero point that leave int8, constants that were not quantised, unusual axes) stays in real numbers between the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sdk.graph.editor import Editor, sweep
from sdk.graph.ir import Graph, Node, Quant
from sdk.graph.onnx_import.walk import Stored
from sdk.graph.ops import OPS
from sdk.graph.quantmath import quantise_array
from sdk.graph.unary import FUNCTIONS

#: Dimension of the weight that belongs to the output channels.
WEIGHT_AXIS = {"conv2d": 0, "depthwise_conv2d": 3, "dense": 0}
#: Ops that only move or compare values: their integers are those of the input, so they work on either side of a conversion.
SELECTS = frozenset({"reshape", "transpose", "slice", "tile", "pad", "gather", "max_pool2d", "reduce_max", "resize_nearest"})
#: One scale for inputs and output.
SAME_SCALE = SELECTS | {"avg_pool2d", "resize_bilinear", "concat", "maximum", "minimum"}
#: Every input and the output has its own scale.
OWN_SCALE = frozenset({"add", "sub", "mul", "div", "squared_difference", "batch_matmul", "mean", "sum", "prelu", "layer_norm", *FUNCTIONS})
#: The output's scale is given by what the op's values can be.
FIXED: Mapping[str, Quant] = {"softmax": Quant((1 / 256,), (-128,)), "log_softmax": Quant((16 / 256,), (127,))}
ACTIVATIONS = ("relu", "relu6", "relu_n1_to_1")


def integers(graph: Graph, stored: Mapping[str, Stored], float_io: bool) -> Graph:
    """The graph with integer nodes wherever the file means integers; a float model is returned as it is.

    Without `float_io`, an input that is only quantised is taken as integers, and an output that is only dequantised is given as integers.
    """
    if not any(node.op in ("quantize", "dequantize") for node in graph.nodes):
        return graph
    graph = sweep(graph, _one_conversion, _above_dequantize, _below_quantize, _above_move, _into_layer)
    fuse = _Fuse(stored)
    graph = sweep(graph, fuse.argmax, fuse.node, _joined)
    return graph if float_io else _integers_outside(graph)


# ---- before: conversions as close to the layers as they go -----------------------------------------------------------


def _one_conversion(editor: Editor, node: Node) -> bool:
    """Two equal conversions of one tensor are one."""
    if node.op not in ("quantize", "dequantize"):
        return False
    out = editor[node.outputs[0]]
    for other in editor.readers(node.inputs[0]):
        same = other.op == node.op and editor[other.outputs[0]].quant == out.quant and editor[other.outputs[0]].dtype == out.dtype
        if same and other.name != node.name and not editor.is_output(out.name):
            editor.redirect(out.name, other.outputs[0])
            editor.drop(node)
            return True
    return False


def _pads_exactly(node: Node, quant: Quant | None) -> bool:
    """True unless the node pads with a real value that has no integer."""
    value = float(node.attrs.get("value", 0) or 0) if node.op == "pad" else 0.0
    if value == 0 or quant is None:
        return value == 0
    steps = value / quant.scale[0]
    return math.isclose(steps, round(steps), abs_tol=1e-4) and -128 <= round(steps) + quant.zero_point[0] <= 127


def _above_dequantize(editor: Editor, node: Node) -> bool:
    """move(dequantize(q)) -> dequantize(move(q))."""
    before = editor.producer(node.inputs[0]) if node.op in SELECTS else None
    if before is None or before.op != "dequantize" or node.attrs.get("activation", "none") != "none":
        return False
    q = editor[before.inputs[0]]
    if q.dtype not in ("int8", "int16") or q.quant is None or not _pads_exactly(node, q.quant) or q.dtype not in OPS[node.op].dtypes:
        return False
    _as_integers(editor, node, (q.name, *node.inputs[1:]), q.dtype, q.quant)
    _hand_on(editor, node.outputs[0], editor.emit("dequantize", node.outputs, {}, before, stem=f"{node.name}.dequantize"))
    return True


def _as_integers(editor: Editor, node: Node, inputs: tuple[str, ...], dtype: str, quant: Quant | None) -> None:
    """The same node, under its own name, on integers."""
    editor.change(node, inputs=inputs)
    editor.tensors[node.outputs[0]] = replace(editor[node.outputs[0]], dtype=dtype, quant=quant)


def _hand_on(editor: Editor, old: str, new: str) -> None:
    """What reads `old` reads `new`, which is made of it."""
    maker = editor.producers[new]
    for reader in editor.readers(old):
        if reader.name != maker:
            editor.change(reader, inputs=tuple(new if n == old else n for n in reader.inputs))
    editor.outputs = [new if o == old else o for o in editor.outputs]


def _below_quantize(editor: Editor, node: Node) -> bool:
    """quantize(move(x)) -> move(quantize(x)) where nothing else reads x."""
    if node.op != "quantize" or (move := editor.producer(node.inputs[0])) is None or move.op not in ("reshape", "transpose", "pad"):
        return False
    out = editor[node.outputs[0]]
    if editor.only_reader(move.outputs[0]) is not node or editor.only_reader(move.inputs[0]) is not move or not _pads_exactly(move, out.quant):
        return False
    early = editor.emit("quantize", (move.inputs[0],), node.attrs, node, quant=out.quant, dtype=out.dtype)
    moved = editor.emit(move.op, (early, *move.inputs[1:]), move.attrs, move, quant=out.quant)
    editor.redirect(out.name, moved)
    editor.drop(node)
    return True


def _above_move(editor: Editor, node: Node) -> bool:
    """relu(transpose(x)) -> transpose(relu(x)): next to its layer, the activation becomes part of it."""
    move = editor.producer(node.inputs[0]) if node.op in ACTIVATIONS else None
    if move is None or move.op not in ("reshape", "transpose") or editor.only_reader(move.outputs[0]) is not node:
        return False
    made = editor.emit(node.op, move.inputs, node.attrs, node)
    editor.redirect(node.outputs[0], editor.emit(move.op, (made,), move.attrs, move))
    editor.drop(node)
    return True


def _into_layer(editor: Editor, node: Node) -> bool:
    """An activation behind a layer that can clamp."""
    layer = editor.producer(node.inputs[0]) if node.op in ACTIVATIONS else None
    if layer is None or editor.only_reader(node.inputs[0]) is not node or "activation" not in OPS[layer.op].attrs:
        return False
    if layer.attrs.get("activation", "none") != "none" or editor[node.outputs[0]].dtype != "float32":
        return False
    editor.change(layer, attrs={**layer.attrs, "activation": node.op})
    editor.redirect(node.outputs[0], node.inputs[0])
    editor.drop(node)
    return True


# ---- the integer nodes -----------------------------------------------------------------------------------------------


class _Fuse:
    """Rules that need the integers the file stores."""

    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self.stored = stored

    def argmax(self, editor: Editor, node: Node) -> bool:
        """The largest integer is the largest value."""
        before = editor.producer(node.inputs[0]) if node.op == "argmax" else None
        if before is None or before.op != "dequantize" or editor[before.inputs[0]].dtype not in OPS["argmax"].dtypes:
            return False
        editor.change(node, inputs=before.inputs)
        return True

    def node(self, editor: Editor, node: Node) -> bool:
        """dequantize -> op -> quantize as one integer node."""
        target = _target(editor, node)
        if target is None:
            return False
        dtype, quant = target
        inputs = self._inputs(editor, node, dtype, quant)
        return inputs is not None and self._write(editor, node, inputs, dtype, quant)

    def _write(self, editor: Editor, node: Node, inputs: tuple[str, ...], dtype: str, quant: Quant) -> bool:
        """The integer node, and a requantize where its scale is not the one asked for. False, and nothing written, where LiteRT forbids it."""
        own = editor[inputs[0]].quant if node.op in SAME_SCALE else FIXED.get(node.op, quant)
        real = editor[node.outputs[0]]
        readers = editor.readers(real.name)
        _as_integers(editor, node, inputs, dtype, own)
        if OPS[node.op].check(editor.nodes[node.name], editor.tensors) is not None:
            _as_integers(editor, node, node.inputs, real.dtype, real.quant)
            return False
        result = real.name
        if own != quant:
            result = editor.emit("requantize", (result,), {}, node, quant=quant, dtype=dtype, stem=f"{node.name}.requantize")
        for reader in readers:
            editor.redirect(reader.outputs[0], result)
            editor.drop(reader)
        return True

    def _inputs(self, editor: Editor, node: Node, dtype: str, quant: Quant) -> tuple[str, ...] | None:
        """The integer tensors the node reads; None where one of them has no integers."""
        if node.op in WEIGHT_AXIS:
            return self._layer(editor, node, dtype)
        if node.op == "layer_norm":
            x = _integers_of(editor, node.inputs[0], dtype)
            return None if x is None else (x, *node.inputs[1:])
        if node.op == "gather":
            x = _integers_of(editor, node.inputs[0], dtype) or self._constant(editor, node.inputs[0], dtype)
            return None if x is None else (x, *node.inputs[1:])
        found = [self._operand(editor, n, dtype) for n in node.inputs]
        if any(f is None for f in found) or (node.op in FIXED and dtype != "int8"):
            return None
        if node.op == "pad" and editor[found[0] or ""].quant != quant and not _pads_exactly(node, editor[found[0] or ""].quant):
            return None  # the padding would be rounded at both scales
        names = [f for f in found if f is not None]
        if node.op in ("concat", "maximum", "minimum"):
            names = [n if editor[n].quant == quant else _requantized(editor, n, node, dtype, quant) for n in names]
        return tuple(names)

    def _operand(self, editor: Editor, name: str, dtype: str) -> str | None:
        return _integers_of(editor, name, dtype) or self._constant(editor, name, dtype)

    def _constant(self, editor: Editor, name: str, dtype: str) -> str | None:
        """A constant operand as its stored integers; a single number is exact at a scale of its own."""
        tensor = editor[name]
        if not tensor.is_const or tensor.data is None or tensor.dtype != "float32":
            return None
        stored = self.stored.get(tensor.origin or "")
        if stored is not None and stored.scale.size == 1:
            shift = 128 if stored.values.dtype == np.uint8 else 0
            quant = Quant((float(stored.scale[0]),), (int(stored.zero[0]) - shift,))
            steps = _steps(tensor.data, stored.scale)
            if steps is not None and dtype == "int8":
                return editor.const(f"{name}.int8", (steps + quant.zero_point[0]).astype(np.int8), tensor.origin, quant)
        if tensor.size != 1 or dtype != "int8":
            return None
        value = float(tensor.data.reshape(-1)[0])
        quant = Quant((abs(value) / 127 or 1.0,), (0,))
        return editor.const(f"{name}.int8", quantise_array(tensor.data, quant.scale[0], 0, "int8"), tensor.origin, quant)

    def _layer(self, editor: Editor, node: Node, dtype: str) -> tuple[str, ...] | None:
        """(x, int8 weight, int32 bias) of a layer whose weights were stored as integers."""
        x, w = _integers_of(editor, node.inputs[0], dtype), editor[node.inputs[1]]
        stored = self.stored.get(w.origin or "")
        if x is None or stored is None or w.data is None:
            return None
        weight = _weight(node, w.data, stored)
        if weight is None:
            return None
        values, quant = weight
        bias = None
        if len(node.inputs) > 2 and node.inputs[2]:
            b = editor[node.inputs[2]]
            if b.data is None or dtype != "int8":
                return None
            bias = _bias(b.data, self.stored.get(b.origin or ""), editor[x].scale, quant)
            if bias is None:
                return None
        name = editor.const(f"{w.name}.int8", values, w.origin, quant)
        if bias is None:
            return (x, name, "")
        return (x, name, editor.const(f"{node.inputs[2]}.int32", bias[0], editor[node.inputs[2]].origin, bias[1]))


def _target(editor: Editor, node: Node) -> tuple[str, Quant] | None:
    """(type, quantisation) that every reader of the node's float result converts it to; None where one does not."""
    if len(node.outputs) != 1 or node.op not in (*WEIGHT_AXIS, *SAME_SCALE, *OWN_SCALE, *FIXED) or editor.is_output(node.outputs[0]):
        return None
    readers = editor.readers(node.outputs[0])
    if editor[node.outputs[0]].dtype != "float32" or not readers or any(r.op != "quantize" for r in readers):
        return None
    forms = {(editor[r.outputs[0]].dtype, editor[r.outputs[0]].quant) for r in readers}
    dtype, quant = next(iter(forms))
    if len(forms) > 1 or quant is None or dtype not in OPS[node.op].dtypes or dtype not in ("int8", "int16"):
        return None
    return dtype, quant


def _integers_of(editor: Editor, name: str, dtype: str) -> str | None:
    """q of dequantize(q)."""
    node = editor.producer(name)
    if node is None or node.op != "dequantize" or editor[node.inputs[0]].dtype != dtype:
        return None
    return node.inputs[0]


def _requantized(editor: Editor, name: str, like: Node, dtype: str, quant: Quant) -> str:
    tensor = editor[name]
    if tensor.data is not None and tensor.is_const and tensor.quant is not None:
        real = (tensor.data.astype(np.float32) - tensor.quant.zero_point[0]) * np.float32(tensor.quant.scale[0])
        return editor.const(f"{name}.scaled", quantise_array(real, quant.scale[0], quant.zero_point[0], dtype), tensor.origin, quant)
    return editor.emit("requantize", (name,), {}, like, quant=quant, dtype=dtype, stem=f"{like.name}.requantize")


def _steps(data: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    """Integers k with data = scale * k; None when the data is something else (computed from what was stored)."""
    steps = np.rint(data.astype(np.float64) / scale.astype(np.float64))
    return steps.astype(np.int64) if np.allclose(steps * scale, data, rtol=1e-6, atol=0) else None


def _weight(node: Node, data: np.ndarray, stored: Stored) -> tuple[np.ndarray, Quant] | None:
    """(int8 values in the layout of `data`, quantisation); None where they need more than int8."""
    axis, scale = WEIGHT_AXIS[node.op], stored.scale
    one = scale.size == 1
    if not one and scale.size != data.shape[axis]:
        return None
    steps = _steps(data, scale if one else scale.reshape([-1 if i == axis else 1 for i in range(data.ndim)]))
    if steps is None:
        return None
    zero = 0
    if steps.size and not (steps.min() >= -128 and steps.max() <= 127):
        if not (one and node.op == "dense"):
            return None
        zero = int(stored.zero.reshape(-1)[0]) - (128 if stored.values.dtype == np.uint8 else 0)
        steps = steps + zero  # LiteRT lets a dense layer's weight have a zero point when it has one scale
        if not (steps.min() >= -128 and steps.max() <= 127):
            return None
    quant = Quant((float(scale[0]),), (zero,)) if one else Quant(tuple(scale.tolist()), (0,) * scale.size, axis)
    return steps.astype(np.int8), quant


def _bias(data: np.ndarray, stored: Stored | None, x_scale: float, weight: Quant) -> tuple[np.ndarray, Quant] | None:
    """(int32 values, scale x * weight per channel): the stored ones where they have that scale, else the nearest."""
    scale = np.float64(np.float32(x_scale)) * np.asarray(weight.scale, np.float64)
    quant = Quant(tuple(scale.tolist()), (0,) * scale.size, 0 if scale.size > 1 else None)
    if stored is not None and stored.values.dtype == np.int32 and stored.values.size == data.size:
        ratio = stored.scale.astype(np.float64) / (scale if stored.scale.size == scale.size else scale[:1])
        if np.allclose(ratio, 1, rtol=1e-5) and not stored.zero.any():
            return stored.values.reshape(data.shape), quant
    steps = np.rint(data.astype(np.float64) / scale)
    return (steps.astype(np.int32), quant) if np.abs(steps).max(initial=0) < 2**31 else None


# ---- after -----------------------------------------------------------------------------------------------------------


def _joined(editor: Editor, node: Node) -> bool:
    """quantize(dequantize(q)) is q, or q at another scale."""
    before = editor.producer(node.inputs[0]) if node.op == "quantize" else None
    if before is None or before.op != "dequantize":
        return False
    q, out = editor[before.inputs[0]], editor[node.outputs[0]]
    if (q.dtype, q.quant) == (out.dtype, out.quant):
        editor.redirect(out.name, q.name)
        editor.drop(node)
        return True
    if q.dtype == "int32" or out.dtype == "int32":
        return False
    editor.change(node, op="requantize", inputs=(q.name,))
    return True




def _integers_outside(graph: Graph) -> Graph:
    """Inputs and outputs in int8: a quarter of the memory, and no conversion on the device."""
    editor = Editor(graph)
    for name in graph.inputs:
        readers = editor.readers(name)
        forms = {(editor[r.outputs[0]].dtype, editor[r.outputs[0]].quant) for r in readers}
        if len(forms) != 1 or any(r.op != "quantize" or editor.is_output(r.outputs[0]) for r in readers) or editor.is_output(name):
            continue
        dtype, quant = forms.pop()
        editor.tensors[name] = replace(editor[name], dtype=dtype, quant=quant)
        for reader in readers:
            editor.redirect(reader.outputs[0], name)
            editor.drop(reader)
    for index, name in enumerate(editor.outputs):
        node = editor.producer(name)
        if node is not None and node.op == "dequantize" and editor.producer(node.inputs[0]) is not None and editor[node.inputs[0]].dtype == "int8":
            editor.outputs[index] = node.inputs[0]
    return editor.finish()
