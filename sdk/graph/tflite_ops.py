"""How each LiteRT operator becomes nodes of the graph: one small function an operator, one table of them at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sdk.errors import ModelError
from sdk.graph.ir import Tensor
from sdk.graph.quantmath import dequantise_array
from sdk.graph.tflite_schema import Table


class NoEquivalent(Exception):
    """The graph has no op for this operator with these options; it stays opaque."""


@dataclass(frozen=True)
class Operator:
    """One operator of the file. Absent inputs are the empty string; absent options read as their defaults."""

    index: int
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Table | None

    def input(self, index: int) -> str:
        """Name of input `index`; the empty string when it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def needed(self, index: int) -> str:
        """Name of input `index`. Raises ModelError when it is absent."""
        if not self.input(index):
            raise ModelError(f"operator {self.index} ({self.kind}) lacks input {index}; the .tflite file is damaged, download or export it again")
        return self.inputs[index]

    @property
    def output(self) -> str:
        """Name of the only output. Raises ModelError when there is another number of them."""
        if len(self.outputs) != 1:
            raise ModelError(f"operator {self.index} ({self.kind}) has {len(self.outputs)} outputs and gives one; the .tflite file is damaged")
        return self.outputs[0]

    def integer(self, slot: int, kind: str = "i", default: int = 0) -> int:
        """An integer option."""
        return default if self.options is None else self.options.integer(slot, kind, default)

    def flag(self, slot: int, default: bool = False) -> bool:
        """A bool option."""
        return default if self.options is None else self.options.flag(slot, default)

    def real(self, slot: int, default: float = 0.0) -> float:
        """A float option."""
        return default if self.options is None else self.options.real(slot, default)

    def activation(self, slot: int) -> str:
        """The fused activation."""
        name = {0: "none", 1: "relu", 2: "relu_n1_to_1", 3: "relu6"}.get(self.integer(slot, "b"))
        if name is None:
            raise NoEquivalent
        return name


class Importer(Protocol):
    """What a conversion may ask of the importer."""

    tensors: dict[str, Tensor]

    def shape(self, name: str) -> tuple[int, ...]: ...
    def constant(self, name: str) -> np.ndarray | None: ...
    def set_constant(self, name: str, value: np.ndarray) -> None: ...
    def temporary(self, base: str, shape: tuple[int, ...], like: str, **changes: Any) -> str: ...
    def emit(self, op: str, inputs: tuple[str, ...], output: str, **attrs: Any) -> None: ...


Conversion = Callable[[Importer, Operator], None]


def convert(importer: Importer, op: Operator) -> None:
    """Adds the nodes of one operator. Raises NoEquivalent when there are none for it."""
    conversion = CONVERSIONS.get(op.kind)
    if conversion is None:
        raise NoEquivalent
    conversion(importer, op)


def _numbers(importer: Importer, op: Operator, index: int) -> tuple[int, ...]:
    """Values of a constant integer argument (a shape, axes, a permutation). Computed ones have no equivalent."""
    value = importer.constant(op.needed(index))
    if value is None:
        raise NoEquivalent
    if value.dtype not in (np.int32, np.int64) or value.size > 64:
        raise ModelError(f"operator {op.index} ({op.kind}) has {value.dtype}{list(value.shape)} as its argument {index}, which takes a few integers")
    return tuple(int(v) for v in value.reshape(-1))


def _rank(importer: Importer, op: Operator, index: int, rank: int) -> tuple[int, ...]:
    shape = importer.shape(op.needed(index))
    if len(shape) != rank:
        raise ModelError(f"operator {op.index} ({op.kind}) has an input of shape {list(shape)}; it takes {rank} dimensions")
    return shape


# ---- convolutions, dense, pooling ----------------------------------------------------------------------------------


def _padding(scheme: int, sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> tuple:
    """((top, bottom), (left, right)): SAME (0) as numbers, VALID (1) as none."""
    pads = []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        span = (k - 1) * d + 1
        total = max((-(-size // s) - 1) * s + span - size, 0) if scheme == 0 else 0
        pads.append((total // 2, total - total // 2))
    return tuple(pads)


def _positive(op: Operator, *values: int) -> None:
    if min(values) < 1 or max(values) > 1 << 15:
        raise ModelError(f"operator {op.index} ({op.kind}) has a kernel, stride or dilation of {min(values)}..{max(values)}; they start at 1")


def _float_weight(importer: Importer, x: str, name: str) -> str:
    """Weights as float32 when the activations are: int8 ones are dequantised."""
    weight = importer.tensors[name]
    if importer.tensors[x].dtype != "float32" or weight.dtype != "int8" or weight.data is None or weight.quant is None:
        return name
    new = importer.temporary(f"{name}_float", weight.shape, name, dtype="float32", quant=None)
    importer.set_constant(new, dequantise_array(weight.data, weight.quant))
    return new


def _bias(importer: Importer, op: Operator, channels: int) -> str:
    """The bias with one dimension; the empty string when absent."""
    name = op.input(2)
    value = importer.constant(name) if name else None
    if value is None or value.shape == (channels,) or value.size != channels:
        return name
    importer.set_constant(name, value.reshape(channels))
    return name


def _window(op: Operator, first: int, dilation: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(stride, dilation), both (h, w); the file keeps w first."""
    stride = (op.integer(first + 1), op.integer(first))
    return stride, (op.integer(dilation + 1, default=1), op.integer(dilation, default=1))


def conv_2d(importer: Importer, op: Operator) -> None:
    """CONV_2D; groups follow from the shapes."""
    x, w = op.needed(0), _float_weight(importer, op.needed(0), op.needed(1))
    xs, ws = _rank(importer, op, 0, 4), _rank(importer, op, 1, 4)
    stride, dilation = _window(op, 1, 4)
    _positive(op, *stride, *dilation, *ws)
    padding = _padding(op.integer(0, "b"), xs[1:3], ws[1:3], stride, dilation)
    importer.emit("conv2d", (x, w, _bias(importer, op, ws[0])), op.output, stride=stride, dilation=dilation, padding=padding,
                  groups=max(1, xs[3] // ws[3]), activation=op.activation(3))  # fmt: skip


def depthwise_conv_2d(importer: Importer, op: Operator) -> None:
    """DEPTHWISE_CONV_2D; the multiplier follows from the shapes."""
    x, w = op.needed(0), _float_weight(importer, op.needed(0), op.needed(1))
    xs, ws = _rank(importer, op, 0, 4), _rank(importer, op, 1, 4)
    stride, dilation = _window(op, 1, 5)
    _positive(op, *stride, *dilation, *ws, *xs)
    padding = _padding(op.integer(0, "b"), xs[1:3], ws[1:3], stride, dilation)
    importer.emit("depthwise_conv2d", (x, w, _bias(importer, op, ws[3])), op.output, stride=stride, dilation=dilation, padding=padding,
                  multiplier=max(1, ws[3] // xs[3]), activation=op.activation(4))  # fmt: skip


def fully_connected(importer: Importer, op: Operator) -> None:
    """FULLY_CONNECTED: a reshape where it flattens, then dense."""
    x, w = op.needed(0), _float_weight(importer, op.needed(0), op.needed(1))
    xs, ws = importer.shape(x), _rank(importer, op, 1, 2)
    if op.integer(1, "b") != 0:
        raise NoEquivalent
    _positive(op, *(max(1, min(d, 1 << 15)) for d in ws), *(0 for d in ws if d == 0))
    flat = xs if op.flag(2) else (importer.tensors[x].size // ws[1], ws[1])
    if xs != flat:
        new = importer.temporary(f"{x}_flat", flat, x)
        importer.emit("reshape", (x,), new, shape=flat)
        x = new
    importer.emit("dense", (x, w, _bias(importer, op, ws[0])), op.output, activation=op.activation(0))


def batch_matmul(importer: Importer, op: Operator) -> None:
    """BATCH_MATMUL."""
    a, b = op.needed(0), _float_weight(importer, op.needed(0), op.needed(1))
    importer.emit("batch_matmul", (a, b), op.output, transpose_a=op.flag(0), transpose_b=op.flag(1))


def _pool(name: str) -> Conversion:
    def conversion(importer: Importer, op: Operator) -> None:
        xs = _rank(importer, op, 0, 4)
        stride, kernel = (op.integer(2), op.integer(1)), (op.integer(4), op.integer(3))
        _positive(op, *stride, *kernel)
        padding = _padding(op.integer(0, "b"), xs[1:3], kernel, stride, (1, 1))
        importer.emit(name, (op.needed(0),), op.output, kernel=kernel, stride=stride, padding=padding, activation=op.activation(5))

    return conversion


# ---- elementwise ---------------------------------------------------------------------------------------------------


def _binary(name: str, activation_slot: int | None = 0) -> Conversion:
    def conversion(importer: Importer, op: Operator) -> None:
        activation = "none" if activation_slot is None else op.activation(activation_slot)
        importer.emit(name, (op.needed(0), op.needed(1)), op.output, activation=activation)

    return conversion


def _add_or_sub(name: str) -> Conversion:
    def conversion(importer: Importer, op: Operator) -> None:
        tensors = [importer.tensors[n] for n in (op.needed(0), op.needed(1), op.output)]
        if tensors[0].dtype == "int16" and op.flag(1, default=True) and all(t.quant and _power_of_two(t.scale) for t in tensors):
            raise NoEquivalent  # LiteRT's older int16 rule for scales that are powers of two
        importer.emit(name, (op.needed(0), op.needed(1)), op.output, activation=op.activation(0))

    return conversion


def _power_of_two(scale: float) -> bool:
    power = np.log2(scale)
    return bool(abs(power - np.round(power)) < 1e-3)


def _unary(name: str) -> Conversion:
    def conversion(importer: Importer, op: Operator) -> None:
        importer.emit(name, (op.needed(0),), op.output)

    return conversion


def leaky_relu(importer: Importer, op: Operator) -> None:
    """LEAKY_RELU."""
    importer.emit("leaky_relu", (op.needed(0),), op.output, alpha=op.real(0))


def gelu(importer: Importer, op: Operator) -> None:
    """GELU."""
    importer.emit("gelu", (op.needed(0),), op.output, approximate=op.flag(0))


def prelu(importer: Importer, op: Operator) -> None:
    """PRELU."""
    importer.emit("prelu", (op.needed(0), _float_weight(importer, op.needed(0), op.needed(1))), op.output)


def square(importer: Importer, op: Operator) -> None:
    """SQUARE of floats and plain integers: mul by itself."""
    if importer.tensors[op.needed(0)].quant is not None:
        raise NoEquivalent
    importer.emit("mul", (op.needed(0), op.needed(0)), op.output, activation="none")


def relu_0_to_1(importer: Importer, op: Operator) -> None:
    """RELU_0_TO_1 of floats: clip."""
    if importer.tensors[op.needed(0)].dtype != "float32":
        raise NoEquivalent
    importer.emit("clip", (op.needed(0),), op.output, min=0.0, max=1.0)


def softmax(importer: Importer, op: Operator) -> None:
    """SOFTMAX along the last axis."""
    importer.emit("softmax", (op.needed(0),), op.output, axis=-1, beta=op.real(0))


def log_softmax(importer: Importer, op: Operator) -> None:
    """LOG_SOFTMAX along the last axis."""
    importer.emit("log_softmax", (op.needed(0),), op.output, axis=-1)


def quantize(importer: Importer, op: Operator) -> None:
    """QUANTIZE: from float, or from one scale to another."""
    kind = "quantize" if importer.tensors[op.needed(0)].dtype == "float32" else "requantize"
    importer.emit(kind, (op.needed(0),), op.output)


def dequantize(importer: Importer, op: Operator) -> None:
    """DEQUANTIZE; of float16 constants, which are float32 already, nothing is left to do."""
    value = importer.constant(op.needed(0))
    if value is not None and value.dtype == np.float32:
        importer.set_constant(op.output, value)
        return
    importer.emit("dequantize", (op.needed(0),), op.output)


def cast(importer: Importer, op: Operator) -> None:
    """CAST to the type the output declares."""
    importer.emit("cast", (op.needed(0),), op.output, dtype=importer.tensors[op.output].dtype)


# ---- reductions ----------------------------------------------------------------------------------------------------


def _reduce(name: str) -> Conversion:
    def conversion(importer: Importer, op: Operator) -> None:
        rank = len(importer.shape(op.needed(0)))
        axes = tuple(sorted({a % rank if rank and -rank <= a < rank else a for a in _numbers(importer, op, 1)}))
        importer.emit(name, (op.needed(0),), op.output, axes=axes, keep_dims=op.flag(0))

    return conversion


def arg_max(importer: Importer, op: Operator) -> None:
    """ARG_MAX along a constant axis."""
    axis, rank = _numbers(importer, op, 1), len(importer.shape(op.needed(0)))
    if len(axis) != 1 or not -rank <= axis[0] < rank:
        raise ModelError(f"operator {op.index} (ARG_MAX) has axis {list(axis)} in a tensor of {rank} dimensions")
    importer.emit("argmax", (op.needed(0),), op.output, axis=axis[0] % rank, dtype=importer.tensors[op.output].dtype)


# ---- shapes --------------------------------------------------------------------------------------------------------


def reshape(importer: Importer, op: Operator) -> None:
    """RESHAPE: the shape is an argument or an option, with at most one -1."""
    x = importer.tensors[op.needed(0)]
    value = importer.constant(op.input(1)) if op.input(1) else None
    asked: tuple[int, ...] | None = _numbers(importer, op, 1) if value is not None else None
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
    perm = tuple(p % rank if rank and -rank <= p < rank else p for p in _numbers(importer, op, 1))
    importer.emit("transpose", (op.needed(0),), op.output, perm=perm)


def pad(importer: Importer, op: Operator) -> None:
    """PAD and PADV2; the latter's value is a scalar tensor."""
    flat = _numbers(importer, op, 1)
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
    x, axis, count = op.needed(1), _numbers(importer, op, 0), len(op.outputs)
    shape = importer.shape(x)
    if len(axis) != 1 or not count or not -len(shape) <= axis[0] < len(shape) or shape[axis[0]] % count:
        raise ModelError(f"operator {op.index} (SPLIT) cannot cut {list(shape)} into {count} along axis {list(axis)}")
    _split(importer, op, x, axis[0], [shape[axis[0]] // count] * count)


def split_v(importer: Importer, op: Operator) -> None:
    """SPLIT_V into parts of given sizes: one slice each."""
    x, sizes, axis = op.needed(0), list(_numbers(importer, op, 1)), _numbers(importer, op, 2)
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
    x, begin, size = op.needed(0), _numbers(importer, op, 1), _numbers(importer, op, 2)
    shape = importer.shape(x)
    if not len(begin) == len(size) == len(shape):
        raise ModelError(f"operator {op.index} (SLICE) has {len(begin)} begins and {len(size)} sizes for {len(shape)} dimensions")
    end = tuple(d if s == -1 else b + s for b, s, d in zip(begin, size, shape, strict=True))
    importer.emit("slice", (x,), op.output, begin=begin, end=end, strides=(1,) * len(shape))


def strided_slice(importer: Importer, op: Operator) -> None:
    """STRIDED_SLICE with its masks: a slice, and a reshape where dimensions vanish or appear."""
    x = op.needed(0)
    begin, end, strides = (_numbers(importer, op, i) for i in (1, 2, 3))
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
    importer.emit("tile", (op.needed(0),), op.output, multiples=_numbers(importer, op, 1))


def broadcast_to(importer: Importer, op: Operator) -> None:
    """BROADCAST_TO of the same rank: tile."""
    x, target = importer.shape(op.needed(0)), _numbers(importer, op, 1)
    if len(x) != len(target) or any(a != b and a != 1 for a, b in zip(x, target, strict=True)):
        raise NoEquivalent
    importer.emit("tile", (op.needed(0),), op.output, multiples=tuple(1 if a == b else b for a, b in zip(x, target, strict=True)))


def shape(importer: Importer, op: Operator) -> None:
    """SHAPE: known now."""
    dtype = importer.tensors[op.output].dtype
    importer.set_constant(op.output, np.array(importer.shape(op.needed(0)), "int64" if dtype == "int64" else "int32"))


def _resize(name: str, first_slot: int) -> Conversion:
    def conversion(importer: Importer, op: Operator) -> None:
        align, half = op.flag(first_slot), op.flag(first_slot + 1)
        importer.emit(name, (op.needed(0),), op.output, size=_numbers(importer, op, 1), align_corners=align, half_pixel_centers=half)

    return conversion


#: LiteRT operator -> its conversion. What is not here stays opaque.
CONVERSIONS: Mapping[str, Conversion] = {
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": depthwise_conv_2d,
    "FULLY_CONNECTED": fully_connected,
    "BATCH_MATMUL": batch_matmul,
    "MAX_POOL_2D": _pool("max_pool2d"),
    "AVERAGE_POOL_2D": _pool("avg_pool2d"),
    "ADD": _add_or_sub("add"),
    "SUB": _add_or_sub("sub"),
    "MUL": _binary("mul"),
    "DIV": _binary("div"),
    "MAXIMUM": _binary("maximum", None),
    "MINIMUM": _binary("minimum", None),
    "SQUARED_DIFFERENCE": _binary("squared_difference", None),
    **{kind: _unary(name) for kind, name in (
        ("RELU", "relu"), ("RELU6", "relu6"), ("RELU_N1_TO_1", "relu_n1_to_1"), ("ELU", "elu"), ("HARD_SWISH", "hard_swish"),
        ("LOGISTIC", "sigmoid"), ("TANH", "tanh"), ("EXP", "exp"), ("LOG", "log"), ("SQRT", "sqrt"), ("RSQRT", "rsqrt"), ("ABS", "abs"),
        ("NEG", "neg"))},
    "LEAKY_RELU": leaky_relu,
    "PRELU": prelu,
    "GELU": gelu,
    "SQUARE": square,
    "RELU_0_TO_1": relu_0_to_1,
    "SOFTMAX": softmax,
    "LOG_SOFTMAX": log_softmax,
    "QUANTIZE": quantize,
    "DEQUANTIZE": dequantize,
    "CAST": cast,
    "MEAN": _reduce("mean"),
    "SUM": _reduce("sum"),
    "REDUCE_MAX": _reduce("reduce_max"),
    "ARG_MAX": arg_max,
    "RESHAPE": reshape,
    "SQUEEZE": reshape_to_declared,
    "EXPAND_DIMS": reshape_to_declared,
    "TRANSPOSE": transpose,
    "PAD": pad,
    "PADV2": pad,
    "CONCATENATION": concatenation,
    "PACK": pack,
    "UNPACK": unpack,
    "SPLIT": split,
    "SPLIT_V": split_v,
    "SLICE": slice_,
    "STRIDED_SLICE": strided_slice,
    "GATHER": gather,
    "TILE": tile,
    "BROADCAST_TO": broadcast_to,
    "SHAPE": shape,
    "RESIZE_BILINEAR": _resize("resize_bilinear", 2),
    "RESIZE_NEAREST_NEIGHBOR": _resize("resize_nearest", 0),
}  # fmt: skip
