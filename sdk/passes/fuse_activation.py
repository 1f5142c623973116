"""Activations into the layer before them."""

from __future__ import annotations

from sdk.graph.editor import Editor, sweep
from sdk.graph.ir import Graph, Node
from sdk.graph.ops import OPS

ACTIVATIONS = ("relu", "relu6", "relu_n1_to_1")
#: limits of a clip -> the activation it is
CLIPS = {(0.0, 6.0): "relu6", (-1.0, 1.0): "relu_n1_to_1"}
#: second activation -> first activations that already imply it
IMPLIED = {"relu": ("relu", "relu6"), "relu6": ("relu6",), "relu_n1_to_1": ("relu_n1_to_1",)}


def fuse_activation(graph: Graph) -> Graph:
    """relu, relu6, relu_n1_to_1 (and the clips that mean them) become an attribute of the layer before: the layer clamps
    the value it just computed, which costs nothing, and one tensor less has to exist."""
    return sweep(graph, _name_clip, _fuse)


def _name_clip(editor: Editor, node: Node) -> bool:
    if node.op == "maximum" and editor.scalar(node.inputs[1]) == 0.0 and editor[node.inputs[0]].shape == editor[node.outputs[0]].shape:
        if node.attrs.get("activation", "none") != "none":
            return False
        editor.change(node, op="relu", inputs=node.inputs[:1], attrs={})
        return True
    named = CLIPS.get((node.attrs["min"], node.attrs["max"])) if node.op == "clip" else None
    if named is None:
        return False
    editor.change(node, op=named, attrs={})
    return True


def _fuse(editor: Editor, node: Node) -> bool:
    if node.op not in ACTIVATIONS or editor[node.inputs[0]].quant != editor[node.outputs[0]].quant:
        return False
    layer = _layer_before(editor, node)
    if layer is None:
        return False
    present = layer.attrs.get("activation", "none")
    if present == "none":
        editor.change(layer, attrs={**layer.attrs, "activation": node.op})
    elif present not in IMPLIED[node.op]:
        return False
    editor.redirect(node.outputs[0], node.inputs[0])
    editor.drop(node)
    return True


def _layer_before(editor: Editor, node: Node) -> Node | None:
    """The layer whose values reach only `node`, possibly through reshapes and transposes, which move values and keep them."""
    name = node.inputs[0]
    while editor.only_reader(name) is not None and (before := editor.producer(name)) is not None:
        if "activation" in OPS[before.op].attrs:
            integers = editor[before.outputs[0]].dtype in ("int32", "int64")
            return None if integers else before
        if before.op not in ("reshape", "transpose") or editor[before.inputs[0]].quant != editor[before.outputs[0]].quant:
            return None
        name = before.inputs[0]
    return None
