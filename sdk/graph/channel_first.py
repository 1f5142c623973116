"""Channel-first layers on a `Builder`: what torch and ONNX call [N, C, H, W], written with the graph's NHWC ops.

Every function takes and gives channel-first tensors and writes the transposes out as nodes; `sdk.passes.cancel_transposes`
removes those that cancel. One spatial dimension ([N, C, L]) becomes an image of height 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from sdk.errors import UnsupportedOp
from sdk.graph.builder import Builder

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


def to_last(b: Builder, x: str) -> str:
    """[N, C, ...] -> [N, ..., C]."""
    rank = len(b.shape(x))
    return b.op("transpose", x, perm=(0, *range(2, rank), 1)) if rank > 2 else x


def to_first(b: Builder, x: str) -> str:
    """[N, ..., C] -> [N, C, ...]."""
    rank = len(b.shape(x))
    return b.op("transpose", x, perm=(0, rank - 1, *range(1, rank - 1))) if rank > 2 else x


def on_image(b: Builder, x: str, body: Callable[[str], str]) -> str:
    """`body` sees [N, H, W, C]; x is [C, H, W], [N, C, H, W] or, with one spatial dimension, [N, C, L]."""
    shape = b.shape(x)
    if len(shape) == 4:
        return to_first(b, body(to_last(b, x)))
    if len(shape) != 3:
        raise UnsupportedOp(f"a layer on images got a tensor of {len(shape)} dimensions {list(shape)}; only one or two spatial dimensions are known")
    last = to_last(b, x)
    n, length, c = b.shape(last)
    y = body(b.op("reshape", last, shape=(n, 1, length, c)))
    n, _, length, c = b.shape(y)
    return to_first(b, b.op("reshape", y, shape=(n, length, c)))


def pair(values: int | Sequence[int], spatial: int, first: int = 1) -> Pair:
    """One or two numbers as (h, w); `first` stands for the missing height of a signal."""
    values = [values] if isinstance(values, int) else list(values)
    values = values * spatial if len(values) == 1 else values
    return (first, int(values[0])) if spatial == 1 else (int(values[0]), int(values[1]))


def image_kernel(weight: np.ndarray) -> np.ndarray:
    """[O, C, K] or [O, C, KH, KW] -> [O, C, KH, KW]."""
    return weight[:, :, None, :] if weight.ndim == 3 else weight


def conv(b: Builder, x: str, weight: np.ndarray, bias: np.ndarray | None, *, stride: Pair, dilation: Pair, padding: Padding, groups: int,
         origin: tuple[str | None, str | None] = (None, None)) -> str:  # fmt: skip
    """Convolution of channel-first x with `weight` [O, C/groups, (KH,) KW]; one group per channel becomes depthwise_conv2d."""
    weight = image_kernel(weight)
    shared = {"stride": stride, "dilation": dilation, "padding": padding, "activation": "none"}
    channels = b.shape(x)[1]
    bias_name = "" if bias is None else b.const(f"{b.scope or 'conv2d'}.bias", bias, origin[1])

    def body(image: str) -> str:
        stem = f"{b.scope or 'conv2d'}.weight"
        if groups == channels and groups > 1 and weight.shape[1] == 1:
            kernel = b.const(stem, weight[:, 0].transpose(1, 2, 0)[None], origin[0])
            return b.op("depthwise_conv2d", image, kernel, bias_name, multiplier=weight.shape[0] // channels, **shared)  # type: ignore[arg-type]
        kernel = b.const(stem, weight.transpose(0, 2, 3, 1), origin[0])
        return b.op("conv2d", image, kernel, bias_name, groups=groups, **shared)  # type: ignore[arg-type]

    return on_image(b, x, body)


def conv_transpose(b: Builder, x: str, weight: np.ndarray, bias: np.ndarray | None, *, stride: Pair, dilation: Pair, padding: Padding,
                   output_padding: Pair, groups: int, origin: tuple[str | None, str | None] = (None, None)) -> str:  # fmt: skip
    """Transposed convolution, `weight` [C, O/groups, (KH,) KW]: zeros between the pixels, then a convolution with the flipped kernel.

    Zeros come from reshapes and a pad, so no op of its own is needed; a device computes stride_h * stride_w times too much.
    """
    weight = image_kernel(weight)
    c, per_group, kh, kw = weight.shape
    flipped = weight[:, :, ::-1, ::-1].reshape(groups, c // groups, per_group, kh, kw).transpose(0, 2, 3, 4, 1).reshape(-1, kh, kw, c // groups)
    # the spread image ends in stride - 1 zeros, which are part of the padding that the flipped convolution needs
    grow = [(dilation[i] * (k - 1) - padding[i][0], dilation[i] * (k - 1) - padding[i][1] + output_padding[i] - stride[i] + 1)
            for i, k in enumerate((kh, kw))]  # fmt: skip
    cut, margins = ([(max(0, sign * low), max(0, sign * high)) for low, high in grow] for sign in (-1, 1))
    bias_name = "" if bias is None else b.const(f"{b.scope or 'conv2d'}.bias", bias, origin[1])

    def body(image: str) -> str:
        spread = _crop(b, _zeros_between(b, image, stride), cut)
        kernel = b.const(f"{b.scope or 'conv2d'}.weight", flipped, origin[0])
        return b.op("conv2d", spread, kernel, bias_name, stride=(1, 1), dilation=dilation, padding=(margins[0], margins[1]), groups=groups,
                    activation="none")  # fmt: skip

    return on_image(b, x, body)


def _zeros_between(b: Builder, x: str, stride: Pair) -> str:
    """[N, H, W, C] -> [N, H*sh, W*sw, C], each pixel followed by zeros."""
    n, h, w, c = b.shape(x)
    sh, sw = stride
    if (sh, sw) == (1, 1):
        return x
    wide = b.op("pad", b.op("reshape", x, shape=(n, h, w, 1, c)), paddings=((0, 0), (0, 0), (0, 0), (0, sw - 1), (0, 0)), value=0.0)
    tall = b.op("pad", b.op("reshape", wide, shape=(n, h, 1, w * sw * c)), paddings=((0, 0), (0, 0), (0, sh - 1), (0, 0)), value=0.0)
    return b.op("reshape", tall, shape=(n, h * sh, w * sw, c))


def _crop(b: Builder, x: str, cut: Sequence[Pair]) -> str:
    """Rows and columns taken off the edges of [N, H, W, C]."""
    if not any(map(any, cut)):
        return x
    n, h, w, c = b.shape(x)
    return b.op("slice", x, begin=(0, cut[0][0], cut[1][0], 0), end=(n, h - cut[0][1], w - cut[1][1], c), strides=(1, 1, 1, 1))


def pool(b: Builder, x: str, op: str, *, kernel: Pair, stride: Pair, padding: Padding, **attrs: bool) -> str:
    """max_pool2d or avg_pool2d of channel-first x."""
    return on_image(b, x, lambda image: b.op(op, image, kernel=kernel, stride=stride, padding=padding, activation="none", **attrs))  # type: ignore[arg-type]


def batch_norm(b: Builder, x: str, parameters: Sequence[str], eps: float) -> str:
    """batch_norm over dimension 1; `parameters` are gamma, beta, mean, var, each [C]."""
    return to_first(b, b.op("batch_norm", to_last(b, x), *parameters, eps=float(eps)))


def resize(b: Builder, x: str, op: str, size: Pair, align_corners: bool = False, half_pixel_centers: bool = False) -> str:
    """resize_nearest or resize_bilinear of channel-first x."""
    return on_image(b, x, lambda image: b.op(op, image, size=size, align_corners=align_corners, half_pixel_centers=half_pixel_centers))


def ceil_padding(size: int, kernel: int, stride: int, pad: Pair, ceil_mode: bool) -> Pair:
    """Padding with which floor gives what ceil asks for: the last window may hang over the edge, but must start inside."""
    if not ceil_mode:
        return pad
    out = math.ceil((size + sum(pad) - kernel) / stride) + 1
    if (out - 1) * stride >= size + pad[0]:
        out -= 1
    return pad[0], max(pad[1], (out - 1) * stride + kernel - size - pad[0])


def same_padding(size: int, kernel: int, stride: int, dilation: int, upper: bool = True) -> Pair:
    """Padding with which the output has ceil(size / stride) values; an odd pixel goes to the end (`upper`) or the start."""
    total = max(0, (math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
    half = total // 2
    return (half, total - half) if upper else (total - half, half)
