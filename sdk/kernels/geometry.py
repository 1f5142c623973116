"""Geometry of windows and broadcasts, in the form the C kernels take."""

from __future__ import annotations

import math

from sdk.kernels.base import Refused, Site
from sdk.kernels.sizing import Window

DIMS = 4  # EMBARQ_DIMS in embarq_kernels.h


def conv_window(site: Site, kernel: tuple[int, int]) -> Window:
    """`embarq_window` of conv2d, depthwise_conv2d and the pools."""
    attrs = site.node.attrs
    (n, h, w, c), out = site.tensor(0).shape, site.output.shape
    stride, dilation, padding = attrs["stride"], attrs.get("dilation", (1, 1)), attrs["padding"]
    return Window(n, h, w, c, out[1], out[2], out[3], *kernel, *stride, *dilation, padding[0][0], padding[1][0])


def flatten_pointwise(window: Window) -> Window:
    """A 1x1 convolution without stride or padding sees the image as one long row, whose blocks need no line ends."""
    same = (window.in_h, window.in_w) == (window.out_h, window.out_w)
    if not same or (window.kernel_h, window.kernel_w, window.pad_top, window.pad_left) != (1, 1, 0, 0):
        return window
    pixels = window.batch * window.in_h * window.in_w
    return Window(1, 1, pixels, window.in_c, 1, pixels, window.out_c, 1, 1, 1, 1, 1, 1, 0, 0)


def lay_down(window: Window) -> Window:
    """A depthwise window on an image one pixel wide, seen as one row: the same bytes, and rows are what kernels are fast on."""
    if (window.in_w, window.kernel_w, window.pad_left, window.out_w) != (1, 1, 0, 1):
        return window
    w = window
    return Window(w.batch, 1, w.in_h, w.in_c, 1, w.out_h, w.out_c, 1, w.kernel_h, 1, w.stride_h, 1, w.dilation_h, 0, w.pad_top)


def strides(shape: tuple[int, ...]) -> list[int]:
    """Elements from one index to the next, per dimension: (2, 3, 4) -> [12, 4, 1]."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def broadcast_strides(shape: tuple[int, ...], target: tuple[int, ...]) -> list[int]:
    """Strides of `shape` seen as `target`: 0 where it repeats."""
    lead = len(target) - len(shape)
    own = [0 if d == 1 else s for d, s in zip(shape, strides(shape), strict=True)]
    return [0] * lead + own


def merge(shape: tuple[int, ...], *sides: list[int]) -> tuple[list[int], list[list[int]]]:
    """Neighbouring dimensions that every side walks through evenly become one; dimensions of size 1 vanish.

    ((2, 3, 4), [12, 4, 1]) -> ([24], [[1]]).
    """
    dims: list[int] = []
    walks: list[list[int]] = [[] for _ in sides]
    for index, size in enumerate(shape):
        steps = [side[index] for side in sides]
        if size == 1:
            continue
        if dims and all(walk[-1] == step * size for walk, step in zip(walks, steps, strict=True)):
            dims[-1] *= size
            for walk, step in zip(walks, steps, strict=True):
                walk[-1] = step
            continue
        dims.append(size)
        for walk, step in zip(walks, steps, strict=True):
            walk.append(step)
    return dims, walks


def padded(dims: list[int], walks: list[list[int]], rank: int) -> tuple[tuple[int, ...], list[tuple[int, ...]]] | None:
    """Exactly `rank` dimensions, ones in front; None when there are more."""
    if len(dims) > rank:
        return None
    lead = rank - len(dims)
    return (1,) * lead + tuple(dims), [(0,) * lead + tuple(walk) for walk in walks]


def broadcast(site: Site) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | Refused:
    """`embarq_broadcast` of a node with two inputs."""
    target = site.output.shape
    dims, walks = merge(target, *(broadcast_strides(site.tensor(i).shape, target) for i in (0, 1)))
    fitted = padded(dims, walks, DIMS)
    if fitted is None:
        return Refused(f"broadcasts over {len(dims)} dimensions and kernels take {DIMS}", "reshape its inputs")
    shape, (a, b) = fitted
    return shape, a, b
