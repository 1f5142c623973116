"""Packs the forward and backward ops of a training step for their kernels in sdk/runtime/training."""

from __future__ import annotations

import math

import numpy as np

from sdk.kernels.base import Call, Fields, Lower, Lowered, Ref, Site, Value, source
from sdk.kernels.geometry import conv_window, flatten_pointwise
from sdk.kernels.quant import real_range
from sdk.kernels.sizing import Window

TILE = 9  # pixels that are multiplied at once, EMBARQ_TILE in sums.h
LANES = 64  # channels of a depthwise layer whose taps are turned into floats at once, EMBARQ_LANES_BLOCK in taps.h
CHUNK = 128  # most channels that are gathered at once: 4.5 KiB of scratch
TILED = ("sums.c", "tile.c")
NONE: Value = (0, Ref("const", ""))


def tensor(site: Site, index: int) -> Ref | int:
    """`embarq_ref` of input `index`; 0 where it is absent."""
    return Ref("tensor", site.node.inputs[index]) if site.has(index) else 0


def output(site: Site, index: int = 0) -> Ref:
    """`embarq_ref` of output `index`."""
    return Ref("tensor", site.node.outputs[index])


def weights(site: Site, index: int, constants: dict[str, np.ndarray], channels: int) -> Value:
    """`embarq_weights` of input `index`, with a scale for each of its `channels` where it is int8; nothing where it is absent."""
    if not site.has(index):
        return (NONE, Ref("const", ""))
    return (source(site, index, constants), scales(site, index, constants, channels))


def scales(site: Site, index: int, constants: dict[str, np.ndarray], channels: int) -> Ref:
    """The constant array of an int8 weight's scales, one a channel; NULL for float32."""
    quant = site.tensor(index).quant
    if site.tensor(index).dtype != "int8" or quant is None:
        return Ref("const", "")
    key = f"scales{index}"
    constants[key] = np.broadcast_to(np.asarray(quant.scale, np.float32), (channels,)).copy()
    return Ref("const", key)


def bias(site: Site, index: int, constants: dict[str, np.ndarray], channels: int) -> Value:
    """`embarq_source` of a bias; zeros where there is none."""
    if site.has(index):
        return source(site, index, constants)
    constants["zeros"] = np.zeros(channels, np.float32)
    return (0, Ref("const", "zeros"))


def limits(site: Site) -> Fields:
    """`low` and `high` of the activation."""
    low, high = real_range(site.node.attrs.get("activation", "none"))
    return ("low", low), ("high", high)


def chunk_of(*depths: int) -> int:
    """Channels to gather at once: even parts of the largest depth, none larger than CHUNK."""
    depth = max(depths)
    parts = -(-depth // CHUNK)
    return -(-depth // parts)


def backward_window(site: Site, image: tuple[int, ...], dy: tuple[int, ...], kernel: tuple[int, int]) -> Window:
    """The window of the forward op, given the shapes of its input and of its output's gradient."""
    attrs = site.node.attrs
    stride, dilation, padding = attrs["stride"], attrs["dilation"], attrs["padding"]
    window = Window(image[0], image[1], image[2], image[3], dy[1], dy[2], dy[3], *kernel, *stride, *dilation, padding[0][0], padding[1][0])
    return window if "depthwise" in site.node.op else flatten_pointwise(window)


def _rank(site: Site) -> int:
    return site.tensor(3).shape[-1] if site.has(3) else 0


def conv2d(site: Site) -> Lowered:
    """train_conv2d."""
    w = site.tensor(1).shape
    return _conv(site, flatten_pointwise(conv_window(site, (w[1], w[2]))))


def _conv(site: Site, window: Window) -> Call:
    constants: dict[str, np.ndarray] = {}
    channels, chunk = window.out_c, chunk_of(window.in_c, _rank(site))
    fields: Fields = (
        ("input", tensor(site, 0)), ("output", output(site)), ("scratch", Ref("scratch")), ("window", window.values()), ("chunk", chunk),
        ("weights", weights(site, 1, constants, channels)), ("bias", bias(site, 2, constants, channels)),
        ("rank", _rank(site)), ("z", source(site, 3, constants) if _rank(site) else NONE), ("p", weights(site, 4, constants, channels)), *limits(site),
    )  # fmt: skip
    return Call(site.node.name, "embarq_train_conv2d", "embarq_train_conv2d_params", fields, constants, scratch_bytes=4 * TILE * chunk,
                sources=("train_conv2d.c", *TILED))  # fmt: skip


def conv2d_grad(site: Site) -> Lowered:
    """train_conv2d_grad."""
    w = site.tensor(1).shape
    return _conv_grad(site, backward_window(site, site.output.shape, site.tensor(0).shape, (w[1], w[2])))


def _conv_grad(site: Site, window: Window) -> Call:
    constants: dict[str, np.ndarray] = {}
    chunk = chunk_of(window.out_c)
    fields: Fields = (
        ("input", tensor(site, 0)), ("output", output(site)), ("scratch", Ref("scratch")), ("add", tensor(site, 2)), ("window", window.values()),
        ("chunk", chunk), ("has_add", int(site.has(2))), ("weights", weights(site, 1, constants, window.out_c)),
    )  # fmt: skip
    return Call(site.node.name, "embarq_train_conv2d_grad", "embarq_train_conv2d_grad_params", fields, constants, scratch_bytes=4 * TILE * chunk,
                overlap={2: 0}, sources=("train_conv2d_grad.c", *TILED))  # fmt: skip


# ---- dense layers --------------------------------------------------------------------------------------------------


def rows_of(shape: tuple[int, ...]) -> int:
    """Vectors along the last dimension."""
    return math.prod(shape[:-1])


def row_window(rows: int, depth: int, channels: int) -> Window:
    """A dense layer on several rows is a 1x1 convolution of an image of one row."""
    return Window(1, 1, rows, depth, 1, rows, channels, 1, 1, 1, 1, 1, 1, 0, 0)


def dense(site: Site) -> Lowered:
    """train_dense: a row by itself, several as a 1x1 convolution."""
    (channels, depth), rows = site.tensor(1).shape, rows_of(site.tensor(0).shape)
    if rows > 1:
        return _conv(site, row_window(rows, depth, channels))
    constants: dict[str, np.ndarray] = {}
    fields: Fields = (
        ("input", tensor(site, 0)), ("output", output(site)), ("depth", depth), ("channels", channels),
        ("weights", weights(site, 1, constants, channels)), ("bias", bias(site, 2, constants, channels)),
        ("rank", _rank(site)), ("z", source(site, 3, constants) if _rank(site) else NONE), ("p", weights(site, 4, constants, channels)), *limits(site),
    )  # fmt: skip
    return Call(site.node.name, "embarq_train_dense", "embarq_train_dense_params", fields, constants, sources=("taps.c", "train_dense.c"))


def dense_grad(site: Site) -> Lowered:
    """train_dense_grad: a row by itself, several as a 1x1 convolution."""
    (channels, depth), rows = site.tensor(1).shape, rows_of(site.tensor(0).shape)
    if rows > 1:
        return _conv_grad(site, row_window(rows, depth, channels))
    constants: dict[str, np.ndarray] = {}
    fields: Fields = (
        ("input", tensor(site, 0)), ("output", output(site)), ("add", tensor(site, 2)), ("depth", depth), ("channels", channels),
        ("has_add", int(site.has(2))), ("weights", weights(site, 1, constants, channels)),
    )  # fmt: skip
    return Call(site.node.name, "embarq_train_dense_grad", "embarq_train_dense_grad_params", fields, constants, overlap={2: 0},
                sources=("taps.c", "train_dense.c"))  # fmt: skip


# ---- depthwise -----------------------------------------------------------------------------------------------------


def depthwise(site: Site) -> Lowered:
    """train_depthwise."""
    w = site.tensor(1).shape
    window = conv_window(site, (w[1], w[2]))
    constants: dict[str, np.ndarray] = {}
    fields: Fields = (
        ("input", tensor(site, 0)), ("output", output(site)), ("scratch", Ref("scratch")), ("window", window.values()),
        ("weights", weights(site, 1, constants, window.out_c)), ("bias", bias(site, 2, constants, window.out_c)), *limits(site),
    )  # fmt: skip
    return Call(site.node.name, "embarq_train_depthwise", "embarq_train_depthwise_params", fields, constants,
                scratch_bytes=lane_bytes(site, window), sources=("taps.c", "train_depthwise.c"))  # fmt: skip


def lane_bytes(site: Site, window: Window) -> int:
    """Scratch in which a block of channels' int8 taps become floats."""
    return 4 * min(LANES, window.in_c) * window.kernel_h * window.kernel_w if site.tensor(1).dtype == "int8" else 0


def depthwise_grad(site: Site) -> Lowered:
    """train_depthwise_grad."""
    w = site.tensor(1).shape
    window = backward_window(site, site.output.shape, site.tensor(0).shape, (w[1], w[2]))
    constants: dict[str, np.ndarray] = {}
    fields: Fields = (
        ("input", tensor(site, 0)), ("output", output(site)), ("scratch", Ref("scratch")), ("add", tensor(site, 2)), ("window", window.values()),
        ("has_add", int(site.has(2))), ("weights", weights(site, 1, constants, window.out_c)),
    )  # fmt: skip
    return Call(site.node.name, "embarq_train_depthwise_grad", "embarq_train_depthwise_grad_params", fields, constants,
                scratch_bytes=lane_bytes(site, window), overlap={2: 0}, sources=("taps.c", "train_depthwise_grad.c"))  # fmt: skip


# ---- the fused head ------------------------------------------------------------------------------------------------


def head(site: Site) -> Lowered:
    """train_head."""
    (n, h, w, depth), channels = site.tensor(0).shape, site.tensor(1).shape[0]
    constants: dict[str, np.ndarray] = {}
    fields: Fields = (
        ("input", tensor(site, 0)), ("output", output(site)), ("mask", output(site, 1)), ("scratch", Ref("scratch")),
        ("batch", n), ("pixels", h * w), ("in_c", depth), ("out_c", channels),
        ("weights", weights(site, 1, constants, channels)), ("bias", bias(site, 2, constants, channels)),
        ("rank", _rank(site)), ("z", source(site, 3, constants) if _rank(site) else NONE), ("p", weights(site, 4, constants, channels)), limits(site)[1],
    )  # fmt: skip
    return Call(site.node.name, "embarq_train_head", "embarq_train_head_params", fields, constants,
                scratch_bytes=4 * TILE * (depth + _rank(site)), sources=("train_head.c", *TILED))  # fmt: skip


def head_grad(site: Site) -> Lowered:
    """train_head_grad."""
    (n, h, w, depth), channels = site.output.shape, site.tensor(0).shape[1]
    constants: dict[str, np.ndarray] = {}
    chunk = chunk_of(channels)
    fields: Fields = (
        ("input", tensor(site, 0)), ("output", output(site)), ("mask", tensor(site, 1)), ("scratch", Ref("scratch")), ("add", tensor(site, 3)),
        ("batch", n), ("pixels", h * w), ("in_c", depth), ("out_c", channels), ("chunk", chunk), ("has_add", int(site.has(3))),
        ("weights", weights(site, 2, constants, channels)),
    )  # fmt: skip
    return Call(site.node.name, "embarq_train_head_grad", "embarq_train_head_grad_params", fields, constants, scratch_bytes=4 * TILE * chunk,
                overlap={3: 0}, sources=("train_head_grad.c", *TILED))  # fmt: skip


# ---- the rest ------------------------------------------------------------------------------------------------------


def pack_mask(site: Site) -> Lowered:
    """pack_mask."""
    high = limits(site)[1]
    fields: Fields = (("input", tensor(site, 0)), ("output", output(site)), ("count", site.tensor(0).size), high)
    return Call(site.node.name, "embarq_pack_mask", "embarq_pack_mask_params", fields, sources=("pack_mask.c",))


def mask_grad(site: Site) -> Lowered:
    """mask_grad, in place where the gradient dies."""
    fields: Fields = (("input", tensor(site, 0)), ("mask", tensor(site, 1)), ("output", output(site)), ("count", site.tensor(0).size))
    return Call(site.node.name, "embarq_mask_grad", "embarq_mask_grad_params", fields, overlap={0: 0}, sources=("mask_grad.c",))


def mean_grad(site: Site) -> Lowered:
    """mean_grad."""
    n, h, w, c = site.output.shape
    fields: Fields = (("input", tensor(site, 0)), ("output", output(site)), ("batch", n), ("pixels", h * w), ("channels", c))
    return Call(site.node.name, "embarq_mean_grad", "embarq_mean_grad_params", fields, sources=("mean_grad.c",))


def mode_product(site: Site) -> Lowered:
    """mode_product."""
    x, axis, back = site.tensor(0).shape, site.node.attrs["axis"], bool(site.node.attrs.get("transpose", False))
    constants: dict[str, np.ndarray] = {}
    wide = site.tensor(1).shape[1]
    fields: Fields = (
        ("input", tensor(site, 0)), ("output", output(site)), ("outer", math.prod(x[:axis])), ("depth", x[axis]), ("length", site.output.shape[axis]),
        ("inner", math.prod(x[axis + 1 :])), ("step_length", 1 if back else wide), ("step_depth", wide if back else 1),
        ("matrix", source(site, 1, constants)),
    )  # fmt: skip
    return Call(site.node.name, "embarq_mode_product", "embarq_mode_product_params", fields, constants, sources=("mode_product.c",))


def softmax_cross_entropy(site: Site) -> Lowered:
    """softmax_cross_entropy."""
    rows, classes = site.tensor(0).shape
    fields: Fields = (
        ("logits", tensor(site, 0)), ("label", tensor(site, 1)), ("loss", output(site, 0)), ("gradient", output(site, 1)),
        ("rows", rows), ("classes", classes),
    )  # fmt: skip
    return Call(site.node.name, "embarq_softmax_cross_entropy", "embarq_softmax_cross_entropy_params", fields, sources=("softmax_cross_entropy.c",))

_NINE = "nine pixels by two channels in registers, int8 weights turned into floats on the way"
_PLANE = "eight channels at a time, only taps that lie in the image"
#: (op, C function, why, lower), for the kernel table.
ROWS: tuple[tuple[str, str, str, Lower], ...] = (
    ("train_conv2d", "embarq_train_conv2d", _NINE, conv2d),
    ("train_dense", "embarq_train_dense, embarq_train_conv2d", "a row by itself; several as a 1x1 convolution", dense),
    ("train_depthwise", "embarq_train_depthwise", _PLANE, depthwise),
    ("train_head", "embarq_train_head", "never holds the map, of which the mean is wanted", head),
    ("pack_mask", "embarq_pack_mask", "eight values to a byte", pack_mask),
    ("mode_product", "embarq_mode_product", "portable C", mode_product),
    ("softmax_cross_entropy", "embarq_softmax_cross_entropy", "portable C", softmax_cross_entropy),
    ("mask_grad", "embarq_mask_grad", "in place, words", mask_grad),
    ("train_conv2d_grad", "embarq_train_conv2d_grad", _NINE, conv2d_grad),
    ("train_dense_grad", "embarq_train_dense_grad, embarq_train_conv2d_grad", "a row by itself; several as a 1x1 convolution", dense_grad),
    ("train_depthwise_grad", "embarq_train_depthwise_grad", _PLANE, depthwise_grad),
    ("train_head_grad", "embarq_train_head_grad", "the map's gradient is made from the mask where it is needed", head_grad),
    ("mean_grad", "embarq_mean_grad", "portable C", mean_grad),
)
