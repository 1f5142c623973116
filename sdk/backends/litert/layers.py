"""Convolutions, dense layers, matrix products and pools as LiteRT operators."""

from __future__ import annotations

import numpy as np

from sdk.backends.litert.flatfile import TYPE_CODES, Options
from sdk.backends.litert.sheet import Sheet, activation
from sdk.graph.ir import Node, Quant
from sdk.graph.quantmath import RANGE

Pads = tuple[tuple[int, int], tuple[int, int]]
SAME, VALID = 0, 1
_NONE: Pads = ((0, 0), (0, 0))


def same_padding(sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Pads:
    """What LiteRT's SAME stands for: ceil(size / stride) outputs, the odd pixel at the end."""
    pads = []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        pads.append((total // 2, total - total // 2))
    return pads[0], pads[1]


def _scheme(sheet: Sheet, node: Node, kernel: tuple[int, ...], fill: float = 0.0) -> tuple[str, int]:
    """(input, SAME or VALID); padding that is neither is written as a PAD before."""
    x = sheet[node.inputs[0]]
    padding = tuple((int(low), int(high)) for low, high in node.attrs["padding"])
    dilation = tuple(node.attrs.get("dilation", (1, 1)))
    if padding == _NONE:
        return x.name, VALID
    if padding == same_padding(x.shape[1:3], kernel, tuple(node.attrs["stride"]), dilation):
        return x.name, SAME
    return pad_image(sheet, node, x.name, padding, fill), VALID


def pad_image(sheet: Sheet, node: Node, x: str, padding: tuple, fill: float = 0.0) -> str:
    """x [N, H, W, C] with a border of `fill` (0: real zero, else the type's lowest value)."""
    n, h, w, c = sheet[x].shape
    out = sheet.like(f"{node.outputs[0]}.padded", x, (n, h + sum(padding[0]), w + sum(padding[1]), c))
    pads = sheet.const("paddings", ((0, 0), *padding, (0, 0)))
    if fill == 0:
        sheet.add("PAD", (x, pads), out)
        return out
    tensor = sheet[x]
    lowest = np.finfo(np.float32).min if tensor.dtype == "float32" else RANGE[tensor.dtype][0]
    sheet.add("PADV2", (x, pads, sheet.const("lowest", [lowest], tensor.dtype, tensor.quant)), out)
    return out


def conv2d(sheet: Sheet, node: Node) -> None:
    """CONV_2D; LiteRT finds the groups in the shapes."""
    channels, kh, kw, _ = sheet[node.inputs[1]].shape
    x, scheme = _scheme(sheet, node, (kh, kw))
    (sh, sw), (dh, dw) = node.attrs["stride"], node.attrs.get("dilation", (1, 1))
    fields = {0: ("b", scheme), 1: ("i", sw), 2: ("i", sh), 3: activation(node), 4: ("i", dw), 5: ("i", dh)}
    version = 6 if node.attrs.get("groups", 1) > 1 else 0
    if _narrow_bias(sheet, node):
        fields[6], version = ("b", TYPE_CODES["int32"]), 8
    sheet.add("CONV_2D", _operands(sheet, node, x, channels), node.outputs[0], Options(1, fields), version)


def depthwise_conv2d(sheet: Sheet, node: Node) -> None:
    """DEPTHWISE_CONV_2D."""
    _, kh, kw, channels = sheet[node.inputs[1]].shape
    if _narrow_bias(sheet, node):
        raise sheet.refuse(node, "takes no int32 bias beside int16 activations here; quantise with an int64 bias")
    x, scheme = _scheme(sheet, node, (kh, kw))
    (sh, sw), (dh, dw) = node.attrs["stride"], node.attrs.get("dilation", (1, 1))
    fields = {0: ("b", scheme), 1: ("i", sw), 2: ("i", sh), 3: ("i", node.attrs["multiplier"]), 4: activation(node), 5: ("i", dw), 6: ("i", dh)}
    sheet.add("DEPTHWISE_CONV_2D", _operands(sheet, node, x, channels), node.outputs[0], Options(2, fields))


def _narrow_bias(sheet: Sheet, node: Node) -> bool:
    """An int32 bias beside int16 activations: LiteRT must be told, or it wants int64."""
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    return bool(bias) and sheet[node.inputs[0]].dtype == "int16" and sheet[bias].dtype == "int32"


def _operands(sheet: Sheet, node: Node, x: str, channels: int) -> tuple[str, ...]:
    """(x, w, b): zeros where the node has no bias, as XNNPACK takes no convolution without one.

    int16 kernels take another rounding beside a bias, so there an absent one stays a missing argument.
    """
    name = node.inputs[2] if len(node.inputs) > 2 else ""
    source, w = sheet[node.inputs[0]], sheet[node.inputs[1]]
    if name or source.dtype == "int16":
        return (x, w.name, name) if name else (x, w.name)
    if w.quant is None:
        return x, w.name, sheet.const("zero_bias", np.zeros(channels), "float32")
    scale = tuple(max(source.scale * s, 1e-38) for s in w.quant.scale)
    quant = Quant(scale, (0,) * len(scale), None if w.quant.axis is None else 0)
    return x, w.name, sheet.const("zero_bias", np.zeros(channels), "int32", quant)


def dense(sheet: Sheet, node: Node) -> None:
    """FULLY_CONNECTED; more than two dimensions are kept."""
    x = sheet[node.inputs[0]]
    keep = len(x.shape) != 2
    fields = {0: activation(node), 1: ("b", 0), 2: ("?", keep)}
    # Scales per channel are declared since version 12, but the kernels of tflite-runtime 2.14, which knows versions up to 9,
    # compute them too (XNNPACK's and its own, not its reference kernels): a low version runs on both.
    version = 5 if keep else 0
    if _narrow_bias(sheet, node):
        fields[4], version = ("b", TYPE_CODES["int32"]), 11
    inputs = (x.name, node.inputs[1], *(n for n in node.inputs[2:3] if n))  # an absent bias is a missing argument
    version = max(version, 6) if len(inputs) == 2 else version
    sheet.add("FULLY_CONNECTED", inputs, node.outputs[0], Options(8, fields), version)


def batch_matmul(sheet: Sheet, node: Node) -> None:
    """BATCH_MATMUL."""
    fields = {0: ("?", bool(node.attrs.get("transpose_a", False))), 1: ("?", bool(node.attrs.get("transpose_b", False)))}
    sheet.add("BATCH_MATMUL", node.inputs, node.outputs[0], Options(101, fields))


# ---- pools ---------------------------------------------------------------------------------------------------------


def _pool(sheet: Sheet, node: Node, kind: str, x: str, scheme: int, output: str) -> None:
    (sh, sw), (kh, kw) = node.attrs["stride"], node.attrs["kernel"]
    fields = {0: ("b", scheme), 1: ("i", sw), 2: ("i", sh), 3: ("i", kw), 4: ("i", kh), 5: activation(node)}
    sheet.add(kind, (x,), output, Options(5, fields))


def max_pool2d(sheet: Sheet, node: Node) -> None:
    """MAX_POOL_2D; a border that SAME does not describe is zero where no value is below it, else the lowest number."""
    fill = 0.0 if _never_negative(sheet, node.inputs[0]) else -1.0
    x, scheme = _scheme(sheet, node, tuple(node.attrs["kernel"]), fill)
    _pool(sheet, node, "MAX_POOL_2D", x, scheme, node.outputs[0])


_KEEPS_SIGN = frozenset({"reshape", "transpose", "max_pool2d", "avg_pool2d", "concat", "slice", "mean", "reduce_max", "quantize", "dequantize", "requantize"})


def _never_negative(sheet: Sheet, name: str) -> bool:
    """Whether no value of the tensor can be below real zero, as far as the nodes before it tell."""
    node = sheet.graph.producer(name)
    if node is None:
        return False
    if node.op in ("relu", "relu6", "sigmoid", "softmax", "abs") or node.attrs.get("activation", "none") in ("relu", "relu6"):
        return True
    return node.op in _KEEPS_SIGN and all(_never_negative(sheet, n) for n in node.inputs if n)


def avg_pool2d(sheet: Sheet, node: Node) -> None:
    """AVERAGE_POOL_2D over what lies inside the image; with the border counted, over an image that has it written out."""
    x = sheet[node.inputs[0]]
    counted = bool(node.attrs.get("count_include_pad", False))
    padding = tuple((int(low), int(high)) for low, high in node.attrs["padding"])
    if counted and x.dtype == "int8":
        _offset_pool(sheet, node, padding)
    elif counted and padding != _NONE:
        _pool(sheet, node, "AVERAGE_POOL_2D", pad_image(sheet, node, x.name, padding), VALID, node.outputs[0])
    elif padding == _NONE or padding == same_padding(x.shape[1:3], tuple(node.attrs["kernel"]), tuple(node.attrs["stride"]), (1, 1)):
        _pool(sheet, node, "AVERAGE_POOL_2D", x.name, VALID if padding == _NONE else SAME, node.outputs[0])
    elif x.dtype == "float32":
        _uncounted_pool(sheet, node, padding)
    else:
        raise sheet.refuse(node, f"has no {x.dtype} average pool that leaves the padding {padding} out of the mean; quantise the model by embarq")


def uncounted_factor(x: tuple[int, ...], node: Node) -> np.ndarray:
    """[1, OH, OW, 1] float32: values in a whole window over those inside the image, by which a mean over a zero border is too small."""
    inside = []
    for i in (0, 1):
        kernel, stride, (low, high) = node.attrs["kernel"][i], node.attrs["stride"][i], node.attrs["padding"][i]
        first = np.arange(0, x[1 + i] + low + high - kernel + 1, stride) - low
        inside.append(np.minimum(first + kernel, x[1 + i]) - np.maximum(first, 0))
    area = node.attrs["kernel"][0] * node.attrs["kernel"][1]
    return (area / np.outer(*inside)).astype(np.float32)[None, :, :, None]


def _uncounted_pool(sheet: Sheet, node: Node, padding: tuple) -> None:
    """A float mean that leaves out a border which SAME does not describe: over zeros, then made larger at the edges."""
    x, out = sheet[node.inputs[0]], node.outputs[0]
    mean = sheet.like(f"{out}.mean", out)
    _pool(sheet, node.with_attrs(activation="none"), "AVERAGE_POOL_2D", pad_image(sheet, node, x.name, padding), VALID, mean)
    factor = sheet.const("factor", uncounted_factor(x.shape, node), "float32")
    sheet.add("MUL", (mean, factor), out, Options(21, {0: activation(node)}))


def _offset_pool(sheet: Sheet, node: Node, padding: tuple) -> None:
    """An int8 mean that counts the border: on int16 offsets from the zero point, whose sums LiteRT rounds as the graph does."""
    x, out = sheet[node.inputs[0]], sheet[node.outputs[0]]
    quant = Quant((x.scale,), (0,))
    wide = sheet.temp(f"{out.name}.wide", x.shape, "int16", quant)
    sheet.add("QUANTIZE", (x.name,), wide)
    padded = wide if padding == _NONE else pad_image(sheet, node, wide, padding)
    mean = sheet.temp(f"{out.name}.mean", out.shape, "int16", quant)
    _pool(sheet, node, "AVERAGE_POOL_2D", padded, VALID, mean)
    sheet.add("QUANTIZE", (mean,), out.name)
