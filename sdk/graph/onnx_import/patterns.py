"""Ops that exporters write as several: gelu, silu, hard_swish, layer_norm. As one they have an int8 form, and cost one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from sdk.graph.editor import Editor, sweep
from sdk.graph.ir import Graph, Node


def recognise(graph: Graph) -> Graph:
    """The graph with those groups of nodes as single ops."""
    return sweep(graph, _hard_sigmoid, _hard_swish, _gated, _gelu, _layer_norm)


def _near(value: float | None, wanted: float) -> bool:
    return value is not None and math.isclose(value, wanted, rel_tol=1e-4)


def _real(editor: Editor, name: str) -> str:
    """The value behind `name`, seen through pairs of quantize and dequantize: onnxruntime puts them inside these groups too."""
    node = editor.producer(name)
    if node is None or node.op != "dequantize":
        return name
    before = editor.producer(node.inputs[0])
    return _real(editor, before.inputs[0]) if before is not None and before.op == "quantize" else node.inputs[0]


def _next(editor: Editor, name: str) -> tuple[Node, str] | None:
    """(the one reader of `name`, the name it reads it by), seen through such pairs."""
    node = editor.only_reader(name)
    while node is not None and node.op in ("quantize", "dequantize"):
        name = node.outputs[0]
        node = editor.only_reader(name)
    return None if node is None else (node, name)


def _scaled(editor: Editor, name: str) -> tuple[str, float]:
    """(x, c) of a tensor that is c * x; (itself, 1) for anything else."""
    node = editor.producer(_real(editor, name))
    if node is not None and node.op in ("mul", "div") and node.attrs.get("activation", "none") == "none":
        for i in (0, 1) if node.op == "mul" else (0,):
            c = editor.scalar(node.inputs[1 - i])
            if c:
                return node.inputs[i], c if node.op == "mul" else 1 / c
    return name, 1.0


def _become(editor: Editor, node: Node, op: str, inputs: tuple[str, ...], attrs: Mapping[str, object]) -> bool:
    editor.change(node, op=op, inputs=inputs, attrs=attrs)
    return True


def _relu6_of_plus_3(editor: Editor, name: str) -> str | None:
    """x of relu6(x + 3)."""
    outer = editor.producer(name)
    inner = editor.producer(outer.inputs[0]) if outer is not None and outer.op == "relu6" else None
    if inner is None or inner.op != "add" or inner.attrs.get("activation", "none") != "none":
        return None
    return next((inner.inputs[i] for i in (0, 1) if _near(editor.scalar(inner.inputs[1 - i]), 3.0)), None)


def _hard_sigmoid(editor: Editor, node: Node) -> bool:
    """relu6(x + 3) / 6."""
    clipped, c = _scaled(editor, node.outputs[0]) if node.op in ("mul", "div") else ("", 0.0)
    x = _relu6_of_plus_3(editor, clipped) if clipped and _near(c, 1 / 6) else None
    return x is not None and _become(editor, node, "hard_sigmoid", (x,), {})


def _hard_swish(editor: Editor, node: Node) -> bool:
    """(x * relu6(x + 3)) / 6."""
    whole, c = _scaled(editor, node.outputs[0]) if node.op in ("mul", "div") else ("", 0.0)
    product = editor.producer(whole) if whole and _near(c, 1 / 6) else None
    if product is None or product.op != "mul" or product.attrs.get("activation", "none") != "none":
        return False
    for i in (0, 1):
        x = _relu6_of_plus_3(editor, product.inputs[1 - i])
        if x is not None and x == product.inputs[i]:
            return _become(editor, node, "hard_swish", (x,), {})
    return False


def _gated(editor: Editor, node: Node) -> bool:
    """x * sigmoid(x) is silu, x * hard_sigmoid(x) is hard_swish."""
    if node.op != "mul" or node.attrs.get("activation", "none") != "none":
        return False
    for i in (0, 1):
        gate = editor.producer(node.inputs[1 - i])
        if gate is not None and gate.op in ("sigmoid", "hard_sigmoid") and gate.inputs[0] == node.inputs[i]:
            return _become(editor, node, "silu" if gate.op == "sigmoid" else "hard_swish", (node.inputs[i],), {})
    return False


def _gelu(editor: Editor, node: Node) -> bool:
    """0.5 * x * (1 + erf(x / sqrt(2))), multiplied in any order."""
    if node.op != "opaque" or node.attrs.get("kind") != "Erf":
        return False
    x, c = _scaled(editor, node.inputs[0])
    found = _next(editor, node.outputs[0])
    if not _near(c, math.sqrt(0.5)) or found is None or found[0].op != "add" or not any(_near(editor.scalar(n), 1.0) for n in found[0].inputs):
        return False
    at, factor, seen = found[0], 1.0, False
    while (found := _next(editor, at.outputs[0])) is not None and found[0].op in ("mul", "div"):
        at, value = found
        if at.inputs[0] == at.inputs[1] or (at.op == "div" and at.inputs[0] != value):
            return False
        other = at.inputs[1] if at.inputs[0] == value else at.inputs[0]
        by = editor.scalar(other)
        if by is None:
            source, by = _scaled(editor, other) if _real(editor, other) != _real(editor, x) else (x, 1.0)
            if _real(editor, source) != _real(editor, x) or seen or at.op == "div":
                return False
            seen = True
        factor = factor / by if at.op == "div" else factor * by
        if seen and _near(factor, 0.5):
            return _become(editor, at, "gelu", (x,), {"approximate": False})
    return False


# ---- layer_norm ----------------------------------------------------------------------------------------------------


def _row_mean(editor: Editor, name: str) -> str | None:
    """x of a mean over its last axis that keeps the dimension."""
    node = editor.producer(name)
    if node is None or node.op != "mean" or not node.attrs.get("keep_dims"):
        return None
    return node.inputs[0] if tuple(node.attrs["axes"]) == (len(editor[node.inputs[0]].shape) - 1,) else None


def _centred(editor: Editor, name: str) -> str | None:
    """x of x - mean(x)."""
    node = editor.producer(name)
    return node.inputs[0] if node is not None and node.op == "sub" and _row_mean(editor, node.inputs[1]) == node.inputs[0] else None


def _variance(editor: Editor, name: str) -> str | None:
    """x of mean((x - mean(x)) squared)."""
    square = editor.producer(_row_mean(editor, name) or "")
    if square is None or square.op != "mul" or square.inputs[0] != square.inputs[1]:
        return None
    return _centred(editor, square.inputs[0])


def _deviation(editor: Editor, name: str) -> tuple[str, float] | None:
    """(x, eps) of sqrt(variance(x) + eps)."""
    root = editor.producer(name)
    plus = editor.producer(root.inputs[0]) if root is not None and root.op == "sqrt" else None
    return _with_eps(editor, plus)


def _with_eps(editor: Editor, plus: Node | None) -> tuple[str, float] | None:
    if plus is None or plus.op != "add":
        return None
    for i in (0, 1):
        eps, x = editor.scalar(plus.inputs[1 - i]), _variance(editor, plus.inputs[i])
        if eps is not None and x is not None:
            return x, eps
    return None


def _inverse_deviation(editor: Editor, name: str) -> tuple[str, float] | None:
    """(x, eps) of 1 / sqrt(variance(x) + eps)."""
    node = editor.producer(name)
    if node is not None and node.op == "rsqrt":
        return _with_eps(editor, editor.producer(node.inputs[0]))
    return _deviation(editor, node.inputs[1]) if node is not None and node.op == "div" and editor.scalar(node.inputs[0]) == 1.0 else None


def _layer_norm(editor: Editor, node: Node) -> bool:
    """(x - mean(x)) / sqrt(variance(x) + eps), then the factor and the offset where they follow."""
    found, centred = None, ""
    if node.op == "div":
        found, centred = _deviation(editor, node.inputs[1]), node.inputs[0]
    elif node.op == "mul":
        for i in (0, 1):
            found, centred = found or _inverse_deviation(editor, node.inputs[1 - i]), centred if found else node.inputs[i]
    if found is None or _centred(editor, centred) != found[0]:
        return False
    x, eps = found
    width = editor[x].shape[-1]
    gamma, last = _per_channel(editor, node, "mul", width)
    beta, last = _per_channel(editor, last, "add", width)
    weight = gamma or editor.const(f"{node.name}.ones", np.ones(width, np.float32))
    bias = beta or editor.const(f"{node.name}.zeros", np.zeros(width, np.float32))
    return _become(editor, last, "layer_norm", (x, weight, bias), {"axes": (len(editor[x].shape) - 1,), "eps": eps})


def _per_channel(editor: Editor, node: Node, op: str, width: int) -> tuple[str | None, Node]:
    """(constant [C], the node that applies it) where `op` with one value per channel is all that follows."""
    after = editor.only_reader(node.outputs[0])
    if after is None or after.op != op or after.inputs[0] == after.inputs[1] or after.attrs.get("activation", "none") != "none":
        return None, node
    other = after.inputs[1] if after.inputs[0] == node.outputs[0] else after.inputs[0]
    value = editor[other]
    return (other, after) if value.is_const and value.shape == (width,) and value.dtype == "float32" else (None, node)
