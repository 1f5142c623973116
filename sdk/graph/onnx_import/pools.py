"""ONNX pooling and resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sdk.graph import channel_first as cf
from sdk.graph.onnx_import.constants import bounded
from sdk.graph.onnx_import.layers import explicit_padding, image_size, spatial_dims, window
from sdk.graph.onnx_import.walk import Call, Handler, Unknown


def _windows(call: Call) -> tuple[dict[str, Any], bool]:
    """(arguments of `cf.pool`, whether ceil_mode hangs windows over the edge)."""
    spatial = spatial_dims(call)
    if "kernel_shape" not in call.attrs:
        raise Unknown
    kernel, stride, dilation = (window(call, n, spatial) for n in ("kernel_shape", "strides", "dilations"))
    if dilation != (1, 1):
        raise Unknown
    size = image_size(call, spatial)
    pads = explicit_padding(call, size, kernel, stride, dilation, spatial)
    ceil = bool(call.attrs.get("ceil_mode", 0)) and call.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID", "")
    padding = tuple(cf.ceil_padding(size[i], kernel[i], stride[i], pads[i], ceil) for i in (0, 1))
    if any(max(padding[i]) >= kernel[i] for i in (0, 1)):
        raise Unknown
    return {"kernel": kernel, "stride": stride, "padding": (padding[0], padding[1])}, padding != tuple(pads)


def _max_pool(call: Call) -> Any:
    if sum(map(bool, call.node.output)) > 1:
        raise Unknown
    return cf.pool(call.b, call.x(), "max_pool2d", **_windows(call)[0])


def _avg_pool(call: Call) -> str:
    args, overhang = _windows(call)
    include = bool(call.attrs.get("count_include_pad", 0))
    if include and overhang:
        raise Unknown  # what ceil_mode adds is not counted, the rest of the padding is: no op here has that mixed rule
    padded = any(map(any, args["padding"]))
    return cf.pool(call.b, call.x(), "avg_pool2d", count_include_pad=include and padded, **args)


def _global(op: str) -> Handler:
    def handler(call: Call) -> str:
        rank = len(call.shape())
        if rank < 3:
            raise Unknown
        return call.b.op(op, call.x(), axes=tuple(range(2, rank)), keep_dims=True)

    return handler


# ---- resizing ------------------------------------------------------------------------------------------------------


def places(source: int, target: int, scale: float, mode: str) -> np.ndarray:
    """Where each target pixel lies in the source, unclamped, by ONNX's coordinate_transformation_mode."""
    i = np.arange(target, dtype=np.float64)
    match mode:
        case "asymmetric":
            return i / scale
        case "align_corners":
            return i * (source - 1) / (target - 1) if target > 1 else np.zeros(target)
        case "pytorch_half_pixel" if target == 1:
            return np.zeros(target)
        case "half_pixel" | "pytorch_half_pixel":
            return (i + 0.5) / scale - 0.5
        case "half_pixel_symmetric":
            centre = source / 2 * (1 - target / (scale * source))
            return centre + (i + 0.5) / scale - 0.5
        case "tf_half_pixel_for_nn":
            return (i + 0.5) / scale
    raise Unknown


def nearest_index(place: np.ndarray, source: int, rounding: str) -> np.ndarray:
    """Pixel numbers by ONNX's nearest_mode."""
    match rounding:
        case "round_prefer_floor":
            index = np.ceil(place - 0.5)
        case "round_prefer_ceil":
            index = np.floor(place + 0.5)
        case "floor":
            index = np.floor(place)
        case "ceil":
            index = np.ceil(place)
        case _:
            raise Unknown
    return np.clip(index, 0, source - 1).astype(np.int64)


#: (align_corners, half_pixel_centers) of the graph's resize ops, and where they put pixels in ONNX's words.
_OURS = {(False, True): "half_pixel", (False, False): "asymmetric", (True, False): "align_corners"}


def _ours_nearest(source: int, target: int, align: bool, half: bool) -> np.ndarray:
    """The index table of `resize_nearest`."""
    i = np.arange(target, dtype=np.float64)
    if align and target > 1:
        return np.floor(i * (source - 1) / (target - 1) + 0.5).astype(np.int64)
    return np.clip(np.floor((i + (0.5 if half else 0)) * source / target), 0, source - 1).astype(np.int64)


def resized(call: Call, size: Sequence[int], scales: Sequence[float], mode: str, transform: str, rounding: str) -> str:
    """Channel-first input 0 at another `size` [rank]; `scales` [rank] are what positions are computed with."""
    shape, b, x = call.shape(), call.b, call.x()
    spatial = spatial_dims(call)
    if tuple(size[:2]) != shape[:2] or min(size) < 1:
        raise Unknown
    bounded(size[2:])
    if tuple(size) == shape and all(s == 1 for s in scales):
        return x
    table = [places(shape[d], size[d], scales[d], transform) for d in range(2, 2 + spatial)]
    target = cf.pair(list(size[2:]), spatial)
    if mode == "nearest":
        index = [nearest_index(p, shape[2 + d], rounding) for d, p in enumerate(table)]
        return _nearest(call, x, index, target)
    if mode != "linear":
        raise Unknown
    for (align, half), name in _OURS.items():
        ours = [places(shape[2 + d], size[2 + d], size[2 + d] / shape[2 + d], name) for d in range(spatial)]
        if all(np.allclose(np.clip(p, 0, s - 1), np.clip(o, 0, s - 1), atol=1e-4) for p, o, s in zip(table, ours, shape[2:], strict=True)):
            return cf.resize(b, x, "resize_bilinear", target, align, half)
    raise Unknown


def _on_integers(handler: Handler) -> Handler:
    """A handler of real numbers on integers that have a scale: converted before and, with the same scale, behind it."""

    def outer(call: Call) -> Any:
        x = call.x()
        tensor = call.b[x]
        if tensor.quant is None:
            return handler(call)
        real = call.b.op("dequantize", x)
        made = handler(Call(call.walk, call.node, (real, *call.inputs[1:]), call.attrs))
        return call.b.op("quantize", made, quant=tensor.quant, dtype=tensor.dtype)

    return outer


def _nearest(call: Call, x: str, index: Sequence[np.ndarray], target: cf.Pair) -> str:
    """resize_nearest where one of its modes picks the same pixels, else a gather along each dimension."""
    shape, b = call.shape(), call.b
    for align, half in _OURS:
        if all((_ours_nearest(shape[2 + d], len(i), align, half) == i).all() for d, i in enumerate(index)):
            return cf.resize(b, x, "resize_nearest", target, align, half)
    for d, i in enumerate(index):
        if not np.array_equal(i, np.arange(shape[2 + d])):
            x = b.op("gather", x, b.const(f"{b.scope}.pixels", i), axis=2 + d)
    return x


def _resize(call: Call) -> str:
    """Resize of opset 10 (x, scales) and later (x, roi, scales, sizes)."""
    attrs, shape = call.attrs, call.shape()
    if attrs.get("antialias") or attrs.get("exclude_outside") or attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unknown
    old = call.opset < 11
    scales, sizes = call.array(1 if old else 2), None if old else call.array(3)
    axes = [int(a) % len(shape) for a in attrs.get("axes") or range(len(shape))]
    size, factor = list(shape), [1.0] * len(shape)
    if sizes is not None and sizes.size:
        for axis, wanted in zip(axes, sizes.reshape(-1), strict=True):
            size[axis], factor[axis] = int(wanted), int(wanted) / shape[axis]
    elif scales is not None and scales.size:
        for axis, by in zip(axes, scales.reshape(-1), strict=True):
            size[axis], factor[axis] = math.floor(shape[axis] * float(by)), float(by)
    else:
        raise Unknown
    transform = attrs.get("coordinate_transformation_mode", "half_pixel")
    rounding = attrs.get("nearest_mode", "round_prefer_floor")
    transform, rounding = ("asymmetric", "floor") if old else (transform, rounding)
    return resized(call, size, factor, attrs.get("mode", "nearest"), transform, rounding)


def _upsample(call: Call) -> str:
    """Upsample of opset 7 (attribute) and 9 (input)."""
    scales = [float(s) for s in (call.attrs["scales"] if "scales" in call.attrs else call.need(1).reshape(-1))]
    size = [math.floor(d * s) for d, s in zip(call.shape(), scales, strict=True)]
    return resized(call, size, scales, call.attrs.get("mode", "nearest"), "asymmetric", "floor")


HANDLERS: dict[str, Handler] = {
    "MaxPool": _max_pool,
    "AveragePool": _avg_pool,
    "GlobalAveragePool": _global("mean"),
    "GlobalMaxPool": _global("reduce_max"),
    "Resize": _on_integers(_resize),
    "Upsample": _on_integers(_upsample),
}
