"""How LiteRT's operators on shapes become nodes: reshapes, slices, joins, pads, resizes."""

from __future__ import annotations

import numpy as np

from sdk.errors import ModelError
from sdk.graph.quantmath import dequantise_array
from sdk.graph.tflite_operator import Conversion, Importer, NoEquivalent, Operator, numbers


def reshape(importer: Importer, op: Operator) -> None:
    """RESHAPE: the shape is an argument or an option, with at most one -1."""
    x = importer.tensors[op.needed(0)]
    value = importer.constant(op.input(1)) if op.input(1) else None
    asked: tuple[int, ...] | None = numbers(importer, op, 1) if value is not None else None
    if asked is None and op.options is not None and not op.input(1):
        asked = op.options.integers(0)
    if asked is None:
        asked = importer.shape(op.output)  # a computed shape that could not be folded: what the file declares
    if asked.count(-1) == 1:
        known = int(np.prod([d for d in asked if d != -1], dtype=object)) if len(asked) > 1 else 1
        asked = tuple(x.size // max(known, 1) if d == -1 else d for d in asked)
    importer.emit("reshape", (x.name,), op.output, shape=asked)


def reshape_to_declared(importer: Importer, op: Operator) -> None:
    """SQUEEZE, EXPAND_DIMS: the output's declared shape says it all."""
    importer.emit("reshape", (op.needed(0),), op.output, shape=importer.shape(op.output))


def transpose(importer: Importer, op: Operator) -> None:
    """TRANSPOSE."""
    rank = len(importer.shape(op.needed(0)))
    perm = tuple(p % rank if rank and -rank <= p < rank else p for p in numbers(importer, op, 1))
    importer.emit("transpose", (op.needed(0),), op.output, perm=perm)


def pad(importer: Importer, op: Operator) -> None:
    """PAD and PADV2; the latter's value is a scalar tensor."""
    flat = numbers(importer, op, 1)
    paddings = tuple((flat[i], flat[i + 1]) for i in range(0, len(flat) - 1, 2))
    value: float = 0.0
    if op.input(2):
        constant = importer.constant(op.input(2))
        if constant is None or constant.size != 1:
            raise NoEquivalent
        tensor = importer.tensors[op.input(2)]
        real = dequantise_array(constant, tensor.quant) if tensor.quant else constant
        value = real.reshape(-1)[0].item()
    importer.emit("pad", (op.needed(0),), op.output, paddings=paddings, value=value)


def concatenation(importer: Importer, op: Operator) -> None:
    """CONCATENATION."""
    rank, axis = len(importer.shape(op.needed(0))), op.integer(0)
    for index in range(len(op.inputs)):
        op.needed(index)
    axis = axis + rank if -rank <= axis < 0 else axis
    importer.emit("concat", op.inputs, op.output, axis=axis, activation=op.activation(1))


def pack(importer: Importer, op: Operator) -> None:
    """PACK: each input gets the new axis, then concat."""
    shape, axis = importer.shape(op.needed(0)), op.integer(1)
    axis = axis + len(shape) + 1 if axis < 0 else axis
    if not 0 <= axis <= len(shape):
        raise ModelError(f"operator {op.index} (PACK) has axis {axis} for inputs of {len(shape)} dimensions")
    wide, parts = (*shape[:axis], 1, *shape[axis:]), []
    for index in range(len(op.inputs)):
        parts.append(importer.temporary(f"{op.output}_part{index}", wide, op.needed(index)))
        importer.emit("reshape", (op.needed(index),), parts[-1], shape=wide)
    importer.emit("concat", tuple(parts), op.output, axis=axis, activation="none")


def _slice_along(importer: Importer, x: str, output: str, axis: int, begin: int, size: int) -> None:
    shape = importer.shape(x)
    first = tuple(begin if i == axis else 0 for i in range(len(shape)))
    last = tuple(begin + size if i == axis else d for i, d in enumerate(shape))
    importer.emit("slice", (x,), output, begin=first, end=last, strides=(1,) * len(shape))


def _split(importer: Importer, op: Operator, x: str, axis: int, sizes: list[int]) -> None:
    rank = len(importer.shape(x))
    if not -rank <= axis < rank or len(sizes) != len(op.outputs):
        raise ModelError(f"operator {op.index} ({op.kind}) splits into {len(sizes)} along axis {axis} and has {len(op.outputs)} outputs")
    begin = 0
    for size, output in zip(sizes, op.outputs, strict=True):
        _slice_along(importer, x, output, axis % rank, begin, size)
        begin += size


def split(importer: Importer, op: Operator) -> None:
    """SPLIT into equal parts: one slice each."""
    x, axis, count = op.needed(1), numbers(importer, op, 0), len(op.outputs)
    shape = importer.shape(x)
    if len(axis) != 1 or not count or not -len(shape) <= axis[0] < len(shape) or shape[axis[0]] % count:
        raise ModelError(f"operator {op.index} (SPLIT) cannot cut {list(shape)} into {count} along axis {list(axis)}")
    _split(importer, op, x, axis[0], [shape[axis[0]] // count] * count)


def split_v(importer: Importer, op: Operator) -> None:
    """SPLIT_V into parts of given sizes: one slice each."""
    x, sizes, axis = op.needed(0), list(numbers(importer, op, 1)), numbers(importer, op, 2)
    shape = importer.shape(x)
    if len(axis) == 1 and -len(shape) <= axis[0] < len(shape) and sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = shape[axis[0]] - sum(s for s in sizes if s != -1)
    _split(importer, op, x, axis[0] if len(axis) == 1 else len(shape), sizes)


def unpack(importer: Importer, op: Operator) -> None:
    """UNPACK: a slice and a reshape for each output."""
    x, axis = op.needed(0), op.integer(1)
    shape = importer.shape(x)
    if not -len(shape) <= axis < len(shape) or shape[axis] != len(op.outputs):
        raise ModelError(f"operator {op.index} (UNPACK) cannot take {list(shape)} apart into {len(op.outputs)} along axis {axis}")
    axis %= len(shape)
    rest = shape[:axis] + shape[axis + 1 :]
    for index, output in enumerate(op.outputs):
        part = importer.temporary(f"{output}_part", (*shape[:axis], 1, *shape[axis + 1 :]), x)
        _slice_along(importer, x, part, axis, index, 1)
        importer.emit("reshape", (part,), output, shape=rest)


def slice_(importer: Importer, op: Operator) -> None:
    """SLICE: begin and size, -1 for the rest."""
    x, begin, size = op.needed(0), numbers(importer, op, 1), numbers(importer, op, 2)
    shape = importer.shape(x)
    if not len(begin) == len(size) == len(shape):
        raise ModelError(f"operator {op.index} (SLICE) has {len(begin)} begins and {len(size)} sizes for {len(shape)} dimensions")
    end = tuple(d if s == -1 else b + s for b, s, d in zip(begin, size, shape, strict=True))
    importer.emit("slice", (x,), op.output, begin=begin, end=end, strides=(1,) * len(shape))


def strided_slice(importer: Importer, op: Operator) -> None:
    """STRIDED_SLICE with its masks: a slice, and a reshape where dimensions vanish or appear."""
    x = op.needed(0)
    begin, end, strides = (numbers(importer, op, i) for i in (1, 2, 3))
    shape, masks = importer.shape(x), [op.integer(i) for i in range(5)]
    if masks[2] or masks[3] or op.flag(5) or not len(begin) == len(end) == len(strides) <= len(shape):
        raise NoEquivalent  # ellipsis, new axes, offsets
    first: list[int] = []
    last: list[int] = []
    step: list[int] = []
    kept: list[int] = []
    for i, d in enumerate(shape):
        b, e, s = _one_range(i, d, begin, end, strides, masks, op)
        first, last, step = [*first, b], [*last, e], [*step, s]
        if not (i < len(begin) and masks[4] >> i & 1):
            kept.append(len(range(b, e, s)))
    cut = tuple(len(range(b, e, s)) for b, e, s in zip(first, last, step, strict=True))
    target = op.output if len(kept) == len(shape) else importer.temporary(f"{op.output}_cut", cut, x)
    importer.emit("slice", (x,), target, begin=tuple(first), end=tuple(last), strides=tuple(step))
    if target != op.output:
        importer.emit("reshape", (target,), op.output, shape=tuple(kept))


def _one_range(i: int, d: int, begin: tuple, end: tuple, strides: tuple, masks: list[int], op: Operator) -> tuple[int, int, int]:
    """(begin, end, stride) of dimension `i`, counted from the front and clamped."""
    if i >= len(begin):
        return 0, d, 1
    stride = strides[i]
    if stride == 0:
        raise ModelError(f"operator {op.index} (STRIDED_SLICE) has a stride of 0")
    if masks[4] >> i & 1:  # this dimension vanishes: one value of it
        b = begin[i] + d if begin[i] < 0 else begin[i]
        return b, b + 1, 1
    low, high = (0, d) if stride > 0 else (-1, d - 1)
    b = (low if stride > 0 else high) if masks[0] >> i & 1 else min(max(begin[i] + d if begin[i] < 0 else begin[i], low), high)
    e = (high if stride > 0 else low) if masks[1] >> i & 1 else min(max(end[i] + d if end[i] < 0 else end[i], low), high)
    return b, e, stride


def gather(importer: Importer, op: Operator) -> None:
    """GATHER along one axis, without batch dimensions."""
    rank, axis = len(importer.shape(op.needed(0))), op.integer(0)
    if op.integer(1):
        raise NoEquivalent
    importer.emit("gather", (op.needed(0), op.needed(1)), op.output, axis=axis + rank if -rank <= axis < 0 else axis)


def tile(importer: Importer, op: Operator) -> None:
    """TILE."""
    importer.emit("tile", (op.needed(0),), op.output, multiples=numbers(importer, op, 1))


def broadcast_to(importer: Importer, op: Operator) -> None:
    """BROADCAST_TO of the same rank: tile."""
    x, target = importer.shape(op.needed(0)), numbers(importer, op, 1)
    if len(x) != len(target) or any(a != b and a != 1 for a, b in zip(x, target, strict=True)):
        raise NoEquivalent
    importer.emit("tile", (op.needed(0),), op.output, multiples=tuple(1 if a == b else b for a, b in zip(x, target, strict=True)))


def shape(importer: Importer, op: Operator) -> None:
    """SHAPE: known now."""
    dtype = importer.tensors[op.output].dtype
    importer.set_constant(op.output, np.array(importer.shape(op.needed(0)), "int64" if dtype == "int64" else "int32"))


def resize(name: str, first_slot: int) -> Conversion:
    """A resize, as the op `name`; align_corners stands in that slot, half_pixel_centers behind it."""
    def conversion(importer: Importer, op: Operator) -> None:
        align, half = op.flag(first_slot), op.flag(first_slot + 1)
        importer.emit(name, (op.needed(0),), op.output, size=numbers(importer, op, 1), align_corners=align, half_pixel_centers=half)

    return conversion
