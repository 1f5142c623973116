"""Softmax along the last dimension, which is the one that kernels and integers know."""

from __future__ import annotations

from dataclasses import replace

from sdk.graph.editor import Editor, sweep
from sdk.graph.ir import Graph, Node
from sdk.passes.permutations import apply, inverse


def softmax_last(graph: Graph) -> Graph:
    """softmax and log_softmax along another dimension, as channel-first models have them, stand between two transposes that
    put it last; `cancel_transposes` takes out those that meet others."""
    return sweep(graph, _put_last)


def _put_last(editor: Editor, node: Node) -> bool:
    if node.op not in ("softmax", "log_softmax"):
        return False
    x, out = editor[node.inputs[0]], editor[node.outputs[0]]
    rank = len(x.shape)
    axis = int(node.attrs.get("axis", -1)) % max(rank, 1)
    if axis >= rank - 1:
        return False
    perm = (*(i for i in range(rank) if i != axis), axis)
    turned = editor.emit("transpose", node.inputs, {"perm": perm}, node, quant=x.quant, stem=f"{node.name}.turn")
    held = replace(out, name=editor.unique(f"{node.name}.last", editor.tensors), shape=apply(perm, out.shape))
    editor.tensors[held.name] = held
    editor.drop(node)
    editor.add(replace(node, inputs=(turned,), outputs=(held.name,), attrs={**node.attrs, "axis": rank - 1}))
    editor.redirect(out.name, editor.emit("transpose", (held.name,), {"perm": inverse(perm)}, node, quant=out.quant, stem=f"{node.name}.back"))
    return True
