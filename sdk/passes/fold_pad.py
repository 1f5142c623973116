"""Zero padding as a node of its own, into the layer that reads it."""

from __future__ import annotations

from sdk.graph.editor import Editor, sweep
from sdk.graph.ir import Graph, Node


def fold_pad(graph: Graph) -> Graph:
    """pad with zeros in height and width, followed by a convolution (or an average pool that counts them): the layer pads
    by itself, so the padded copy of the picture need not exist. max_pool2d cannot take it: its padding is minus infinity."""
    return sweep(graph, _fold)


def _fold(editor: Editor, node: Node) -> bool:
    pad = editor.producer(node.inputs[0]) if node.inputs and node.inputs[0] else None
    if pad is None or pad.op != "pad" or node.op not in ("conv2d", "depthwise_conv2d", "avg_pool2d"):
        return False
    amounts, source = tuple(map(tuple, pad.attrs["paddings"])), editor[pad.inputs[0]]
    if pad.attrs.get("value", 0) != 0 or len(amounts) != 4 or any(amounts[0]) or any(amounts[3]) or source.quant != editor[pad.outputs[0]].quant:
        return False
    own = node.attrs["padding"]
    both = tuple((own[i][0] + amounts[1 + i][0], own[i][1] + amounts[1 + i][1]) for i in (0, 1))
    changes = {"padding": both}
    if node.op == "avg_pool2d":
        counted = node.attrs.get("count_include_pad", False) or not any(map(any, own))
        if not counted or source.dtype != "float32" or any(max(both[i]) >= node.attrs["kernel"][i] for i in (0, 1)):
            return False
        changes["count_include_pad"] = True  # type: ignore[assignment]
    editor.change(node, inputs=(pad.inputs[0], *node.inputs[1:]), attrs={**node.attrs, **changes})
    if not editor.readers(pad.outputs[0]) and not editor.is_output(pad.outputs[0]):
        editor.drop(pad)
    return True
