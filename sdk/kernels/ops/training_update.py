"""Packs the updates of a training step for their kernels: variables that change where they lie."""

from __future__ import annotations

import math

import numpy as np

from sdk.kernels.base import Call, Fields, Lower, Lowered, Ref, Refused, Site, Value
from sdk.kernels.ops.training import backward_window, row_window, rows_of, scales, tensor, weights
from sdk.kernels.sizing import Window


def learn(site: Site, weight: int, counter: int, constants: dict[str, np.ndarray], channels: int) -> Value:
    """`embarq_learn` of an update whose weight is input `weight`, followed by hyper and velocity."""
    return (
        tensor(site, weight), tensor(site, weight + 1), tensor(site, weight + 2), tensor(site, counter) if counter else 0,
        int(site.has(weight + 2)), scales(site, weight, constants, channels),
    )  # fmt: skip


def refuse_constants(site: Site) -> Refused | None:
    """Updates read activations and variables, whose bytes are in RAM."""
    for index in (0, 1):
        if site.constant(index) is not None:
            return Refused(f"its input {index} ({site.tensor(index).name}) is a constant", "give it an activation")
    return None


def conv2d_update(site: Site) -> Lowered:
    """train_conv2d_update."""
    w = site.tensor(2).shape
    return refuse_constants(site) or _conv_update(site, backward_window(site, site.tensor(0).shape, site.tensor(1).shape, (w[1], w[2])))


def dense_update(site: Site) -> Lowered:
    """train_dense_update: a row by itself; the rows of several, or of one through a basis, are the pixels of a 1x1 convolution."""
    x, w = site.tensor(0).shape, site.tensor(2).shape
    if rows_of(x) > 1 or site.has(5):
        return refuse_constants(site) or _conv_update(site, row_window(rows_of(x), x[-1], w[0]))
    constants: dict[str, np.ndarray] = {}
    fields: Fields = (
        ("input", tensor(site, 0)), ("dy", tensor(site, 1)), ("depth", w[1]), ("channels", w[0]), ("learn", learn(site, 2, 6, constants, w[0])),
    )  # fmt: skip
    return refuse_constants(site) or Call(site.node.name, "embarq_train_dense_update", "embarq_train_dense_update_params", fields, constants,
                                          sources=("train_dense_update.c", "learn.c"))  # fmt: skip


def _conv_update(site: Site, window: Window) -> Call:
    constants: dict[str, np.ndarray] = {}
    depth = site.tensor(2).shape[-1]
    fields: Fields = (
        ("input", tensor(site, 0)), ("dy", tensor(site, 1)), ("scratch", Ref("scratch")), ("window", window.values()), ("depth", depth),
        ("has_basis", int(site.has(5))), ("basis", weights(site, 5, constants, window.in_c)), ("learn", learn(site, 2, 6, constants, window.out_c)),
    )  # fmt: skip
    return Call(site.node.name, "embarq_train_conv2d_update", "embarq_train_conv2d_update_params", fields, constants,
                scratch_bytes=update_bytes(site, 5, window.in_c, depth), sources=("train_conv2d_update.c", "learn.c", "outer.c", "taps.c"))  # fmt: skip


def update_bytes(site: Site, basis: int, kept: int, depth: int) -> int:
    """Scratch of an update through a basis: four channels' gradients of what was kept, and one brought back to all of it."""
    return 4 * (4 * kept + depth) if site.has(basis) else 0


def depthwise_update(site: Site) -> Lowered:
    """train_depthwise_update."""
    refused = refuse_constants(site)
    if refused:
        return refused
    w = site.tensor(2).shape
    window = backward_window(site, site.tensor(0).shape, site.tensor(1).shape, (w[1], w[2]))
    constants: dict[str, np.ndarray] = {}
    fields: Fields = (
        ("input", tensor(site, 0)), ("dy", tensor(site, 1)), ("window", window.values()),
        ("learn", learn(site, 2, 5, constants, window.out_c)),
    )  # fmt: skip
    return Call(site.node.name, "embarq_train_depthwise_update", "embarq_train_depthwise_update_params", fields, constants,
                sources=("taps.c", "train_depthwise_update.c", "learn.c"))  # fmt: skip


def head_update(site: Site) -> Lowered:
    """train_head_update."""
    (n, h, w, kept), (channels, _, _, depth) = site.tensor(0).shape, site.tensor(3).shape
    constants: dict[str, np.ndarray] = {}
    fields: Fields = (
        ("input", tensor(site, 0)), ("dy", tensor(site, 1)), ("mask", tensor(site, 2)), ("scratch", Ref("scratch")),
        ("batch", n), ("pixels", h * w), ("in_c", kept), ("out_c", channels), ("depth", depth),
        ("has_basis", int(site.has(6))), ("basis", weights(site, 6, constants, kept)), ("learn", learn(site, 3, 7, constants, channels)),
    )  # fmt: skip
    scratch = 4 * (kept + depth if site.has(6) else kept)
    return refuse_constants(site) or Call(site.node.name, "embarq_train_head_update", "embarq_train_head_update_params", fields, constants,
                                          scratch_bytes=scratch, sources=("train_head_update.c", "learn.c"))  # fmt: skip


def bias_update(site: Site) -> Lowered:
    """bias_update."""
    return _bias(site, 1, 1)


def head_bias_update(site: Site) -> Lowered:
    """head_bias_update."""
    return _bias(site, 2, math.prod(site.node.attrs["size"]))


def _bias(site: Site, index: int, pixels: int) -> Lowered:
    dy = site.tensor(0).shape
    fields: Fields = (
        ("dy", tensor(site, 0)), ("mask", tensor(site, 1) if index == 2 else 0), ("rows", rows_of(dy)), ("channels", dy[-1]), ("pixels", pixels),
        ("has_mask", int(index == 2)), ("learn", learn(site, index, 0, {}, dy[-1])),
    )  # fmt: skip
    return refuse_constants(site) or Call(site.node.name, "embarq_bias_update", "embarq_bias_update_params", fields, sources=("bias_update.c", "learn.c"))


#: (op, C function, why, lower), for the kernel table.
ROWS: tuple[tuple[str, str, str, Lower], ...] = (
    ("train_conv2d_update", "embarq_train_conv2d_update", "sixteen gradients at a time, none is stored", conv2d_update),
    ("train_dense_update", "embarq_train_dense_update, embarq_train_conv2d_update", "a row by itself; several as a 1x1 convolution", dense_update),
    ("train_depthwise_update", "embarq_train_depthwise_update", "eight channels at a time, only outputs whose tap lies in the image", depthwise_update),
    ("train_head_update", "embarq_train_head_update", "only pixels that the mask leaves open", head_update),
    ("bias_update", "embarq_bias_update", "portable C", bias_update),
    ("head_bias_update", "embarq_bias_update", "counts the mask's bits", head_bias_update),
)
