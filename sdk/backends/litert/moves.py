"""Ops that move values, as LiteRT operators."""

from __future__ import annotations

import numpy as np

from sdk.backends.litert.flatfile import TYPE_CODES, Options
from sdk.backends.litert.sheet import Sheet
from sdk.graph.ir import Node
from sdk.graph.quantmath import quantise_array


def reshape(sheet: Sheet, node: Node) -> None:
    """RESHAPE; the shape stands in the options and as an argument, as runtimes read one or the other."""
    shape = tuple(node.attrs["shape"])
    sheet.add("RESHAPE", (node.inputs[0], sheet.const("shape", np.array(shape, np.int32))), node.outputs[0], Options(17, {0: ("int32", shape)}))


def transpose(sheet: Sheet, node: Node) -> None:
    """TRANSPOSE."""
    sheet.add("TRANSPOSE", (node.inputs[0], sheet.const("perm", tuple(node.attrs["perm"]))), node.outputs[0], Options(26))


def pad(sheet: Sheet, node: Node) -> None:
    """PAD with zeros (the zero point), else PADV2."""
    x, value = sheet[node.inputs[0]], node.attrs.get("value", 0)
    pads = sheet.const("paddings", np.array(node.attrs["paddings"], np.int32).reshape(-1, 2))
    if value == 0:
        sheet.add("PAD", (x.name, pads), node.outputs[0], Options(22))
        return
    fill = np.array([value], np.float32)
    fill = quantise_array(fill, x.scale, x.zero_point, x.dtype) if x.quant is not None else fill.astype(x.dtype)
    sheet.add("PADV2", (x.name, pads, sheet.const("fill", fill, x.dtype, x.quant)), node.outputs[0], Options(43))


def concat(sheet: Sheet, node: Node) -> None:
    """CONCATENATION; its kernels take no activation."""
    raw, rank = sheet.apart(node), len(sheet[node.outputs[0]].shape)
    sheet.add("CONCATENATION", node.inputs, raw, Options(10, {0: ("i", node.attrs["axis"] % rank), 1: ("b", 0)}))
    sheet.activate(node, raw)


def slice_(sheet: Sheet, node: Node) -> None:
    """SLICE, or STRIDED_SLICE where a step is not 1."""
    begin, end = tuple(node.attrs["begin"]), tuple(node.attrs["end"])
    strides = tuple(node.attrs.get("strides") or (1,) * len(begin))
    if all(s == 1 for s in strides):
        size = sheet.const("size", tuple(max(0, e - b) for b, e in zip(begin, end, strict=True)))
        sheet.add("SLICE", (node.inputs[0], sheet.const("begin", begin), size), node.outputs[0], Options(48))
        return
    # an end of -1 is "before the first" here and "the last" in the file: there a mask says it
    mask = sum(1 << i for i, (e, s) in enumerate(zip(end, strides, strict=True)) if s < 0 and e == -1)
    arguments = (sheet.const("begin", begin), sheet.const("end", end), sheet.const("strides", strides))
    sheet.add("STRIDED_SLICE", (node.inputs[0], *arguments), node.outputs[0], Options(32, {1: ("i", mask)}))


def gather(sheet: Sheet, node: Node) -> None:
    """GATHER; int32 and int64 indices."""
    axis = node.attrs["axis"] % len(sheet[node.inputs[0]].shape)
    sheet.add("GATHER", node.inputs, node.outputs[0], Options(23, {0: ("i", axis)}))


def tile(sheet: Sheet, node: Node) -> None:
    """TILE."""
    sheet.add("TILE", (node.inputs[0], sheet.const("multiples", tuple(node.attrs["multiples"]))), node.outputs[0], Options(51))


def cast(sheet: Sheet, node: Node) -> None:
    """CAST."""
    cast_to(sheet, node.inputs[0], node.outputs[0])


def cast_to(sheet: Sheet, source: str, target: str) -> None:
    """The numbers of `source` in the type of `target`, scales left aside."""
    fields = {0: ("b", TYPE_CODES[sheet[source].dtype]), 1: ("b", TYPE_CODES[sheet[target].dtype])}
    sheet.add("CAST", (source,), target, Options(37, fields))


def resize(sheet: Sheet, node: Node) -> None:
    """RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR."""
    kind, union, slot = ("RESIZE_BILINEAR", 15, 2) if node.op == "resize_bilinear" else ("RESIZE_NEAREST_NEIGHBOR", 74, 0)
    align, half = (bool(node.attrs.get(name, False)) for name in ("align_corners", "half_pixel_centers"))
    fields = {slot: ("?", align), slot + 1: ("?", half)}
    size = sheet.const("size", tuple(node.attrs["size"]))
    sheet.add(kind, (node.inputs[0], size), node.outputs[0], Options(union, fields), 3 if half else 0)
