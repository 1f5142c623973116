"""Cases for the kernels: every op of the table, on each data type, in shapes that reach every branch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sdk.graph.ir import Node, Quant, Tensor
from sdk.graph.ops import OPS
from tests.kernel_harness import DSP, Case, make_case

Window = tuple[tuple[int, int], tuple[int, int]]
NONE: Window = ((0, 0), (0, 0))
SAME: Window = ((1, 1), (1, 1))


class Maker:
    """Makes cases with reproducible random values."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def values(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """The whole range of an integer type; around zero for float32."""
        if dtype == "float32":
            return self.rng.normal(0, 2, shape).astype(np.float32)
        if dtype == "bool":
            return self.rng.integers(0, 2, shape).astype(bool)
        info = np.iinfo(dtype)
        return self.rng.integers(max(info.min, -(2**31)), min(info.max, 2**31 - 1) + 1, shape).astype(dtype)

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str, scale: float = 0.05, zero: int = 0, const: bool = False) -> Tensor:
        """A tensor; integers of 8 and 16 bits carry a scale."""
        quant = Quant((scale,), (zero if dtype == "int8" else 0,)) if dtype in ("int8", "int16") else None
        return Tensor(name, shape, dtype, quant, self.values(shape, dtype) if const else None)

    def case(self, op: str, inputs: list[Tensor], isa: frozenset[str] = frozenset(), overlap: int | None = None, out: Quant | None = None,
             out_dtype: str | None = None, **attrs: object) -> Case:  # fmt: skip
        """A case whose output's shape and type the op's own rule gives."""
        tensors = {t.name: t for t in inputs}
        declared = Tensor("y", (), out_dtype, out) if out_dtype else None
        node = Node("n", op, tuple(t.name for t in inputs), ("y",), attrs)
        ((shape, dtype),) = OPS[op].infer(node, {**tensors, **({"y": declared} if declared else {})})
        quant = out if dtype in ("int8", "int16", "int32") else None
        values = {t.name: self.values(t.shape, t.dtype) for t in inputs if t.data is None}
        return make_case(op, inputs, Tensor("y", shape, dtype, quant), values, isa, overlap, **attrs)

    def weights(self, shape: tuple[int, ...], axis: int | None, depth: float, channels: int) -> Tensor:
        """int8 weights of -127..127; with `axis` one scale a channel, over a factor of 4."""
        count = channels if axis is not None else 1
        scales = self.rng.uniform(0.5, 2, count) * 0.02 / np.sqrt(depth)
        data = self.rng.integers(-127, 128, shape).astype(np.int8)
        return Tensor("w", shape, "int8", Quant(tuple(scales), (0,) * count, axis), data)

    def bias(self, channels: int, dtype: str = "int32") -> Tensor:
        """A bias that matters but does not saturate."""
        return Tensor("b", (channels,), dtype, None, self.rng.integers(-3000, 3000, channels).astype(dtype))


# ---- convolutions --------------------------------------------------------------------------------------------------

#: x shape, output channels, kernel, stride, padding, more attributes, input zero point, output zero point
CONVS = (
    ((1, 8, 8, 16), 16, (3, 3), (1, 1), SAME, {}, -3, 5),
    ((1, 9, 7, 3), 8, (3, 3), (2, 2), ((0, 1), (0, 1)), {"activation": "relu"}, -128, -128),
    ((1, 13, 6, 1), 6, (10, 4), (2, 2), ((4, 5), (1, 1)), {"activation": "relu6"}, 83, -128),
    ((2, 5, 7, 8), 7, (1, 1), (1, 1), NONE, {}, 4, -20),
    ((1, 6, 6, 4), 5, (1, 1), (2, 2), NONE, {"activation": "relu"}, -128, -128),
    ((2, 5, 7, 5), 9, (3, 2), (1, 1), ((1, 0), (2, 1)), {"activation": "relu6"}, 7, -90),
    ((1, 9, 9, 4), 4, (3, 3), (1, 1), SAME, {"dilation": (2, 2)}, 0, 0),
    ((1, 9, 9, 6), 3, (2, 3), (1, 2), SAME, {"dilation": (3, 1)}, 0, 0),
    ((3, 3, 3, 6), 5, (3, 3), (1, 1), NONE, {}, 1, 2),
    ((1, 1, 1, 20), 10, (1, 1), (1, 1), NONE, {}, 11, 0),
    ((1, 6, 6, 8), 6, (3, 3), (1, 1), SAME, {"groups": 2}, -5, 3),
    ((1, 2, 2, 4), 1, (3, 3), (1, 1), ((2, 2), (2, 2)), {}, -5, 3),
    ((1, 4, 5, 2), 2, (1, 1), (1, 1), NONE, {"activation": "relu_n1_to_1"}, -5, 3),
)

#: x shape, kernel, stride, padding, multiplier, attributes, zero points
DEPTHWISE = (
    ((1, 12, 11, 8), (3, 3), (1, 1), SAME, 1, {"activation": "relu"}, -128, -128),
    ((1, 9, 9, 16), (3, 3), (2, 2), ((0, 1), (0, 1)), 1, {}, 3, 4),
    ((2, 6, 6, 4), (5, 5), (1, 1), ((2, 2), (2, 2)), 1, {"activation": "relu6"}, -9, -100),
    ((1, 8, 8, 4), (7, 7), (2, 2), ((3, 3), (3, 3)), 1, {}, 0, 0),
    ((1, 30, 1, 8), (10, 1), (1, 1), NONE, 1, {}, -2, 11),
    ((1, 7, 9, 4), (4, 2), (1, 2), ((1, 2), (0, 1)), 1, {}, 5, -3),
    ((1, 6, 7, 8), (1, 3), (1, 1), ((0, 0), (1, 1)), 1, {}, 5, -3),
    ((1, 2, 2, 8), (3, 3), (1, 1), SAME, 1, {"activation": "relu"}, 5, -3),
    ((1, 6, 6, 6), (3, 3), (1, 1), SAME, 1, {}, 5, -3),
    ((1, 6, 6, 3), (3, 3), (1, 1), SAME, 2, {}, 5, -3),
    ((1, 10, 8, 1), (5, 4), (2, 2), SAME, 8, {"activation": "relu"}, -128, -128),
    ((1, 9, 9, 4), (3, 3), (1, 1), ((2, 2), (2, 2)), 1, {"dilation": (2, 2)}, 5, -3),
)

#: x shape, channels, per channel
DENSES = (((1, 64), 10, False), ((1, 37), 13, True), ((2, 40), 3, True), ((7, 24), 12, False), ((2, 3, 20), 5, True), ((1, 8), 128, False))


def convolutions(make: Maker, dtype: str, isa: frozenset[str] = frozenset(), overlap: int | None = 0) -> Iterator[Case]:
    """conv2d in every geometry."""
    for shape, channels, kernel, stride, padding, attrs, zero_in, zero_out in CONVS:
        depth = shape[3] // attrs.get("groups", 1)
        w = make.weights((channels, *kernel, depth), 0, depth * kernel[0] * kernel[1], channels)
        attrs = {"stride": stride, "padding": padding, **attrs}
        yield _weighted(make, "conv2d", shape, w, channels, dtype, isa, overlap, zero_in, zero_out, attrs)


def depthwise(make: Maker, dtype: str, isa: frozenset[str] = frozenset(), overlap: int | None = 0) -> Iterator[Case]:
    """depthwise_conv2d in every geometry."""
    for shape, kernel, stride, padding, multiplier, attrs, zero_in, zero_out in DEPTHWISE:
        channels = shape[3] * multiplier
        w = make.weights((1, *kernel, channels), 3, kernel[0] * kernel[1], channels)
        attrs = {"stride": stride, "padding": padding, "multiplier": multiplier, **attrs}
        yield _weighted(make, "depthwise_conv2d", shape, w, channels, dtype, isa, overlap, zero_in, zero_out, attrs)


def dense(make: Maker, dtype: str, isa: frozenset[str] = frozenset(), overlap: int | None = 0) -> Iterator[Case]:
    """dense, with one scale and with one per channel."""
    for shape, channels, per_channel in DENSES:
        w = make.weights((channels, shape[-1]), 0 if per_channel else None, shape[-1], channels)
        for activation, zero in (("none", 9), ("relu", -128)):
            yield _weighted(make, "dense", shape, w, channels, dtype, isa, overlap, -128, zero, {"activation": activation})


def _weighted(make: Maker, op: str, shape: tuple[int, ...], w: Tensor, channels: int, dtype: str, isa: frozenset[str], overlap: int | None,
              zero_in: int, zero_out: int, attrs: dict) -> Case:  # fmt: skip
    if dtype == "float32":
        real = Tensor("w", w.shape, "float32", None, (w.data * 0.01).astype(np.float32))
        return make.case(op, [make.tensor("x", shape, dtype), real, make.tensor("b", (channels,), dtype, const=True)], isa, overlap, **attrs)
    wide = dtype == "int16" and make.rng.integers(2) and op != "dense"
    x = make.tensor("x", shape, dtype, 0.05 if dtype == "int8" else 0.0002, zero_in)
    out = Quant((0.1 if dtype == "int8" else 0.0004,), (zero_out if dtype == "int8" else 0,))
    return make.case(op, [x, w, make.bias(channels, "int64" if wide else "int32")], isa, overlap, out, **attrs)


# ---- everything else -----------------------------------------------------------------------------------------------

#: pairs of shapes for ops on two tensors
SHAPES = (((1, 4, 5, 8), (1, 4, 5, 8)), ((2, 3, 4), (4,)), ((3, 1, 5), (1, 6, 1)), ((1, 1, 1, 7), (1, 5, 3, 7)), ((13,), (13,)))
ARITHMETIC = ("add", "sub", "mul", "div", "maximum", "minimum", "squared_difference")


def arithmetic(make: Maker, dtype: str, isa: frozenset[str] = frozenset()) -> Iterator[Case]:
    """Ops on two tensors, with and without broadcasting, on activations and constants."""
    for op in ARITHMETIC:
        if dtype not in OPS[op].dtypes:
            continue
        same = op in ("maximum", "minimum")
        for index, (a, b) in enumerate(SHAPES):
            first = make.tensor("a", a, dtype, 0.05 if index < 4 else 0.0477311, -7)  # scales with and without ties
            second = make.tensor("b", b, dtype, 0.05 if same else 0.031, -7 if same else 19, const=index == 1)
            scale = 0.05 if same else 0.7 if op == "mul" else 0.07
            out = Quant((scale,), (-7 if same else 3 if dtype == "int8" else 0,)) if dtype != "float32" else None
            if same and dtype != "float32":
                second = replace(second, quant=first.quant)
                out = first.quant
            overlap = 0 if a == b else None
            yield make.case(op, [first, second], isa, overlap, out, activation="relu" if index == 0 else "none")


#: (scale, zero point) of both inputs and the output of a residual network's additions, as a calibration gave them, and the activation
RESIDUAL = (
    ((0.039393551647663116, -128), (0.10419496148824692, 4), (0.050945673137903214, -128), 'relu'),
    ((0.044761426746845245, -17), (0.11311884224414825, 4), (0.0532362163066864, -128), 'relu'),
    ((0.08385830372571945, 38), (0.21724364161491394, -2), (0.1270691454410553, -128), 'relu'),
)


def residual_adds(make: Maker, isa: frozenset[str]) -> Iterator[Case]:
    """Additions with the scales of a real network: those whose linear form is proven run on the kernel with DSP instructions."""
    for (a, zero_a), (b, zero_b), (scale, zero), activation in RESIDUAL:
        first, second = make.tensor("a", (1, 4, 5, 8), "int8", a, zero_a), make.tensor("b", (1, 4, 5, 8), "int8", b, zero_b)
        yield make.case("add", [first, second], isa, 0, Quant((scale,), (zero,)), activation=activation)


UNARY = {
    "relu": {}, "relu6": {}, "relu_n1_to_1": {}, "leaky_relu": {"alpha": 0.1}, "elu": {}, "hard_swish": {}, "hard_sigmoid": {}, "sigmoid": {},
    "tanh": {}, "silu": {}, "gelu": {"approximate": False}, "exp": {}, "log": {}, "sqrt": {}, "rsqrt": {}, "abs": {}, "neg": {},
    "clip": {"min": -0.5, "max": 1.5},
}  # fmt: skip
NOT_INT16 = ("leaky_relu", "sigmoid", "tanh")


def unary(make: Maker, dtype: str) -> Iterator[Case]:
    """Elementwise ops of one tensor."""
    for op, attrs in UNARY.items():
        if dtype == "int16" and op in NOT_INT16:
            continue
        out = {"int8": Quant((0.04,), (-5,)), "int16": Quant((2.0 / 32768,), (0,)), "float32": None}[dtype]
        yield make.case(op, [make.tensor("x", (3, 67), dtype, 0.05 if dtype == "int8" else 8.0 / 32768, 12)], overlap=0, out=out, **attrs)
    if dtype == "float32":
        yield make.case("gelu", [make.tensor("x", (3, 67), dtype)], overlap=0, approximate=True)


def pools(make: Maker, dtype: str) -> Iterator[Case]:
    """Pools at edges, with and without counting the padding."""
    for op in ("avg_pool2d", "max_pool2d"):
        for kernel, stride, padding, pad in (((3, 3), (2, 2), SAME, False), ((2, 5), (1, 1), ((1, 0), (2, 2)), True), ((6, 7), (1, 1), NONE, False)):
            x = make.tensor("x", (2, 6, 7, 5), dtype, 0.05, -13)
            more = {"count_include_pad": pad} if op == "avg_pool2d" else {}
            yield make.case(op, [x], overlap=0, out=x.quant, kernel=kernel, stride=stride, padding=padding, activation="relu" if pad else "none", **more)


def rows(make: Maker, dtype: str) -> Iterator[Case]:
    """softmax, log_softmax, layer_norm."""
    out = {"int8": Quant((1 / 256,), (-128,)), "int16": Quant((1 / 32768,), (0,)), "float32": None}[dtype]
    for depth in (1, 2, 10, 77):
        scale = 0.06 if dtype == "int8" else 9.0 / 32768
        yield make.case("softmax", [make.tensor("x", (3, depth), dtype, scale, 4)], overlap=0, out=out, axis=-1, beta=1.0)
        if dtype == "int16":
            continue
        last = Quant((1 / 16,), (127,)) if dtype == "int8" else None
        yield make.case("log_softmax", [make.tensor("x", (3, depth), dtype, scale, 4)], overlap=0, out=last, axis=-1)
    if dtype == "float32":
        means = [make.tensor(n, (9,), dtype, const=True) for n in ("g", "b", "m")]
        spread = Tensor("v", (9,), dtype, None, np.abs(make.values((9,), dtype)))
        yield make.case("batch_norm", [make.tensor("x", (2, 5, 9), dtype), *means, spread], overlap=0, eps=1e-3)
    for depth in (4, 33):
        gamma, beta = (make.tensor(n, (depth,), "float32", const=True) for n in ("g", "b"))
        scaled = {"int8": Quant((0.05,), (3,)), "int16": Quant((0.0003,), (0,)), "float32": None}[dtype]
        yield make.case("layer_norm", [make.tensor("x", (2, 5, depth), dtype, 0.05, -9), gamma, beta], overlap=0, out=scaled, axes=(-1,), eps=1e-5)


def reductions(make: Maker, dtype: str) -> Iterator[Case]:
    """mean, sum, reduce_max, argmax over every kind of axes."""
    for axes in ((1, 2), (0,), (3,), (0, 2), None):
        for op in ("mean", "sum", "reduce_max"):
            x = make.tensor("x", (2, 4, 3, 5), dtype, 0.05, -13)
            out = None if dtype == "float32" else x.quant if op == "reduce_max" else Quant((0.03 if op == "mean" else 0.6,), (5 if dtype == "int8" else 0,))
            yield make.case(op, [x], out=out, axes=axes, keep_dims=axes == (1, 2))
    for axis in (0, 1, -1):
        yield make.case("argmax", [make.tensor("x", (3, 4, 6), dtype)], axis=axis, dtype="int64" if axis == 0 else "int32")


def moves(make: Maker, dtype: str) -> Iterator[Case]:
    """Ops that move values."""

    def x(*shape: int, name: str = "x", const: bool = False) -> Tensor:
        return make.tensor(name, shape, dtype, 0.05, -13, const)

    quant = x(1).quant
    for perm in ((0, 3, 1, 2), (0, 2, 3, 1), (3, 2, 1, 0)):
        yield make.case("transpose", [x(2, 3, 4, 5)], out=quant, perm=perm)
    yield make.case("slice", [x(2, 7, 6, 5)], out=quant, begin=(0, 1, 2, 0), end=(2, 6, 6, 5), strides=(1, 2, 1, 1))
    yield make.case("slice", [x(6, 5)], out=quant, begin=(5, 4), end=(-1, 0), strides=(-1, -2))
    yield make.case("tile", [x(2, 3, 2)], out=quant, multiples=(2, 1, 3))
    yield make.case("pad", [x(2, 3, 4)], out=quant, paddings=((0, 1), (2, 0), (1, 1)), value=0)
    yield make.case("concat", [x(2, 3, 4, name="a"), x(2, 1, 4, name="b", const=True), x(2, 2, 4, name="c")], out=quant, axis=1)
    yield make.case("concat", [x(5, 3, name="a"), x(5, 4, name="b")], out=quant, axis=-1)
    indices = Tensor("i", (2, 2), "int64", None, np.array([[0, 3], [1, 1]], np.int64))
    yield make.case("gather", [x(2, 4, 3), indices], out=quant, axis=1)
    yield make.case("gather", [x(4, 6, const=True), Tensor("i", (3,), "int32", None, np.array([2, 0, 3], np.int32)), ][0:2], out=quant, axis=0)
    if dtype in ("float32", "int8", "int16"):
        for modes in ({}, {"align_corners": True}, {"half_pixel_centers": True}):
            yield make.case("resize_nearest", [x(1, 4, 5, 3)], out=quant, size=(7, 3), **modes)
            yield make.case("resize_bilinear", [x(2, 4, 5, 3)], out=quant, size=(7, 8), **modes)


def conversions(make: Maker) -> Iterator[Case]:
    """Between types and scales."""
    for dtype, scale in (("int8", 0.05), ("int16", 0.0007), ("int32", 1e-6)):
        out = Quant((scale,), (-7 if dtype == "int8" else 0,))
        yield make.case("quantize", [make.tensor("x", (5, 31), "float32")], overlap=0, out=out, out_dtype=dtype)
        x = Tensor("x", (5, 31), dtype, out)
        yield make.case("dequantize", [x], overlap=0)
        for other, target in (("int8", 0.03), ("int16", 0.0002)):
            yield make.case("requantize", [x], overlap=0, out=Quant((target,), (9 if other == "int8" else 0,)), out_dtype=other)
    for source in ("float32", "int8", "uint8", "int32", "int64", "bool"):
        for target in ("float32", "int8", "int32", "int64"):
            yield make.case("cast", [make.tensor("x", (7, 5), source)], overlap=0, dtype=target)


def products(make: Maker, dtype: str) -> Iterator[Case]:
    """Matrix products, prelu."""
    out = {"int8": Quant((0.9,), (3,)), "int16": Quant((0.9,), (0,)), "float32": None}[dtype]
    for a, b, ta, tb in (((2, 3, 5), (2, 5, 4), False, False), ((2, 2, 5, 3), (2, 2, 4, 5), True, True), ((3, 5), (2, 5, 4), False, False)):
        inputs = [make.tensor("a", a, dtype, 0.05, 3), make.tensor("b", b, dtype, 0.04, -6)]
        yield make.case("batch_matmul", inputs, out=out, transpose_a=ta, transpose_b=tb)
    if dtype != "int16":
        alpha = make.tensor("alpha", (7,), dtype, 0.004, 2, const=True)
        yield make.case("prelu", [make.tensor("x", (2, 5, 7), dtype, 0.05, 3), alpha], overlap=0, out=Quant((0.05,), (1,)) if dtype == "int8" else None)


def portable(make: Maker) -> list[Case]:
    """Every case for the kernels in portable C."""
    found: list[Case] = []
    for dtype in ("int8", "int16", "float32"):
        for family in (convolutions, depthwise, dense, arithmetic, unary, pools, rows, reductions, products):
            found += family(make, dtype)
    for dtype in ("int8", "int16", "float32", "int64"):
        found += moves(make, dtype)
    return found + list(conversions(make))


def _depthwise_others(make: Maker, dtype: str, isa: frozenset[str]) -> Iterator[Case]:
    """The depthwise cases whose kernel has another call, with that one."""
    for case in depthwise(make, dtype, isa):
        if case.call.other is not None:
            yield case.with_call(case.call.other)


def dsp(make: Maker) -> list[Case]:
    """Every case for the kernels with DSP instructions; a case they refuse runs the portable kernel."""
    families = (convolutions, depthwise, _depthwise_others, dense, arithmetic)
    pool = make.tensor("x", (2, 6, 7, 8), "int8", 0.05, -13)
    window = {"kernel": (3, 2), "stride": (2, 1), "padding": SAME, "activation": "none"}
    vector = make.weights((6, 2, 3, 5), 0, 30, 6)
    whole = {"stride": (1, 1), "padding": NONE, "activation": "relu"}
    return [
        *(case for family in families for case in family(make, "int8", DSP)),
        *residual_adds(make, DSP),
        make.case("avg_pool2d", [pool], DSP, 0, pool.quant, **window),
        _weighted(make, "conv2d", (2, 2, 3, 5), vector, 6, "int8", DSP, None, 3, -128, whole),
    ]
