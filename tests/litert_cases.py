"""Models of one quantised operator with random shapes, scales and options, one function per operator.

Each case is `case(rng) -> OneOp`; CASES names them. The same seeds make the same models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.tflite_writer import Value, one_op

Rng = np.random.Generator

#: Operator -> the newest version LiteRT 2.3 has of it, where that is not 2.
VERSIONS = {
    "RELU": 3, "RELU6": 3, "RELU_N1_TO_1": 1, "HARD_SWISH": 1, "TANH": 3, "LOGISTIC": 3, "ABS": 3, "RSQRT": 3, "QUANTIZE": 3,
    "DEQUANTIZE": 5, "SOFTMAX": 3, "ADD": 5, "SUB": 5, "MUL": 6, "MAXIMUM": 4, "MINIMUM": 4, "MEAN": 3, "REDUCE_MAX": 3,
    "MAX_POOL_2D": 3, "AVERAGE_POOL_2D": 3, "CONV_2D": 6, "DEPTHWISE_CONV_2D": 6, "FULLY_CONNECTED": 6, "BATCH_MATMUL": 4,
    "RESIZE_BILINEAR": 4, "RESIZE_NEAREST_NEIGHBOR": 4, "PRELU": 1, "CONCATENATION": 3, "PAD": 3, "PADV2": 3, "TRANSPOSE": 4,
    "SLICE": 3, "STRIDED_SLICE": 4, "RESHAPE": 1, "ARG_MAX": 2, "TILE": 2, "GATHER": 3,
}  # fmt: skip


@dataclass(frozen=True)
class OneOp:
    """A model of one operator, and values for its inputs."""

    kind: str
    inputs: tuple[Value | None, ...]
    output: Value
    options: tuple[str, dict] | None = None

    @property
    def model(self) -> bytes:
        """The .tflite file."""
        return one_op(self.kind, self.inputs, [self.output], self.options, VERSIONS.get(self.kind, 2))

    def feed(self, rng: Rng) -> list[np.ndarray]:
        """Random values of the inputs, the whole range of their type."""
        fed = {v.name: v for v in self.inputs if v is not None and v.data is None}
        return [random_values(v.shape, v.dtype, rng) for v in fed.values()]


def random_values(shape: tuple[int, ...], dtype: str, rng: Rng) -> np.ndarray:
    """All values of an integer type, or normal float32 with a few that saturate."""
    if dtype == "float32":
        return (rng.normal(size=shape) * rng.choice([1, 1, 1, 100], shape)).astype(np.float32)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def value(name: str, shape: tuple[int, ...], dtype: str, rng: Rng, **fixed: object) -> Value:
    """A tensor with a random scale and zero point, unless given."""
    scale = fixed.pop("scale", None) or float(np.exp(rng.uniform(-6, -1)))
    zero = fixed.pop("zero", None)
    if zero is None:
        zero = int(rng.integers(-128, 128)) if dtype == "int8" else 0
    if dtype == "float32":
        scale, zero = None, 0
    return Value(name, tuple(int(d) for d in shape), dtype, scale, zero, **fixed)  # type: ignore[arg-type]


def constant(name: str, numbers: object) -> Value:
    """An int32 argument."""
    data = np.array(numbers, np.int32)
    return Value(name, data.shape, "int32", data=data)


def same(dtype: str, rng: Rng) -> dict:
    """One scale and zero point for input and output."""
    return {"scale": float(np.exp(rng.uniform(-6, -1))), "zero": int(rng.integers(-128, 128)) if dtype == "int8" else 0}


# ---- one builder per family ----------------------------------------------------------------------------------------


def unary(kind: str, dtype: str, options: Callable[[Rng], tuple[str, dict]] | None = None, source: dict | None = None, out: dict | None = None):
    """One input of 256 values, all of them for int8."""

    def case(rng: Rng) -> OneOp:
        x, y = (value(n, (1, 256), dtype, rng, **(fixed or {})) for n, fixed in (("x", source), ("y", out)))
        return OneOp(kind, (x,), y, options(rng) if options else None)

    return case


def convert(kind: str, source: str, target: str):
    """QUANTIZE and DEQUANTIZE between two types."""

    def case(rng: Rng) -> OneOp:
        return OneOp(kind, (value("x", (1, 300), source, rng),), value("y", (1, 300), target, rng))

    return case


def row(kind: str, dtype: str, out: dict, options: Callable[[Rng], tuple[str, dict]] | None = None):
    """Softmax and log_softmax over rows of random length."""

    def case(rng: Rng) -> OneOp:
        shape = (3, int(rng.integers(1, 200)))
        x = value("x", shape, dtype, rng, scale=float(np.exp(rng.uniform(-6, 0))))
        return OneOp(kind, (x,), value("y", shape, dtype, rng, **out), options(rng) if options else None)

    return case


_PAIRS = (((1, 5, 6, 7), (1, 5, 6, 7)), ((1, 5, 6, 7), (1, 1, 1, 7)), ((2, 5, 1, 7), (1, 1, 6, 7)), ((1, 5, 6, 7), (1, 1, 1, 1)))


def binary(kind: str, options: str, dtype: str, activation: bool = True, one_scale: bool = False, **more: object):
    """Two inputs that broadcast in four ways."""

    def case(rng: Rng) -> OneOp:
        a, b = _PAIRS[int(rng.integers(4))]
        fixed = same(dtype, rng) if one_scale else {}
        tensors = [value(n, s, dtype, rng, **fixed) for n, s in (("a", a), ("b", b), ("y", np.broadcast_shapes(a, b)))]
        fields = {**({"fusedActivationFunction": int(rng.integers(4))} if activation else {}), **more}
        return OneOp(kind, (tensors[0], tensors[1]), tensors[2], (options, fields))

    return case


_AXES = ((1, 2), (3,), (1,), (2, 3), (1, 2, 3))


def reduce(kind: str, dtype: str, one_scale: bool = False):
    """A reduction over some axes, kept or not."""

    def case(rng: Rng) -> OneOp:
        shape, axes, keep = (2, *map(int, rng.integers(1, 12, 3))), _AXES[int(rng.integers(5))], bool(rng.integers(2))
        out = tuple(1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes)
        fixed = same(dtype, rng) if one_scale else {}
        x, y = value("x", shape, dtype, rng, **fixed), value("y", out, dtype, rng, **fixed)
        return OneOp(kind, (x, constant("axes", axes)), y, ("ReducerOptions", {"keepDims": keep}))

    return case


def _window(shape: tuple[int, ...], kernel: list[int], stride: list[int], dilation: list[int], scheme: int) -> tuple[int, ...]:
    """Height and width of the output; scheme 0 is SAME, 1 VALID."""
    sizes = zip(shape[1:3], kernel, stride, dilation, strict=True)
    return tuple(-(-d // s) if scheme == 0 else (d - (k - 1) * g - 1) // s + 1 for d, k, s, g in sizes)


def pool(kind: str, dtype: str):
    """Windows and strides up to 3, SAME and VALID."""

    def case(rng: Rng) -> OneOp:
        shape = (2, *map(int, rng.integers(3, 12, 2)), int(rng.integers(1, 9)))
        kernel, stride, scheme = rng.integers(1, 4, 2).tolist(), rng.integers(1, 4, 2).tolist(), int(rng.integers(2))
        out, fixed = _window(shape, kernel, stride, [1, 1], scheme), same(dtype, rng)
        fields = {"padding": scheme, "strideH": stride[0], "strideW": stride[1], "filterHeight": kernel[0], "filterWidth": kernel[1],
                  "fusedActivationFunction": int(rng.integers(4))}  # fmt: skip
        return OneOp(kind, (value("x", shape, dtype, rng, **fixed),), value("y", (2, *out, shape[3]), dtype, rng, **fixed), ("Pool2DOptions", fields))

    return case


def _weighted(x: Value, shape: tuple[int, ...], axis: int, bias: str | None, per_channel: bool, depth: int, rng: Rng, zero: int = 0):
    """`(x, w[, b])`, and a scale for the output under which it rarely saturates."""
    channels = shape[axis]
    scales = np.exp(rng.uniform(-7, -3, channels if per_channel else 1)).astype(np.float32)
    inputs = [x, Value("w", shape, "int8", scales, zero, axis, rng.integers(-127, 128, shape).astype(np.int8))]
    if bias:
        numbers = rng.integers(-5000, 5000, channels).astype(bias)
        inputs.append(Value("b", (channels,), bias, float(x.scale or 1) * scales, 0, 0, numbers))  # type: ignore[arg-type]
    spread = 74 * (74 if x.dtype == "int8" else 18918) * np.sqrt(depth)
    largest = 128 if x.dtype == "int8" else 32768
    return tuple(inputs), float(x.scale or 1) * float(scales.mean()) * spread / largest * float(np.exp(rng.uniform(0, 2)))  # type: ignore[arg-type]


def conv(kind: str, dtype: str, bias: str | None, per_channel: bool):
    """Kernels, strides up to 3, dilations up to 2, groups, SAME and VALID."""

    def case(rng: Rng) -> OneOp:
        groups = int(rng.integers(1, 3)) if kind == "CONV_2D" else 1
        depth, multiplier = int(rng.integers(1, 6)), int(rng.integers(1, 4))
        shape = (2, *map(int, rng.integers(5, 12, 2)), depth * groups)
        kernel, stride, dilation = (rng.integers(1, top, 2).tolist() for top in (4, 4, 3))
        scheme, channels = int(rng.integers(2)), int(rng.integers(1, 5)) * groups if kind == "CONV_2D" else shape[3] * multiplier
        weight, axis = ((channels, *kernel, depth), 0) if kind == "CONV_2D" else ((1, *kernel, channels), 3)
        inputs, scale = _weighted(value("x", shape, dtype, rng), weight, axis, bias, per_channel, int(np.prod(kernel)) * depth, rng)
        fields = {"padding": scheme, "strideH": stride[0], "strideW": stride[1], "dilationHFactor": dilation[0], "dilationWFactor": dilation[1],
                  "fusedActivationFunction": int(rng.integers(4))}  # fmt: skip
        if kind != "CONV_2D":
            fields["depthMultiplier"] = multiplier
        elif (dtype, bias) == ("int16", "int32"):
            fields["quantizedBiasType"] = 2
        y = value("y", (2, *_window(shape, kernel, stride, dilation, scheme), channels), dtype, rng, scale=scale)
        return OneOp(kind, inputs, y, ("Conv2DOptions" if kind == "CONV_2D" else "DepthwiseConv2DOptions", fields))

    return case


def dense(dtype: str, bias: str | None, per_channel: bool, asymmetric: bool = False):
    """FULLY_CONNECTED with every kind of bias; `asymmetric` weights have a zero point."""

    def case(rng: Rng) -> OneOp:
        depth, channels = int(rng.integers(1, 300)), int(rng.integers(1, 40))
        zero = int(rng.integers(-20, 20)) if asymmetric else 0
        inputs, scale = _weighted(value("x", (3, depth), dtype, rng), (channels, depth), 0, bias, per_channel, depth, rng, zero)
        fields = {"fusedActivationFunction": int(rng.integers(4))}
        if (dtype, bias) == ("int16", "int32"):
            fields["quantizedBiasType"] = 2
        return OneOp("FULLY_CONNECTED", inputs, value("y", (3, channels), dtype, rng, scale=scale), ("FullyConnectedOptions", fields))

    return case


def matmul(dtype: str):
    """BATCH_MATMUL with either side transposed or not."""

    def case(rng: Rng) -> OneOp:
        m, k, n = map(int, rng.integers(1, 30, 3))
        flip = rng.integers(2, size=2).astype(bool).tolist()
        a, b = value("a", (2, 3, k, m) if flip[0] else (2, 3, m, k), dtype, rng), value("b", (2, 3, n, k) if flip[1] else (2, 3, k, n), dtype, rng)
        largest = 128 if dtype == "int8" else 32768
        scale = float(a.scale) * float(b.scale) * largest * np.sqrt(k) / 3  # type: ignore[arg-type]
        return OneOp("BATCH_MATMUL", (a, b), value("y", (2, 3, m, n), dtype, rng, scale=scale), ("BatchMatMulOptions", {"adjX": flip[0], "adjY": flip[1]}))

    return case


def resize(kind: str, options: str, dtype: str):
    """Up and down, in the three conventions."""

    def case(rng: Rng) -> OneOp:
        shape, size, mode, fixed = (2, *map(int, rng.integers(1, 12, 2)), 3), tuple(map(int, rng.integers(1, 20, 2))), int(rng.integers(3)), same(dtype, rng)
        fields = {"alignCorners": mode == 1, "halfPixelCenters": mode == 2}
        return OneOp(kind, (value("x", shape, dtype, rng, **fixed), constant("size", size)), value("y", (2, *size, 3), dtype, rng, **fixed), (options, fields))

    return case


def moved(kind: str, dtype: str):
    """Ops that move values: one scale, arguments as constants."""

    def case(rng: Rng) -> OneOp:
        shape, fixed = tuple(map(int, rng.integers(2, 6, 4))), same(dtype, rng)
        x = value("x", shape, dtype, rng, **fixed)
        arguments, out, options = _move(kind, shape, rng)
        extra = (value("fill", (1,), dtype, rng, data=random_values((1,), dtype, rng), **fixed),) if kind == "PADV2" else ()
        inputs = (x, value("x2", shape, dtype, rng, **fixed)) if kind == "CONCATENATION" else (x, *arguments, *extra)
        return OneOp(kind, inputs, value("y", out, dtype, rng, **fixed), options)

    return case


def _move(kind: str, shape: tuple[int, ...], rng: Rng) -> tuple[tuple[Value, ...], tuple[int, ...], tuple[str, dict] | None]:
    match kind:
        case "TRANSPOSE":
            perm = rng.permutation(4).tolist()
            return (constant("perm", perm),), tuple(shape[p] for p in perm), None
        case "PAD" | "PADV2":
            pads = rng.integers(0, 3, (4, 2))
            return (constant("pads", pads),), tuple(d + int(p.sum()) for d, p in zip(shape, pads, strict=True)), None
        case "RESHAPE":
            return (constant("shape", [-1, shape[3]]),), (shape[0] * shape[1] * shape[2], shape[3]), None
        case "SLICE":
            begin = [int(rng.integers(d)) for d in shape]
            size = [int(rng.integers(1, d - b + 1)) for b, d in zip(begin, shape, strict=True)]
            return (constant("begin", begin), constant("size", size)), tuple(size), None
        case "STRIDED_SLICE":
            return (constant("begin", [0, -1, 0, 1]), constant("end", [9, 0, 1, 9]), constant("strides", [1, -1, 1, 2])), (
                shape[0], shape[1] - 1, shape[3] // 2), ("StridedSliceOptions", {"shrinkAxisMask": 4})  # fmt: skip
        case "CONCATENATION":
            axis = int(rng.integers(-4, 4))
            return (), tuple(2 * d if i == axis % 4 else d for i, d in enumerate(shape)), ("ConcatenationOptions", {"axis": axis})
    times = rng.integers(1, 3, 4).tolist()
    assert kind == "TILE"
    return (constant("times", times),), tuple(d * t for d, t in zip(shape, times, strict=True)), None


def prelu(rng: Rng) -> OneOp:
    """PRELU with one alpha per channel."""
    alpha = value("alpha", (1, 1, 6), "int8", rng, data=random_values((1, 1, 6), "int8", rng))
    return OneOp("PRELU", (value("x", (1, 4, 5, 6), "int8", rng), alpha), value("y", (1, 4, 5, 6), "int8", rng))


def argmax(rng: Rng) -> OneOp:
    """ARG_MAX of ties and all, int32 out."""
    x = Value("x", (3, 7, 5), "int8", 0.1, 0)
    return OneOp("ARG_MAX", (x, constant("axis", [1])), Value("y", (3, 5), "int32"), ("ArgMaxOptions", {"outputType": 2}))


def _gelu(rng: Rng) -> tuple[str, dict]:
    return "GeluOptions", {"approximate": bool(rng.integers(2))}


def _alpha(rng: Rng) -> tuple[str, dict]:
    return "LeakyReluOptions", {"alpha": float(rng.uniform(0, 1))}


def _beta(rng: Rng) -> tuple[str, dict]:
    return "SoftmaxOptions", {"beta": float(rng.choice([1.0, 1.0, 0.5, 2.0]))}


_SIGMOID_8, _UNIT_16, _POSITIVE = {"scale": 1 / 256, "zero": -128}, {"scale": 1 / 32768, "zero": 0}, {"zero": -128}

CASES: dict[str, Callable[[Rng], OneOp]] = {
    **{f"{kind} {dtype}": unary(kind, dtype) for kind in ("RELU", "RELU6", "ABS", "EXP", "LOG") for dtype in ("int8", "int16")},
    "RELU_N1_TO_1 int8": unary("RELU_N1_TO_1", "int8"),
    "HARD_SWISH int8": unary("HARD_SWISH", "int8"),
    "TANH int8": unary("TANH", "int8"),
    "TANH int16": unary("TANH", "int16", out=_UNIT_16),
    "LOGISTIC int8": unary("LOGISTIC", "int8", out=_SIGMOID_8),
    "LOGISTIC int16": unary("LOGISTIC", "int16", out=_UNIT_16),
    "SQRT int8": unary("SQRT", "int8", source=_POSITIVE),
    "RSQRT int8": unary("RSQRT", "int8", source=_POSITIVE),
    **{f"LEAKY_RELU {dtype}": unary("LEAKY_RELU", dtype, _alpha) for dtype in ("int8", "int16")},
    **{f"GELU {dtype}": unary("GELU", dtype, _gelu) for dtype in ("int8", "int16")},
    "PRELU int8": prelu,
    "QUANTIZE int8": convert("QUANTIZE", "float32", "int8"),
    "QUANTIZE int16": convert("QUANTIZE", "float32", "int16"),
    **{f"QUANTIZE {a} to {b}": convert("QUANTIZE", a, b) for a in ("int8", "int16") for b in ("int8", "int16")},
    **{f"DEQUANTIZE {a}": convert("DEQUANTIZE", a, "float32") for a in ("int8", "int16")},
    "SOFTMAX int8": row("SOFTMAX", "int8", _SIGMOID_8, _beta),
    "SOFTMAX int16": row("SOFTMAX", "int16", _UNIT_16, _beta),
    "LOG_SOFTMAX int8": row("LOG_SOFTMAX", "int8", {"scale": 16 / 256, "zero": 127}),
    "ADD int8": binary("ADD", "AddOptions", "int8"),
    "ADD int16": binary("ADD", "AddOptions", "int16", potScaleInt16=False),
    "SUB int8": binary("SUB", "SubOptions", "int8"),
    "SUB int16": binary("SUB", "SubOptions", "int16", potScaleInt16=False),
    "MUL int8": binary("MUL", "MulOptions", "int8"),
    "MUL int16": binary("MUL", "MulOptions", "int16"),
    "SQUARED_DIFFERENCE int8": binary("SQUARED_DIFFERENCE", "SquaredDifferenceOptions", "int8", activation=False),
    **{f"{kind} {dtype}": binary(kind, "MaximumMinimumOptions", dtype, activation=False, one_scale=True)
       for kind in ("MAXIMUM", "MINIMUM") for dtype in ("int8", "int16")},
    **{f"MEAN {dtype}": reduce("MEAN", dtype) for dtype in ("int8", "int16")},
    "MEAN int8 one scale": reduce("MEAN", "int8", one_scale=True),
    "REDUCE_MAX int8": reduce("REDUCE_MAX", "int8", one_scale=True),
    "ARG_MAX int8": argmax,
    **{f"{kind} {dtype}": pool(kind, dtype) for kind in ("MAX_POOL_2D", "AVERAGE_POOL_2D") for dtype in ("int8", "int16")},
    **{f"CONV_2D {d} bias {b} {'per channel' if c else 'per tensor'}": conv("CONV_2D", d, b, c)
       for d, b in (("int8", "int32"), ("int16", "int64"), ("int16", "int32")) for c in (True, False)},
    **{f"DEPTHWISE_CONV_2D {d} bias {b} {'per channel' if c else 'per tensor'}": conv("DEPTHWISE_CONV_2D", d, b, c)
       for d, b in (("int8", "int32"), ("int8", None), ("int16", "int64"), ("int16", None)) for c in (True, False)},
    **{f"FULLY_CONNECTED {d} bias {b} {'per channel' if c else 'per tensor'}": dense(d, b, c)
       for d, b in (("int8", "int32"), ("int8", None), ("int16", "int64"), ("int16", "int32"), ("int16", None)) for c in (True, False)},
    "FULLY_CONNECTED int8 asymmetric weights": dense("int8", "int32", False, asymmetric=True),
    **{f"BATCH_MATMUL {dtype}": matmul(dtype) for dtype in ("int8", "int16")},
    **{f"RESIZE_BILINEAR {dtype}": resize("RESIZE_BILINEAR", "ResizeBilinearOptions", dtype) for dtype in ("int8", "int16")},
    **{f"RESIZE_NEAREST_NEIGHBOR {dtype}": resize("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions", dtype) for dtype in ("int8", "int16")},
    **{f"{kind} int8": moved(kind, "int8") for kind in ("TRANSPOSE", "PAD", "PADV2", "RESHAPE", "SLICE", "STRIDED_SLICE", "CONCATENATION", "TILE")},
    **{f"{kind} int16": moved(kind, "int16") for kind in ("TRANSPOSE", "PAD", "SLICE", "STRIDED_SLICE", "CONCATENATION")},
}  # fmt: skip
