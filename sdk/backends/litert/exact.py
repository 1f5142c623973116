"""Integer ops for which LiteRT has no kernel, or one with another rule: spelt out so that every byte is the graph's.

They are slow next to a kernel of their own. `legalise` replaces these ops in a float graph before it is quantised, so what
is compiled here meets them only where a graph was quantised elsewhere.
"""

from __future__ import annotations

import numpy as np

from sdk.backends.litert.flatfile import Options
from sdk.backends.litert.moves import cast_to
from sdk.backends.litert.sheet import Sheet
from sdk.graph.ir import Node, Quant
from sdk.graph.unary import unary_table


def lookup(sheet: Sheet, node: Node) -> None:
    """An int8 op of one number as a table of its 256 results: the byte, plus 128, is the index."""
    x, out = sheet[node.inputs[0]], sheet[node.outputs[0]]
    table = unary_table(node.op, node.attrs, x._one(), out._one())
    wide, index = (sheet.temp(f"{out.name}.{part}", x.shape, "int32") for part in ("wide", "index"))
    cast_to(sheet, x.name, wide)
    sheet.add("ADD", (wide, sheet.const("offset", 128)), index, Options(11))
    sheet.add("GATHER", (sheet.const(f"{node.name}.table", table, "int8", out.quant), index), out.name, Options(23, {0: ("i", 0)}))


def axes(sheet: Sheet, node: Node) -> tuple[int, ...]:
    """The axes a reduction takes away, counted from the front."""
    rank, given = len(sheet[node.inputs[0]].shape), node.attrs.get("axes")
    return tuple(range(rank)) if given is None else tuple(sorted({a % rank for a in given}))


def reduction(sheet: Sheet, kind: str, x: str, out: str, over: tuple[int, ...], keep_dims: bool) -> None:
    """One reducing operator."""
    sheet.add(kind, (x, sheet.const("axes", np.array(over, np.int32))), out, Options(27, {0: ("?", keep_dims)}))


def integer_sum(sheet: Sheet, node: Node) -> None:
    """SUM of int8 or int16: of plain 32-bit integers, then rescaled. LiteRT's own int8 SUM has another rule."""
    x, out = sheet[node.inputs[0]], sheet[node.outputs[0]]
    over = axes(sheet, node)
    count = int(np.prod([x.shape[a] for a in over]))
    wide = sheet.temp(f"{out.name}.wide", x.shape, "int32")
    cast_to(sheet, x.name, wide)
    # the sum's zero point is that of `count` values
    total = sheet.temp(f"{out.name}.total", out.shape, "int32", Quant((x.scale,), (x.zero_point * count,)))
    reduction(sheet, "SUM", wide, total, over, bool(node.attrs.get("keep_dims", False)))
    sheet.add("QUANTIZE", (total,), out.name, Options(89))


def layer_norm(sheet: Sheet, node: Node) -> None:
    """layer_norm in the order of operations that the graph defines, for float32 and for int8."""
    x = sheet[node.inputs[0]]
    if x.dtype == "float32":
        _layer_norm_float(sheet, node)
    elif x.dtype == "int8":
        _layer_norm_int8(sheet, node)
    else:
        raise sheet.refuse(node, f"has no layer_norm on {x.dtype}; keep the node in float32 or int8")


class _Chain:
    """Operators one after the other on temporaries named after one output."""

    def __init__(self, sheet: Sheet, out: str) -> None:
        self.sheet, self.out, self.count = sheet, out, 0

    def temp(self, shape: tuple[int, ...], dtype: str) -> str:
        self.count += 1
        return self.sheet.temp(f"{self.out}.part{self.count}", shape, dtype)

    def two(self, kind: str, a: str, b: str) -> str:
        """ADD, SUB, MUL or DIV of two tensors of one type."""
        shape = np.broadcast_shapes(self.sheet[a].shape, self.sheet[b].shape)
        out = self.temp(shape, self.sheet[a].dtype)
        self.sheet.add(kind, (a, b), out, Options({"ADD": 11, "SUB": 28, "MUL": 21, "DIV": 29}[kind]))
        return out

    def one(self, kind: str, x: str) -> str:
        """An operator without options."""
        out = self.temp(self.sheet[x].shape, self.sheet[x].dtype)
        self.sheet.add(kind, (x,), out)
        return out

    def rows(self, kind: str, x: str) -> str:
        """MEAN or SUM over the last axis, which stays as 1."""
        shape = self.sheet[x].shape
        out = self.temp((*shape[:-1], 1), self.sheet[x].dtype)
        reduction(self.sheet, kind, x, out, (len(shape) - 1,), True)
        return out

    def cast(self, x: str, dtype: str) -> str:
        """The numbers in another type."""
        out = self.temp(self.sheet[x].shape, dtype)
        cast_to(self.sheet, x, out)
        return out

    def real(self, value: float) -> str:
        """A float32 constant."""
        return self.sheet.const("value", np.float32(value), "float32")


def _layer_norm_float(sheet: Sheet, node: Node) -> None:
    out, (x, gamma, beta) = node.outputs[0], node.inputs
    c = _Chain(sheet, out)
    offset = c.two("SUB", x, c.rows("MEAN", x))
    variance = c.rows("MEAN", c.two("MUL", offset, offset))
    inverse = c.one("RSQRT", c.two("ADD", variance, c.real(node.attrs["eps"])))
    scaled = c.two("MUL", c.two("MUL", offset, inverse), gamma)
    sheet.add("ADD", (scaled, beta), out, Options(11))


def _layer_norm_int8(sheet: Sheet, node: Node) -> None:
    """The formula of `sdk.graph.ops.norm.layer_norm_int`, operator by operator."""
    out, (x, gamma, beta) = node.outputs[0], node.inputs
    n, scale, c = sheet[x].shape[-1], np.float32(sheet[x].scale), _Chain(sheet, node.outputs[0])
    if n > 1 << 14:
        raise sheet.refuse(node, f"has no 64-bit sums for a layer_norm over {n} int8 values; keep the node in float32")
    count = sheet.const("count", np.int64(n), "int64")
    offset = c.two("SUB", c.cast(x, "int32"), sheet.const("zero_point", np.int32(sheet[x].zero_point)))
    total = c.rows("SUM", offset)
    squares = c.cast(c.rows("SUM", c.two("MUL", offset, offset)), "int64")
    wide = c.cast(total, "int64")
    spread = c.cast(c.two("SUB", c.two("MUL", squares, count), c.two("MUL", wide, wide)), "float32")
    variance = c.two("MUL", c.two("DIV", spread, c.real(n * n)), c.real(float(scale * scale)))
    inverse = c.one("RSQRT", c.two("ADD", variance, c.real(node.attrs["eps"])))
    centred = c.cast(c.two("SUB", c.two("MUL", offset, sheet.const("count", np.int32(n))), total), "float32")
    real = c.two("MUL", c.two("MUL", c.two("DIV", centred, c.real(n)), c.real(float(scale))), inverse)
    real = c.two("ADD", c.two("MUL", real, gamma), beta)
    sheet.add("QUANTIZE", (real,), out, Options(89))
