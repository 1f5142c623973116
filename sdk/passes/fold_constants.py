"""Compute at compile time what does not depend on the input."""

from __future__ import annotations

from sdk.errors import EmbarqError
from sdk.graph.editor import Editor, sweep
from sdk.graph.ir import Graph, Node
from sdk.graph.ops import OPS

#: A folded constant may be this many times larger than what it is made of, or this many bytes: flash is the scarcer memory.
GROWTH, SMALL_BYTES = 4, 1 << 16


def fold_constants(graph: Graph) -> Graph:
    """Nodes that read only constants become constants: they would take time and RAM on every inference for the same result."""
    return sweep(graph, _fold)


def _fold(editor: Editor, node: Node) -> bool:
    tensors = [editor[n] for n in node.inputs if n]
    if node.op == "opaque" or len(node.outputs) != 1 or not tensors or not all(t.is_const for t in tensors):
        return False
    out = editor[node.outputs[0]]
    if node.op == "reshape" and editor.is_output(out.name):
        return False  # what hands a constant out
    if out.size_bytes > max(GROWTH * sum(t.size_bytes for t in tensors), SMALL_BYTES):
        return False
    try:
        (value,) = OPS[node.op].compute(node, editor.tensors, {})
    except EmbarqError:
        return False
    origin = tensors[0].origin if node.op in ("reshape", "transpose") else None
    editor.redirect(out.name, editor.const(f"{node.name}.folded", value.astype(out.dtype, copy=False), origin, out.quant))
    editor.drop(node)
    return True
