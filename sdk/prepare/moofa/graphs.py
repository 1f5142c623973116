"""A subnet as the int8 graph that it becomes after export, folding and quantising: the planner's figures without torch and without weights.

Sizes, ops and their order are those of the real thing. Weights and quantisation are made up: small random weights, scales that every fast
kernel takes. Where training leaves channels that are constant, the real graph loses them and needs less than is told here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sdk.graph.builder import Builder
from sdk.graph.ir import Graph, Quant
from sdk.prepare.moofa.space import SQUEEZE, Block, Ladder, Subnet, blocks, check, divisible

#: What a loaded subnet calls itself, its input and its output: names stand in flash too.
NAME, INPUT, OUTPUT = "subnetmodule", "x", "output"
PICTURE = Quant((1 / 255,), (-128,))  # values 0 to 1
REAL = Quant((0.05,), (0,))
POSITIVE = Quant((0.05,), (-128,))  # behind a relu
SWISHED = Quant((0.03,), (-115,))  # hard-swish goes down to -3/8
SUMMED = Quant((0.07,), (5,))
GATE = Quant((1 / 256,), (-128,))
#: Activations that no layer can clamp: nodes of their own, each with a table of 256 bytes.
CURVES = {"hswish": ("hard_swish", SWISHED), "hsigmoid": ("hard_sigmoid", GATE)}
#: Made-up weights lie in [-SPREAD, SPREAD): no sum leaves the fast kernels' 24 bits.
SPREAD = 8


@dataclass(frozen=True)
class Stem:
    """The 3x3 convolution that reads a picture of `side` pixels."""

    side: int
    outputs: int
    stride: int
    channels_last: bool = False


@dataclass(frozen=True)
class Head:
    """The last 1x1 convolution on `inputs` channels of `side` pixels a side, the pool, the feature layer if there is one, the classifier."""

    side: int
    inputs: int
    final: int
    feature: int
    classes: int


Part: TypeAlias = Stem | Block | Head


class Writer:
    """Appends a subnet's layers to a graph; every method takes and returns tensor names."""

    def __init__(self, name: str) -> None:
        self.builder = Builder(name)
        self.random = np.random.default_rng(0)
        self.curves = 0

    def layer(self, scope: str, op: str, x: str, weights: Sequence[int], axis: int, activation: str = "none", **attrs: object) -> str:
        """conv2d, depthwise_conv2d or dense with weights of a shape, output channels along `axis`."""
        builder, channels = self.builder, weights[axis]
        builder.scope = scope
        values = self.random.integers(-SPREAD, SPREAD, weights, dtype=np.int8)
        out = POSITIVE if activation == "relu" else REAL
        even = out.scale[0] / builder[x].scale / SPREAD / (values.size / channels) ** 0.5  # keeps the spread of the values that pass
        scales = even * self.random.uniform(1, 3, channels)
        w = builder.const(f"{scope}.weight", values, None, Quant(tuple(scales), (0,) * channels, axis))
        biases = self.random.integers(-SPREAD, SPREAD, channels, dtype=np.int32)
        b = builder.const(f"{scope}.bias", biases, None, Quant(tuple(builder[x].scale * scales), (0,) * channels, 0))
        curve = CURVES.get(activation)
        if curve is None:
            return builder.op(op, x, w, b, quant=out, activation=activation, **attrs)
        self.curves += 1
        y = builder.op(op, x, w, b, quant=scaled(REAL, self.curves), activation="none", **attrs)
        builder.scope = f"{scope}.{curve[0]}"
        return builder.op(curve[0], y, quant=curve[1])

    def conv(self, scope: str, x: str, channels: int, kernel: int = 1, stride: int = 1, activation: str = "none") -> str:
        """[1, S, S, C] -> [1, S', S', channels]."""
        shape = (channels, kernel, kernel, self.builder.shape(x)[-1])
        return self.layer(scope, "conv2d", x, shape, 0, activation, groups=1, **window(kernel, stride))

    def depthwise(self, scope: str, x: str, kernel: int, stride: int, activation: str) -> str:
        """[1, S, S, C] -> [1, S', S', C]."""
        shape = (1, kernel, kernel, self.builder.shape(x)[-1])
        return self.layer(scope, "depthwise_conv2d", x, shape, 3, activation, multiplier=1, **window(kernel, stride))

    def dense(self, scope: str, x: str, channels: int, activation: str = "none") -> str:
        """[1, C] -> [1, channels]."""
        return self.layer(scope, "dense", x, (channels, self.builder.shape(x)[-1]), 0, activation)

    def mean(self, scope: str, x: str) -> str:
        """[1, S, S, C] -> [1, 1, 1, C]."""
        self.builder.scope = scope
        return self.builder.op("mean", x, quant=REAL, axes=(1, 2), keep_dims=True)

    def squeeze(self, scope: str, x: str) -> str:
        """Squeeze-excite."""
        channels = self.builder.shape(x)[-1]
        y = self.conv(f"{scope}.reduce", self.mean(f"{scope}.pool", x), divisible(channels / SQUEEZE), activation="relu")
        gate = self.conv(f"{scope}.expand", y, channels, activation="hsigmoid")
        self.builder.scope = f"{scope}.mul"
        return self.builder.op("mul", x, gate, quant=SWISHED, activation="none")

    def block(self, scope: str, x: str, block: Block) -> str:
        """An inverted residual."""
        y = self.conv(f"{scope}.expand", x, block.hidden, activation=block.activation) if block.expands else x
        y = self.depthwise(f"{scope}.depthwise", y, block.kernel, block.stride, block.activation)
        y = self.squeeze(f"{scope}.squeeze", y) if block.squeeze else y
        y = self.conv(f"{scope}.project", y, block.outputs)
        if not block.residual:
            return y
        self.builder.scope = f"{scope}.add"
        return self.builder.op("add", x, y, quant=SUMMED, activation="none")

    def stem(self, x: str, stem: Stem) -> str:
        """The picture [1, 3, R, R], or [1, R, R, 3], -> the first block's input."""
        self.builder.scope = "stem"
        x = x if stem.channels_last else self.builder.op("transpose", x, perm=(0, 2, 3, 1))
        return self.conv("stem", x, stem.outputs, 3, stem.stride, "hswish")

    def head(self, x: str, head: Head) -> str:
        """The last block's output -> logits [1, classes]."""
        y = self.mean("pool", self.conv("final", x, head.final, activation="hswish"))
        self.builder.scope = "flatten"
        y = self.builder.op("reshape", y, shape=(1, head.final))
        y = self.dense("feature", y, head.feature, "hswish") if head.feature else y
        return self.dense("classifier", y, head.classes)

    def part(self, scope: str, x: str, part: Part) -> str:
        """Any part of a net."""
        match part:
            case Stem():
                return self.stem(x, part)
            case Head():
                return self.head(x, part)
        return self.block(scope, x, part)


def scaled(quant: Quant, number: int) -> Quant:
    """A scale of layer `number`'s own: equal tables would stand in flash once, and a trained net has hardly ever two that are."""
    return Quant((quant.scale[0] * (1 + number / 64),), quant.zero_point)


def window(kernel: int, stride: int) -> dict[str, tuple[object, object]]:
    """Attributes of a square window that is padded as the ladder's nets pad."""
    pad = (kernel // 2, kernel // 2)
    return {"stride": (stride, stride), "dilation": (1, 1), "padding": (pad, pad)}


def parts(ladder: Ladder, subnet: Subnet, classes: int, channels_last: bool = False) -> list[Part]:
    """The subnet's stem, blocks and head. Raises UsageError for a subnet of another ladder."""
    built = blocks(ladder, check(ladder, subnet))
    stem = Stem(subnet.resolution, ladder.stem, ladder.strides[0], channels_last)
    return [stem, *built, Head(built[-1].side_after, built[-1].outputs, ladder.final, ladder.feature, classes)]


def parts_graph(listed: Sequence[Part]) -> Graph:
    """Neighbouring parts of a net as a graph of their own."""
    writer, first = Writer(NAME), listed[0]
    y = writer.builder.input(INPUT, input_shape(first), "int8", PICTURE if isinstance(first, Stem) else REAL)
    for index, part in enumerate(listed):
        y = writer.part(f"blocks.{index - 1}", y, part)
    return writer.builder.graph([y], [OUTPUT])


def input_shape(part: Part) -> tuple[int, ...]:
    """Shape of what a part reads."""
    if isinstance(part, Stem) and not part.channels_last:
        return (1, 3, part.side, part.side)
    return (1, part.side, part.side, 3 if isinstance(part, Stem) else part.inputs)


def subnet_graph(ladder: Ladder, subnet: Subnet, classes: int, channels_last: bool = False) -> Graph:
    """The whole subnet: int8 picture in, int8 logits [1, classes] out. Raises UsageError for a subnet of another ladder.

    channels_last: the picture is [1, R, R, 3], as `sdk.load(..., input_layout="nhwc")` has it, in place of torch's [1, 3, R, R].
    """
    return parts_graph(parts(ladder, subnet, classes, channels_last))


def block_graph(block: Block) -> Graph:
    """One block alone: [1, side, side, inputs] -> [1, side', side', outputs]."""
    return parts_graph([block])
