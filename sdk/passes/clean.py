"""Nodes that do nothing, or do again what was done."""

from __future__ import annotations

import numpy as np

from sdk.graph.editor import Editor, sweep
from sdk.graph.ir import Graph, Node


def remove_identities(graph: Graph) -> Graph:
    """Reshapes to the same shape, chains of reshapes, casts to the same type, slices of everything, x * 1, x + 0...: each
    would cost a copy on the device and stands between two nodes that other passes could join."""
    return sweep(graph, _skip, _join_reshapes)


def remove_dead_nodes(graph: Graph) -> Graph:
    """Nodes whose results nobody uses: `Editor.finish` leaves them out."""
    return Editor(graph).finish()


def merge_duplicates(graph: Graph) -> Graph:
    """Two nodes of the same op, inputs and attributes are one: importers write the same transpose for every reader."""
    editor = Editor(graph)
    seen: dict[tuple, Node] = {}
    for node in list(editor.nodes.values()):
        node = editor.nodes[node.name]
        if node.op == "opaque" or len(node.outputs) != 1 or any(editor[n].variable for n in node.inputs if n):
            continue
        out = editor[node.outputs[0]]
        key = (node.op, node.inputs, tuple(sorted((k, repr(v)) for k, v in node.attrs.items())), out.dtype, out.quant)
        first = seen.setdefault(key, node)
        if first.name != node.name and not (editor.is_output(node.outputs[0]) and editor.is_output(first.outputs[0])):
            editor.redirect(node.outputs[0], first.outputs[0])
            editor.drop(node)
    return editor.finish()


def _skip(editor: Editor, node: Node) -> bool:
    """Readers of a node that changes nothing read its input."""
    if node.op == "opaque" or len(node.outputs) != 1 or not node.inputs or not node.inputs[0]:
        return False
    kept = _kept_input(editor, node)
    if kept is None:
        return False
    x, y = editor[kept], editor[node.outputs[0]]
    if x.shape != y.shape or x.dtype != y.dtype or x.quant != y.quant or node.attrs.get("activation", "none") != "none":
        return False
    if editor.is_output(y.name) and (editor.producer(x.name) is None or editor.is_output(x.name)):
        return False  # an output must be a tensor of its own
    editor.redirect(y.name, x.name)
    editor.drop(node)
    return True


def _kept_input(editor: Editor, node: Node) -> str | None:
    """The input that the node hands through unchanged, if shapes, types and scales agree too."""
    a = node.attrs
    match node.op:
        case "reshape" | "cast" | "slice" | "tile" | "pad" | "resize_nearest" | "requantize":
            # same shape (and scale) in and out leaves these ops nothing to do, except a slice that runs backwards
            return None if node.op == "slice" and min(a.get("strides") or (1,)) < 0 else node.inputs[0]
        case "transpose":
            return node.inputs[0] if tuple(a["perm"]) == tuple(range(len(a["perm"]))) else None
        case "concat":
            return node.inputs[0] if len(node.inputs) == 1 else None
        case "mean" | "sum" | "reduce_max":
            shape, axes = editor[node.inputs[0]].shape, a.get("axes")
            return node.inputs[0] if axes is not None and all(shape[i] == 1 for i in axes) else None
        case "max_pool2d" | "avg_pool2d":
            return node.inputs[0] if tuple(a["kernel"]) == (1, 1) and not any(map(any, a["padding"])) else None
        case "add" | "sub" | "mul" | "div" if editor[node.outputs[0]].dtype == "float32":
            return _neutral(editor, node)
    return None


def _neutral(editor: Editor, node: Node) -> str | None:
    """x of x + 0, x - 0, x * 1, x / 1 (and 0 + x, 1 * x)."""
    neutral = 0.0 if node.op in ("add", "sub") else 1.0
    for x, other in ((0, 1), (1, 0)):
        data = editor.data(node.inputs[other])
        if data is not None and np.all(data == neutral) and (x == 0 or node.op in ("add", "mul")):
            return node.inputs[x]
    return None


def _join_reshapes(editor: Editor, node: Node) -> bool:
    """reshape(reshape(x)) is one reshape of x."""
    before = editor.producer(node.inputs[0]) if node.op == "reshape" else None
    if before is None or before.op != "reshape" or editor[before.inputs[0]].quant != editor[node.outputs[0]].quant:
        return False
    editor.change(node, inputs=before.inputs)
    return True
