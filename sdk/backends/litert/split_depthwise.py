"""Large depthwise kernels as sums of small ones: XNNPACK has fast depthwise kernels for at most 25 taps, and 7x7 has 49.

Beyond 25 it takes a path that costs some fifteen times as much per tap: measured on x86-64, three 7x7 layers of an MCUNet took
two thirds of its time.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sdk.graph.ir import Graph, Node, Tensor

MOST_TAPS = 25
_NONE = ((0, 0), (0, 0))
Tile = tuple[int, int, int, int]  # first row, first column, rows, columns


def tiles(height: int, width: int) -> list[Tile]:
    """Disjoint parts of a kernel, of at most 25 taps each: 5x5 and what is left beside and below it, cut where it is long.

    Example: `tiles(7, 7)` is 5x5, 5x2 and 2x7.
    """
    if height * width <= MOST_TAPS:
        return [(0, 0, height, width)]
    h, w = min(height, 5), min(width, 5)
    if h < 5:
        w = min(width, MOST_TAPS // h)
    elif w < 5:
        h = min(height, MOST_TAPS // w)
    beside = [(y, x + w, a, b) for y, x, a, b in tiles(h, width - w)] if width > w else []
    below = [(y + h, x, a, b) for y, x, a, b in tiles(height - h, width)] if height > h else []
    return [(0, 0, h, w), *beside, *below]


def split_depthwise(graph: Graph) -> Graph:
    """`graph` (float32) with every depthwise kernel of more than 25 taps as a sum; other nodes stay as they are."""
    tensors, nodes = dict(graph.tensors), []
    for node in graph.nodes:
        nodes += _parts(tensors, node) if _is_large(graph, node) else [node]
    return graph.with_nodes(nodes, tensors)


def _is_large(graph: Graph, node: Node) -> bool:
    if node.op != "depthwise_conv2d" or graph[node.inputs[0]].dtype != "float32" or tuple(node.attrs.get("dilation", (1, 1))) != (1, 1):
        return False
    w = graph[node.inputs[1]]
    return w.data is not None and w.shape[1] * w.shape[2] > MOST_TAPS


def _parts(tensors: dict[str, Tensor], node: Node) -> list[Node]:
    """Pad once; each tile is a depthwise layer on its own cut of the padded image; the sums end in the node's output."""
    x, out = tensors[node.inputs[0]], node.outputs[0]
    weight = tensors[node.inputs[1]]
    assert weight.data is not None
    padding = tuple((int(low), int(high)) for low, high in node.attrs["padding"])
    n, h, w, c = x.shape
    nodes: list[Node] = []

    def add(op: str, inputs: tuple[str, ...], shape: tuple[int, ...], last: bool = False, **attrs: object) -> str:
        name = out if last else _free(tensors, f"{out}.part{len(nodes)}")
        tensors[name] = replace(tensors[out]) if last else Tensor(name, shape, "float32")
        nodes.append(Node(node.name if last else f"{node.name}.part{len(nodes)}", op, inputs, (name,), attrs, node.source))
        return name

    image, height, width = x.name, h + sum(padding[0]), w + sum(padding[1])
    if padding != _NONE:
        image = add("pad", (image,), (n, height, width, c), paddings=((0, 0), *padding, (0, 0)), value=0.0)
    shape, stride = tensors[out].shape, tuple(node.attrs["stride"])
    total = ""
    cuts = tiles(weight.shape[1], weight.shape[2])
    for i, (y, left, rows, columns) in enumerate(cuts):
        size = ((shape[1] - 1) * stride[0] + rows, (shape[2] - 1) * stride[1] + columns)
        part = image
        if (y, left, *size) != (0, 0, height, width):
            part = add("slice", (image,), (n, *size, c), begin=(0, y, left, 0), end=(n, y + size[0], left + size[1], c), strides=(1, 1, 1, 1))
        taps = np.ascontiguousarray(weight.data[:, y : y + rows, left : left + columns])
        kernel = _free(tensors, f"{weight.name}.tile{i}")
        tensors[kernel] = Tensor(kernel, taps.shape, "float32", data=taps, origin=weight.origin)
        bias = node.inputs[2] if i == 0 and len(node.inputs) > 2 else ""
        attrs = {"stride": stride, "dilation": (1, 1), "padding": _NONE, "multiplier": node.attrs["multiplier"], "activation": "none"}
        made = add("depthwise_conv2d", (part, kernel, bias), shape, **attrs)
        last = i == len(cuts) - 1
        total = made if not total else add("add", (total, made), shape, last, activation=node.attrs.get("activation", "none") if last else "none")
    return nodes


def _free(tensors: dict[str, Tensor], name: str) -> str:
    while name in tensors:
        name += "_"
    return name
