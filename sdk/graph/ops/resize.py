"""Resizing of images [N, H, W, C], with LiteRT's three conventions for where a pixel lies."""

from __future__ import annotations

import numpy as np

from sdk.graph.ops.base import Op, Shape, Use, fixed, same_quant


def resize_shape(use: Use) -> Shape:
    """[N, *size, C]."""
    x, size = use.input(0).shape, tuple(use.attr("size"))
    if len(x) != 4 or len(size) != 2 or min(size) < 1:
        raise use.wrong(f"its input {list(x)} must be [N, H, W, C] and its size {list(size)} two positive numbers")
    return (x[0], *size, x[3])


def _modes(use: Use) -> tuple[bool, bool]:
    return bool(use.node.attrs.get("align_corners", False)), bool(use.node.attrs.get("half_pixel_centers", False))


def _scale(source: int, target: int, align: bool) -> np.float32:
    if align and target > 1:
        return np.float32(source - 1) / np.float32(target - 1)
    return np.float32(source) / np.float32(target)


def _nearest_index(source: int, target: int, align: bool, half: bool) -> np.ndarray:
    place = (np.arange(target, dtype=np.float32) + np.float32(0.5 if half else 0)) * _scale(source, target, align)
    index = np.floor(place + np.float32(0.5)) if align else np.floor(place)
    return np.clip(index.astype(np.int64), 0, source - 1)


def nearest(use: Use) -> np.ndarray:
    """The pixel that lies nearest."""
    x, (align, half) = use.value(0), _modes(use)
    rows, columns = (_nearest_index(x.shape[1 + i], use.attr("size")[i], align, half) for i in (0, 1))
    return x[:, rows][:, :, columns]


def _blend(x: np.ndarray, low: list, high: list, part: list, one: int | float) -> np.ndarray:
    """Weighted sum of the four neighbours; `part` is how far from `low` towards `high`, as a share of `one`."""
    dy, dx = part[0][:, None, None], part[1][:, None]
    top, bottom = x[:, low[0]], x[:, high[0]]
    total = top[:, :, low[1]] * (one - dy) * (one - dx)
    total = total + bottom[:, :, low[1]] * dy * (one - dx)
    total = total + top[:, :, high[1]] * (one - dy) * dx
    return total + bottom[:, :, high[1]] * dy * dx


def bilinear_float(use: Use) -> np.ndarray:
    """float32 interpolation of the four neighbours."""
    x, (align, half) = use.value(0), _modes(use)
    low, high, part = [], [], []
    for i in (0, 1):
        source, target = x.shape[1 + i], use.attr("size")[i]
        place = np.arange(target, dtype=np.float32)
        scale = _scale(source, target, align)
        place = (place + np.float32(0.5)) * scale - np.float32(0.5) if half else place * scale
        low.append(np.maximum(np.floor(place), 0).astype(np.int64))
        high.append(np.minimum(np.ceil(place), source - 1).astype(np.int64))
        part.append(place - low[-1].astype(np.float32))
    return _blend(x, low, high, part, np.float32(1)).astype(np.float32)  # type: ignore[arg-type]


def bilinear_int(use: Use) -> np.ndarray:
    """The same in fixed point: positions in 1/1024 pixel, rounded away from zero."""
    x, (align, half) = use.value(0), _modes(use)
    low, high, part = [], [], []
    for i in (0, 1):
        source, target = x.shape[1 + i], use.attr("size")[i]
        place = _fixed_places(source, target, align, half)
        low.append(np.maximum(_cut(place, 1024), 0))
        high.append(np.minimum(_cut(place + 1023, 1024), source - 1))
        part.append(place - 1024 * low[-1])
    total = _blend(x.astype(np.int64), low, high, part, 1024)
    return _cut(total + np.where(total > 0, 1 << 19, -(1 << 19)), 1 << 20).astype(x.dtype)


def _fixed_places(source: int, target: int, align: bool, half: bool) -> np.ndarray:
    scale = (1024 * (source - 1) + (target - 1) // 2) // (target - 1) if align and target > 1 else (1024 * source + target // 2) // target
    place = np.arange(target, dtype=np.int64) * scale
    return place + scale // 2 - 512 if half else place


def _cut(x: np.ndarray, by: int) -> np.ndarray:
    """Division towards zero."""
    return np.where(x < 0, -((-x) // by), x // by)


def one_mode(use: Use) -> str | None:
    """Not both of align_corners and half_pixel_centers."""
    return "align_corners and half_pixel_centers exclude each other; keep one" if all(_modes(use)) else None


_ATTRS = {
    "size": "(height, width)",
    "align_corners": "corner pixels map to corner pixels",
    "half_pixel_centers": "pixels are squares, their centres at half",
}

OPS = (
    Op("resize_nearest", "Image of another size, nearest pixel.", ("x",), resize_shape, fixed(("float32", "int8", "int16"), nearest), attrs=_ATTRS,
       constraints=(same_quant, one_mode)),
    Op("resize_bilinear", "Image of another size, four neighbours blended.", ("x",), resize_shape,
       {"float32": bilinear_float, "int8": bilinear_int, "int16": bilinear_int}, attrs=_ATTRS, constraints=(same_quant, one_mode)),
)  # fmt: skip
