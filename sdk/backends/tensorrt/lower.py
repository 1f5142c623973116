"""Older opsets for older TensorRTs: the same computation in the operators that opset 13 or 17 has.

An operator that is younger than the target and stands in neither table is refused by name; a guess could compute something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sdk.backends.tensorrt.graph import attribute, drop, fresh, label, names_of
from sdk.errors import UnsupportedOp

#: Versions after 13 that only took in more data types (or stated what was meant): the text of the node stays right.
SAME = frozenset(
    "Add Sub Mul Div Relu Identity Shape Reshape LeakyRelu PRelu Where Cast Flatten Transpose Squeeze Unsqueeze Equal Less Greater LessOrEqual "
    "GreaterOrEqual Pow Constant ConstantOfShape Size Conv ConvTranspose Sqrt Reciprocal Abs Ceil Floor Round Exp Log Sin Cos Tan Erf And Or Not "
    "MaxPool GlobalAveragePool GlobalMaxPool HardSigmoid Elu Selu Softplus Softsign InstanceNormalization LpPool Dropout BatchNormalization "
    "AveragePool Resize Pad Concat Slice Gather Expand Tile Softmax LogSoftmax MatMul Gemm Clip Sigmoid Tanh Min Max QuantizeLinear "
    "DequantizeLinear CumSum ScatterElements ScatterND If Loop Scan IsInf IsNaN".split()
)
#: Attributes that later versions added: (name, the value that means "as before").
ADDED: dict[str, tuple[tuple[str, Any], ...]] = {
    "Reshape": (("allowzero", 0),), "BatchNormalization": (("training_mode", 0),), "AveragePool": (("dilations", "ones"),),
    "Resize": (("antialias", 0), ("keep_aspect_ratio_policy", b"stretch")), "Cast": (("saturate", 1),), "QuantizeLinear": (("saturate", 1),),
    "Shape": (("start", 0),), "LpPool": (("dilations", "ones"), ("ceil_mode", 0)),
}  # fmt: skip
REDUCTIONS = frozenset(f"Reduce{x}" for x in "Mean Max Min Prod L1 L2 LogSum LogSumExp SumSquare".split())


class _Writer:
    """Nodes in the place of one: gives fresh names and stores constants."""

    def __init__(self, graph: Any, node: Any, taken: set[str], opset: int) -> None:
        self.graph, self.node, self.taken, self.opset = graph, node, taken, opset
        self.made: list[Any] = []

    def const(self, value: Any) -> str:
        from onnx import numpy_helper

        name = fresh(self.taken, f"{self.node.output[0]}_const")
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, last: bool = False, **attrs: Any) -> str:
        """Add a node; its output is a new tensor, or the replaced node's own where it is the `last`."""
        from onnx import helper

        out = self.node.output[0] if last else fresh(self.taken, f"{self.node.output[0]}_{kind.lower()}")
        name = self.node.name if last else fresh(self.taken, f"{self.node.name or self.node.output[0]}_{kind}")
        self.made.append(helper.make_node(kind, list(inputs), [out], name=name, **attrs))
        return out

    def mean(self, x: str, axes: list[int]) -> str:
        """Mean over `axes`, kept; they are an input from opset 18 on."""
        if self.opset >= 18:
            return self.op("ReduceMean", x, self.const(np.array(axes, np.int64)), keepdims=1)
        return self.op("ReduceMean", x, axes=axes, keepdims=1)


def lower(model: Any, opset: int) -> Any:
    """The model (ModelProto, Constant nodes already initialisers) in `opset`, 13 or newer; `model` itself where it is old enough.

    Raises UnsupportedOp naming the first operator that the target does not have.
    """
    import onnx

    have = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if have <= opset:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    taken, nodes = names_of(made.graph), list(made.graph.node)
    del made.graph.node[:]
    for node in nodes:
        made.graph.node.extend(_lowered(made.graph, node, taken, have, opset))
    for entry in made.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset
    return made


def _lowered(graph: Any, node: Any, taken: set[str], have: int, opset: int) -> list[Any]:
    import onnx

    if node.domain not in ("", "ai.onnx"):
        raise UnsupportedOp(f"{label(node)} is of the domain {node.domain}, which TensorRT's parser does not read; export the model without it")
    since = onnx.defs.get_schema(node.op_type, have).since_version
    if since <= opset:
        return [node]
    writer = _Writer(graph, node, taken, opset)
    if node.op_type in REDUCTIONS:
        return [_reduction(graph, node)]
    if node.op_type in REWRITES:
        REWRITES[node.op_type](writer)
        return writer.made
    if node.op_type not in SAME:
        raise UnsupportedOp(
            f"{label(node)} needs ONNX opset {since} and this TensorRT reads up to {opset}; write the layer with older operators or aim at a newer TensorRT"
        )
    if node.op_type == "Reshape" and _has_no_zero(graph, node):
        drop(node, "allowzero")  # it says what a 0 in the shape means
    _plain(node)
    return [node]


def _has_no_zero(graph: Any, node: Any) -> bool:
    from onnx import numpy_helper

    stored = next((i for i in graph.initializer if i.name == node.input[1]), None)
    return stored is not None and bool(numpy_helper.to_array(stored).all())


def _plain(node: Any) -> None:
    """Drop attributes that did not exist, where they say what was always done; refuse them where they do not."""
    for name, plain in ADDED.get(node.op_type, ()):
        value = attribute(node, name)
        if value is None:
            continue
        if not (all(v == 1 for v in value) if plain == "ones" else value == plain):
            raise UnsupportedOp(f"{label(node)} has {name}={value!r}, which the opset of this TensorRT does not know; leave it out or aim at a newer TensorRT")
        drop(node, name)
    if node.op_type == "Pad" and len(node.input) > 3 and node.input[3]:
        raise UnsupportedOp(f"{label(node)} pads chosen axes, which the opset of this TensorRT does not know; give pads for every axis")


def _reduction(graph: Any, node: Any) -> Any:
    """Axes as an attribute, as it was before opset 18."""
    from onnx import helper, numpy_helper

    stored = {i.name: i for i in graph.initializer}
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in stored:
            raise UnsupportedOp(f"{label(node)} computes its axes, which TensorRT wants constant; export the model with fixed axes")
        node.attribute.append(helper.make_attribute("axes", [int(v) for v in numpy_helper.to_array(stored[node.input[1]])]))
    elif attribute(node, "noop_with_empty_axes", 0):
        return helper.make_node("Identity", [node.input[0]], list(node.output), name=node.name)
    del node.input[1:]
    drop(node, "noop_with_empty_axes")
    return node


def _layer_norm(w: _Writer) -> None:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axes."""
    node = w.node
    if len([o for o in node.output if o]) > 1:
        raise UnsupportedOp(f"{label(node)} gives its mean away too, which this TensorRT does not know; use its first output only")
    axis = attribute(node, "axis", -1)
    if axis >= 0:
        raise UnsupportedOp(f"{label(node)} counts its axis from the front; export it with a negative axis")
    axes = list(range(axis, 0))
    centred = w.op("Sub", node.input[0], w.mean(node.input[0], axes))
    variance = w.mean(w.op("Mul", centred, centred), axes)
    spread = w.op("Sqrt", w.op("Add", variance, w.const(np.float32(attribute(node, "epsilon", 1e-5)))))
    y = w.op("Div", centred, spread)
    bias = node.input[2] if len(node.input) > 2 else ""
    y = w.op("Mul", y, node.input[1], last=not bias)
    if bias:
        w.op("Add", y, bias, last=True)


def _hard_swish(w: _Writer) -> None:
    """x * hard_sigmoid(x / 6 + 1/2)."""
    w.op("Mul", w.node.input[0], w.op("HardSigmoid", w.node.input[0], alpha=1 / 6, beta=0.5), last=True)


def _gelu(w: _Writer) -> None:
    """x / 2 * (1 + erf(x / sqrt 2)), or the tanh form."""
    x, half, one = w.node.input[0], w.const(np.float32(0.5)), w.const(np.float32(1))
    if attribute(w.node, "approximate", b"none") == b"tanh":
        cube = w.op("Mul", w.op("Mul", w.op("Mul", x, x), x), w.const(np.float32(0.044715)))
        curve = w.op("Tanh", w.op("Mul", w.op("Add", x, cube), w.const(np.float32(np.sqrt(2 / np.pi)))))
    else:
        curve = w.op("Erf", w.op("Mul", x, w.const(np.float32(np.sqrt(0.5)))))
    w.op("Mul", w.op("Mul", x, half), w.op("Add", curve, one), last=True)


def _split(w: _Writer) -> None:
    """Equal parts without `num_outputs`: before opset 18 the outputs were counted."""
    if attribute(w.node, "num_outputs") is not None and not (len(w.node.input) > 1 and w.node.input[1]):
        drop(w.node, "num_outputs")
    w.made.append(w.node)


REWRITES: dict[str, Callable[[_Writer], None]] = {"LayerNormalization": _layer_norm, "HardSwish": _hard_swish, "Gelu": _gelu, "Split": _split}
