"""How LiteRT's computing operators become nodes: convolutions, dense, pooling, elementwise, reductions."""

from __future__ import annotations

import numpy as np

from sdk.errors import ModelError
from sdk.graph.quantmath import dequantise_array
from sdk.graph.tflite_operator import Conversion, Importer, NoEquivalent, Operator, numbers, rank_of

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
    xs, ws = rank_of(importer, op, 0, 4), rank_of(importer, op, 1, 4)
    stride, dilation = _window(op, 1, 4)
    _positive(op, *stride, *dilation, *ws)
    padding = _padding(op.integer(0, "b"), xs[1:3], ws[1:3], stride, dilation)
    importer.emit("conv2d", (x, w, _bias(importer, op, ws[0])), op.output, stride=stride, dilation=dilation, padding=padding,
                  groups=max(1, xs[3] // ws[3]), activation=op.activation(3))  # fmt: skip


def depthwise_conv_2d(importer: Importer, op: Operator) -> None:
    """DEPTHWISE_CONV_2D; the multiplier follows from the shapes."""
    x, w = op.needed(0), _float_weight(importer, op.needed(0), op.needed(1))
    xs, ws = rank_of(importer, op, 0, 4), rank_of(importer, op, 1, 4)
    stride, dilation = _window(op, 1, 5)
    _positive(op, *stride, *dilation, *ws, *xs)
    padding = _padding(op.integer(0, "b"), xs[1:3], ws[1:3], stride, dilation)
    importer.emit("depthwise_conv2d", (x, w, _bias(importer, op, ws[3])), op.output, stride=stride, dilation=dilation, padding=padding,
                  multiplier=max(1, ws[3] // xs[3]), activation=op.activation(4))  # fmt: skip


def fully_connected(importer: Importer, op: Operator) -> None:
    """FULLY_CONNECTED: a reshape where it flattens, then dense."""
    x, w = op.needed(0), _float_weight(importer, op.needed(0), op.needed(1))
    xs, ws = importer.shape(x), rank_of(importer, op, 1, 2)
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


def pool(name: str) -> Conversion:
    """A pooling operator, as the op `name`."""
    def conversion(importer: Importer, op: Operator) -> None:
        xs = rank_of(importer, op, 0, 4)
        stride, kernel = (op.integer(2), op.integer(1)), (op.integer(4), op.integer(3))
        _positive(op, *stride, *kernel)
        padding = _padding(op.integer(0, "b"), xs[1:3], kernel, stride, (1, 1))
        importer.emit(name, (op.needed(0),), op.output, kernel=kernel, stride=stride, padding=padding, activation=op.activation(5))

    return conversion


# ---- elementwise ---------------------------------------------------------------------------------------------------


def binary(name: str, activation_slot: int | None = 0) -> Conversion:
    """An operator on two tensors, as the op `name`; the fused activation stands in that slot."""
    def conversion(importer: Importer, op: Operator) -> None:
        activation = "none" if activation_slot is None else op.activation(activation_slot)
        importer.emit(name, (op.needed(0), op.needed(1)), op.output, activation=activation)

    return conversion


def add_or_sub(name: str) -> Conversion:
    """ADD and SUB, as the op `name`."""
    def conversion(importer: Importer, op: Operator) -> None:
        tensors = [importer.tensors[n] for n in (op.needed(0), op.needed(1), op.output)]
        if tensors[0].dtype == "int16" and op.flag(1, default=True) and all(t.quant and _power_of_two(t.scale) for t in tensors):
            raise NoEquivalent  # LiteRT's older int16 rule for scales that are powers of two
        importer.emit(name, (op.needed(0), op.needed(1)), op.output, activation=op.activation(0))

    return conversion


def _power_of_two(scale: float) -> bool:
    power = np.log2(scale)
    return bool(abs(power - np.round(power)) < 1e-3)


def unary(name: str) -> Conversion:
    """An operator on one tensor without options, as the op `name`."""
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


def reduce(name: str) -> Conversion:
    """A reduction over constant axes, as the op `name`."""
    def conversion(importer: Importer, op: Operator) -> None:
        rank = len(importer.shape(op.needed(0)))
        axes = tuple(sorted({a % rank if rank and -rank <= a < rank else a for a in numbers(importer, op, 1)}))
        importer.emit(name, (op.needed(0),), op.output, axes=axes, keep_dims=op.flag(0))

    return conversion


def arg_max(importer: Importer, op: Operator) -> None:
    """ARG_MAX along a constant axis."""
    axis, rank = numbers(importer, op, 1), len(importer.shape(op.needed(0)))
    if len(axis) != 1 or not -rank <= axis[0] < rank:
        raise ModelError(f"operator {op.index} (ARG_MAX) has axis {list(axis)} in a tensor of {rank} dimensions")
    importer.emit("argmax", (op.needed(0),), op.output, axis=axis[0] % rank, dtype=importer.tensors[op.output].dtype)
