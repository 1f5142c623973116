"""Batch normalisation, and any factor and offset per channel, into the layer before it."""

from __future__ import annotations

import numpy as np

from sdk.graph.editor import Editor, sweep
from sdk.graph.ir import Graph, Node

LAYERS = ("conv2d", "depthwise_conv2d", "dense")


def fold_batch_norm(graph: Graph) -> Graph:
    """conv2d, depthwise_conv2d or dense followed by batch_norm (or by mul, add, sub, div with one constant per channel)
    becomes one layer; a batch_norm that stands alone becomes mul and add. In inference all of these are y = a * x + b, so
    the layer's weights and bias can hold them; quantisation then sees the weights the device really uses."""
    return sweep(graph, _fold, _spell_out)


def affine(editor: Editor, node: Node, channels: int) -> tuple[np.ndarray, np.ndarray, int] | None:
    """`(factor [C], offset [C], index of x)` when the node is factor * x + offset in float64; None when it is not."""
    if node.op == "batch_norm":
        values = [editor.data(n) for n in node.inputs[1:]]
        if any(v is None for v in values):
            return None
        gamma, beta, mean, var = (np.asarray(v, np.float64) for v in values)
        factor = gamma / np.sqrt(var + node.attrs["eps"])
        return factor, beta - mean * factor, 0
    if node.op not in ("add", "sub", "mul", "div"):
        return None
    index = 0 if editor.data(node.inputs[1]) is not None else 1
    value = editor.data(node.inputs[1 - index])
    if value is None or value.dtype != np.float32 or not (value.size == 1 or (value.shape[-1:] == (channels,) and value.size == channels)):
        return None
    if value.ndim > len(editor[node.inputs[index]].shape):
        return None
    v = np.broadcast_to(value.astype(np.float64).reshape(-1), (channels,))
    one, zero = np.ones(channels), np.zeros(channels)
    match node.op, index:
        case "add", _:
            return one, v, index
        case "sub", 0:
            return one, -v, index
        case "sub", _:
            return -one, v, index
        case "mul", _:
            return v, zero, index
        case "div", 0 if np.all(v != 0):
            return 1 / v, zero, index
    return None


def _fold(editor: Editor, node: Node) -> bool:
    """layer -> affine: scale the weights and the bias."""
    if editor[node.outputs[0]].dtype != "float32" or not editor[node.outputs[0]].shape:
        return False
    found = affine(editor, node, editor[node.outputs[0]].shape[-1])
    if found is None:
        return False
    factor, offset, index = found
    layer = _layer_before(editor, node, node.inputs[index])
    if layer is None or editor[node.inputs[index]].shape != editor[node.outputs[0]].shape:
        return False
    weight, bias = editor.data(layer.inputs[1]), editor.data(layer.inputs[2]) if len(layer.inputs) > 2 else None
    if weight is None or weight.dtype != np.float32 or (bias is None and len(layer.inputs) > 2 and layer.inputs[2]):
        return False
    with np.errstate(over="ignore"):
        scaled = (weight * (factor if layer.op == "depthwise_conv2d" else factor.reshape(-1, *[1] * (weight.ndim - 1)))).astype(np.float32)
        shifted = ((0 if bias is None else bias.astype(np.float64)) * factor + offset).astype(np.float32)
    if not (np.isfinite(scaled).all() and np.isfinite(shifted).all()):
        return False
    old_bias = editor[layer.inputs[2]] if bias is not None else None
    names = (editor.const(f"{layer.inputs[1]}.folded", scaled, editor[layer.inputs[1]].origin),
             editor.const(f"{layer.name}.bias.folded", shifted, old_bias.origin if old_bias else None))  # fmt: skip
    changed = editor.change(layer, inputs=(layer.inputs[0], *names))
    if node.attrs.get("activation", "none") != "none":
        editor.change(changed, attrs={**changed.attrs, "activation": node.attrs["activation"]})
    editor.redirect(node.outputs[0], node.inputs[index])
    editor.drop(node)
    return True


def _layer_before(editor: Editor, node: Node, name: str) -> Node | None:
    """The layer without an activation whose values reach only `node`, as they are or with their leading dimensions reshaped:
    layers on signals work on images of height 1, and batch norms do not."""
    channels, reader = editor[name].shape[-1], node
    while editor.only_reader(name) is reader and (before := editor.producer(name)) is not None:
        if before.op in LAYERS:
            return before if before.attrs.get("activation", "none") == "none" else None
        if before.op != "reshape" or editor[before.inputs[0]].shape[-1:] != (channels,):
            return None
        name, reader = before.inputs[0], before
    return None


def _spell_out(editor: Editor, node: Node) -> bool:
    """A batch_norm behind something else than a layer: mul and add."""
    if node.op != "batch_norm":
        return False
    found = affine(editor, node, editor[node.outputs[0]].shape[-1])
    if found is None:
        return False
    factor, offset, _ = found
    scaled = editor.emit("mul", (node.inputs[0], editor.const(f"{node.name}.factor", factor.astype(np.float32))), {"activation": "none"}, node)
    y = editor.emit("add", (scaled, editor.const(f"{node.name}.offset", offset.astype(np.float32))), {"activation": "none"}, node)
    editor.redirect(node.outputs[0], y)
    editor.drop(node)
    return True
