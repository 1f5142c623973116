"""Elementwise ops, conversions, softmax and reductions as LiteRT operators."""

from __future__ import annotations

import numpy as np

from sdk.backends.litert import exact
from sdk.backends.litert.flatfile import TYPE_CODES, Options
from sdk.backends.litert.moves import cast_to
from sdk.backends.litert.sheet import Sheet, activation
from sdk.graph.ir import Node, Quant

#: op -> (operator, number of its options, whether it takes a fused activation)
BINARY = {
    "add": ("ADD", 11, True), "sub": ("SUB", 28, True), "mul": ("MUL", 21, True), "div": ("DIV", 29, True),
    "maximum": ("MAXIMUM", 39, False), "minimum": ("MINIMUM", 39, False), "squared_difference": ("SQUARED_DIFFERENCE", 76, False),
}  # fmt: skip
UNARY = {
    "relu": "RELU", "relu6": "RELU6", "relu_n1_to_1": "RELU_N1_TO_1", "leaky_relu": "LEAKY_RELU", "elu": "ELU", "hard_swish": "HARD_SWISH",
    "sigmoid": "LOGISTIC", "tanh": "TANH", "gelu": "GELU", "exp": "EXP", "log": "LOG", "sqrt": "SQRT", "rsqrt": "RSQRT", "abs": "ABS", "neg": "NEG",
}  # fmt: skip
#: Operators whose integer kernels compute the graph's integers, by type; what is missing is looked up in a table (int8).
_INTEGER = {
    "int8": frozenset({"relu", "relu6", "relu_n1_to_1", "leaky_relu", "hard_swish", "sigmoid", "tanh", "gelu", "exp", "log", "sqrt", "rsqrt", "abs"}),
    "int16": frozenset({"relu", "relu6", "leaky_relu", "sigmoid", "tanh", "gelu", "exp", "log", "abs"}),
}
#: The one output scale that LiteRT's int8 LOGISTIC takes.
_SIGMOID = Quant((1 / 256,), (-128,))


def binary(sheet: Sheet, node: Node) -> None:
    """The operator of the same name; its activation fused where its kernels do that."""
    kind, union, fuses = BINARY[node.op]
    if fuses:
        fields = {0: activation(node)}
        if sheet[node.inputs[0]].dtype == "int16" and node.op in ("add", "sub"):
            fields[1] = ("?", False)  # not the older rule for scales that are powers of two
        sheet.add(kind, node.inputs, node.outputs[0], Options(union, fields))
        return
    raw = sheet.apart(node)
    sheet.add(kind, node.inputs, raw, Options(union))
    sheet.activate(node, raw)


def unary(sheet: Sheet, node: Node) -> None:
    """The operator of the same name; without one, other float operators, or a table of 256 results for int8."""
    x, out = sheet[node.inputs[0]], sheet[node.outputs[0]]
    if x.dtype == "float32":
        if node.op in UNARY:
            sheet.add(UNARY[node.op], (x.name,), out.name, _options(node))
        else:
            SPELT[node.op](sheet, node)
    elif node.op in _INTEGER.get(x.dtype, ()) and not (node.op == "sigmoid" and x.dtype == "int8" and out.quant != _SIGMOID):
        sheet.add(UNARY[node.op], (x.name,), out.name, _options(node))
    elif x.dtype == "int8":
        exact.lookup(sheet, node)
    else:
        raise sheet.refuse(node, f"has no {node.op} on {x.dtype}; keep the node in float32 or int8")


def _options(node: Node) -> Options | None:
    match node.op:
        case "leaky_relu":
            return Options(75, {0: ("f", float(node.attrs["alpha"]))})
        case "gelu":
            return Options(116, {0: ("?", bool(node.attrs.get("approximate", False)))})
    return {"exp": Options(33), "abs": Options(78), "neg": Options(42), "hard_swish": Options(91)}.get(node.op)


def _silu(sheet: Sheet, node: Node) -> None:
    x, out = sheet[node.inputs[0]], node.outputs[0]
    gate = sheet.like(f"{out}.gate", x.name)
    sheet.add("LOGISTIC", (x.name,), gate)
    sheet.add("MUL", (x.name, gate), out, Options(21))


def _hard_sigmoid(sheet: Sheet, node: Node) -> None:
    out = node.outputs[0]
    gate = sheet.like(f"{out}.gate", out)
    sheet.add("ADD", (node.inputs[0], sheet.const("three", 3.0, "float32")), gate, Options(11, {0: ("b", 3)}))  # 3: relu6
    sheet.add("MUL", (gate, sheet.const("sixth", 1 / 6, "float32")), out, Options(21))


def _clip(sheet: Sheet, node: Node) -> None:
    x, out = node.inputs[0], node.outputs[0]
    low, high = float(node.attrs["min"]), float(node.attrs["max"])
    if low == -np.inf and high < np.inf:
        sheet.add("MINIMUM", (x, sheet.const("max", high, "float32")), out, Options(39))
        return
    above = out if high == np.inf else sheet.like(f"{out}.above", out)
    sheet.add("MAXIMUM", (x, sheet.const("min", max(low, float(np.finfo(np.float32).min)), "float32")), above, Options(39))
    if above != out:
        sheet.add("MINIMUM", (above, sheet.const("max", high, "float32")), out, Options(39))


#: Float ops that are several operators.
SPELT = {"silu": _silu, "hard_sigmoid": _hard_sigmoid, "clip": _clip}


def prelu(sheet: Sheet, node: Node) -> None:
    """PRELU."""
    sheet.add("PRELU", node.inputs, node.outputs[0])


def softmax(sheet: Sheet, node: Node) -> None:
    """SOFTMAX and LOG_SOFTMAX along the last axis; another axis is brought there and back."""
    x, out = sheet[node.inputs[0]], sheet[node.outputs[0]]
    rank, source, target = len(x.shape), x.name, out.name
    axis = node.attrs.get("axis", -1) % rank
    order = [i for i in range(rank) if i != axis] + [axis]
    if axis != rank - 1:
        shape = tuple(x.shape[i] for i in order)
        source, target = sheet.like(f"{out.name}.last", x.name, shape), sheet.like(f"{out.name}.rows", out.name, shape)
        sheet.add("TRANSPOSE", (x.name, sheet.const("perm", order)), source, Options(26))
    _softmax(sheet, node, source, target)
    if axis != rank - 1:
        sheet.add("TRANSPOSE", (target, sheet.const("perm", [order.index(i) for i in range(rank)])), out.name, Options(26))


def _softmax(sheet: Sheet, node: Node, x: str, out: str) -> None:
    beta = float(node.attrs.get("beta", 1.0))
    if node.op == "softmax":
        sheet.add("SOFTMAX", (x,), out, Options(9, {0: ("f", beta)}))
    elif beta == 1.0:
        sheet.add("LOG_SOFTMAX", (x,), out, Options(36))
    else:
        raise sheet.refuse(node, "has no log_softmax with a factor; multiply its input instead")


def convert(sheet: Sheet, node: Node) -> None:
    """QUANTIZE and DEQUANTIZE."""
    if node.op == "dequantize":
        if sheet[node.inputs[0]].dtype not in ("int8", "int16"):
            raise sheet.refuse(node, f"does not dequantise {sheet[node.inputs[0]].dtype}; cast it and multiply by the scale")
        sheet.add("DEQUANTIZE", node.inputs, node.outputs[0], Options(38))
    else:
        sheet.add("QUANTIZE", node.inputs, node.outputs[0], Options(89))


def batch_norm(sheet: Sheet, node: Node) -> None:
    """One factor and one term per channel; LiteRT has no such operator."""
    values = [sheet[n].data for n in node.inputs[1:]]
    gamma, beta, mean, var = (v for v in values if v is not None) if all(v is not None for v in values) else (None,) * 4
    if gamma is None or beta is None or mean is None or var is None:
        raise sheet.refuse(node, "has no batch norm with computed statistics; export the model for inference")
    factor = gamma / np.sqrt(var + np.float32(node.attrs["eps"]))
    out = node.outputs[0]
    scaled = sheet.like(f"{out}.scaled", out)
    sheet.add("MUL", (node.inputs[0], sheet.const("factor", factor, "float32")), scaled, Options(21))
    sheet.add("ADD", (scaled, sheet.const("term", beta - mean * factor, "float32")), out, Options(11))


# ---- reductions ----------------------------------------------------------------------------------------------------

_REDUCE = {"mean": "MEAN", "sum": "SUM", "reduce_max": "REDUCE_MAX"}


def reduce(sheet: Sheet, node: Node) -> None:
    """MEAN, SUM, REDUCE_MAX."""
    x = sheet[node.inputs[0]]
    if node.op == "sum" and x.dtype in ("int8", "int16"):
        exact.integer_sum(sheet, node)
    else:
        reduce_over(sheet, _REDUCE[node.op], node, x.name, node.outputs[0])


def reduce_over(sheet: Sheet, kind: str, node: Node, x: str, out: str) -> None:
    """A reduction with the node's axes."""
    exact.reduction(sheet, kind, x, out, exact.axes(sheet, node), bool(node.attrs.get("keep_dims", False)))


def argmax(sheet: Sheet, node: Node) -> None:
    """ARG_MAX; int16 has none and is compared as int32."""
    x, out = sheet[node.inputs[0]], sheet[node.outputs[0]]
    source = x.name
    if x.dtype == "int16":
        source = sheet.temp(f"{out.name}.wide", x.shape, "int32")
        cast_to(sheet, x.name, source)
    axis = sheet.const("axis", node.attrs["axis"] % len(x.shape))
    sheet.add("ARG_MAX", (source, axis), out.name, Options(40, {0: ("b", TYPE_CODES[out.dtype])}))
