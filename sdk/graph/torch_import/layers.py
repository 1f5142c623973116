"""ATen layers with weights, and pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdk.graph import channel_first as cf
from sdk.graph import pieces
from sdk.graph.torch_import.walk import Call, Handler, Unknown


def _conv(call: Call) -> str:
    """conv1d, conv2d: `padding` is numbers or "same" / "valid"."""
    weight, spatial = _kernel(call)
    stride, dilation = cf.pair(call["stride"], spatial), cf.pair(call["dilation"], spatial)
    kernel = cf.image_kernel(weight).shape[2:]
    if call["padding"] == "same":
        # torch puts the odd pixel at the end, and asks for stride 1
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = tuple((t // 2, t - t // 2) for t in total)
    elif call["padding"] == "valid":
        padding = ((0, 0), (0, 0))
    else:
        padding = tuple((p, p) for p in cf.pair(call["padding"], spatial, 0))
    x = _batched(call, spatial)
    y = cf.conv(call.b, x, weight, call.array("bias"), stride=stride, dilation=dilation, padding=(padding[0], padding[1]), groups=int(call["groups"]),
                origin=(call.origin("weight"), call.origin("bias")))  # fmt: skip
    return call.b.op("reshape", y, shape=call.out_shape) if x != call.tensor("input") else y


def _kernel(call: Call) -> tuple[np.ndarray, int]:
    """The weight and its number of spatial dimensions, 1 or 2."""
    weight = call.array("weight")
    if weight is None or weight.ndim not in (3, 4):
        raise Unknown
    return weight, weight.ndim - 2


def _batched(call: Call, spatial: int) -> str:
    """The input with a batch dimension, which torch's layers may be called without."""
    x = call.tensor("input")
    shape = call.b.shape(x)
    return call.b.op("reshape", x, shape=(1, *shape)) if len(shape) == spatial + 1 else x


def _convolution(call: Call) -> str:
    """aten.convolution, what decomposed programs hold."""
    call.args["groups"] = call["groups"] or 1
    if not call["transposed"]:
        return _conv(call)
    return _conv_transpose(call)


def _conv_transpose(call: Call) -> str:
    weight, spatial = _kernel(call)
    stride, dilation = cf.pair(call["stride"], spatial), cf.pair(call["dilation"], spatial)
    padding = tuple((p, p) for p in cf.pair(call["padding"], spatial, 0))
    x = _batched(call, spatial)
    y = cf.conv_transpose(call.b, x, weight, call.array("bias"), stride=stride, dilation=dilation, padding=(padding[0], padding[1]),
                          output_padding=cf.pair(call["output_padding"], spatial, 0), groups=int(call["groups"]),
                          origin=(None, call.origin("bias")))  # fmt: skip
    return call.b.op("reshape", y, shape=call.out_shape) if x != call.tensor("input") else y


def _linear(call: Call) -> str:
    weight, bias = call["weight"], call["bias"]
    if call.array("weight") is None or (bias is not None and call.array("bias") is None):
        raise Unknown
    return call.b.op("dense", call.tensor("input"), call.walk.as_tensor(weight), "" if bias is None else call.walk.as_tensor(bias), activation="none")


def _batch_norm(call: Call) -> str:
    mean, var = call.array("running_mean"), call.array("running_var")
    if mean is None or var is None or call["training"]:
        raise Unknown
    ones, b = np.ones_like(mean), call.b
    weight, bias = call.array("weight"), call.array("bias")
    stem = b.scope or "batch_norm"
    parameters = [
        b.const(f"{stem}.weight", ones if weight is None else weight, call.origin("weight")),
        b.const(f"{stem}.bias", np.zeros_like(mean) if bias is None else bias, call.origin("bias")),
        b.const(f"{stem}.running_mean", mean, call.origin("running_mean")),
        b.const(f"{stem}.running_var", var, call.origin("running_var")),
    ]
    return cf.batch_norm(b, call.tensor("input"), parameters, call["eps"])


def _batch_norm_tuple(call: Call) -> list[str]:
    """_native_batch_norm_legit_no_training returns (y, mean, rstd); only y is used in inference."""
    return [_batch_norm(call), "", ""]


def _layer_norm(call: Call) -> str:
    origins = (call.origin("weight"), call.origin("bias"))
    return pieces.layer_norm(call.b, call.tensor("input"), len(call["normalized_shape"]), call["eps"], call.array("weight"), call.array("bias"), origins)


def _group_norm(call: Call) -> str:
    origins = (call.origin("weight"), call.origin("bias"))
    return pieces.group_norm(call.b, call.tensor("input"), int(call["num_groups"]), call["eps"], call.array("weight"), call.array("bias"), origins)


def _pool_args(call: Call, spatial: int) -> dict[str, Any]:
    kernel = cf.pair(call["kernel_size"], spatial)
    stride = cf.pair(call["stride"], spatial) if call["stride"] else kernel
    pads = cf.pair(call["padding"], spatial, 0)
    size = (1, *call.shape("self")[-1:]) if spatial == 1 else call.shape("self")[-2:]
    padding = tuple(cf.ceil_padding(size[i], kernel[i], stride[i], (pads[i], pads[i]), bool(call["ceil_mode"])) for i in (0, 1))
    if any(max(padding[i]) >= kernel[i] for i in (0, 1)):
        raise Unknown
    return {"kernel": kernel, "stride": stride, "padding": padding, "overhang": any(p != (q, q) for p, q in zip(padding, pads, strict=True))}


def _max_pool(spatial: int, several: bool = False) -> Handler:
    def handler(call: Call) -> Any:
        args = _pool_args(call, spatial)
        args.pop("overhang")
        if cf.pair(call["dilation"], spatial) != (1, 1) or len(call.shape("self")) != spatial + 2:
            raise Unknown
        y = cf.pool(call.b, call.tensor("self"), "max_pool2d", **args)
        return [y, ""] if several else y

    return handler


def _avg_pool(spatial: int) -> Handler:
    def handler(call: Call) -> str:
        args = _pool_args(call, spatial)
        padded, include = any(map(any, args["padding"])), bool(call["count_include_pad"])
        # torch never counts what ceil_mode adds; that mixed rule is not ours
        if len(call.shape("self")) != spatial + 2 or (args.pop("overhang") and include and any(cf.pair(call["padding"], spatial, 0))):
            raise Unknown
        if call["ceil_mode"] and include and not any(cf.pair(call["padding"], spatial, 0)):
            include = False
        if call.args.get("divisor_override") is not None:
            raise Unknown
        return cf.pool(call.b, call.tensor("self"), "avg_pool2d", count_include_pad=include and padded, **args)

    return handler


def _adaptive_pool(spatial: int, op: str) -> Handler:
    """Adaptive pooling to size 1 is a mean; to a divisor of the input, an ordinary pool."""

    def handler(call: Call) -> Any:
        x, b = call.tensor("self"), call.b
        shape = b.shape(x)
        size, target = shape[-spatial:], tuple(call["output_size"])
        target = target * spatial if len(target) == 1 else target
        if all(t == 1 for t in target):
            reduce = "mean" if op == "avg_pool2d" else "reduce_max"
            return b.op(reduce, x, axes=tuple(range(len(shape) - spatial, len(shape))), keep_dims=True)
        if any(s % t for s, t in zip(size, target, strict=True)) or len(shape) != spatial + 2:
            raise Unknown
        kernel = cf.pair([s // t for s, t in zip(size, target, strict=True)], spatial)
        return cf.pool(b, x, op, kernel=kernel, stride=kernel, padding=((0, 0), (0, 0)))

    return handler


def _adaptive_max(spatial: int) -> Handler:
    def handler(call: Call) -> list[str]:
        return [_adaptive_pool(spatial, "max_pool2d")(call), ""]

    return handler


def _resize(call: Call, op: str, align: bool, half: bool) -> str:
    if len(call.out_shape) != 4:
        raise Unknown
    height, width = call.out_shape[2:]
    size = call.shape("input" if "input" in call.args else "self")[2:]
    if call.has("scale_factors") and any(int(s * f) != s * f for s, f in zip(size, call["scale_factors"], strict=True)):
        raise Unknown  # torch then uses the factor itself, not the ratio of the sizes
    return cf.resize(call.b, call.tensor("input" if "input" in call.args else "self"), op, (height, width), align, half)


def _upsample_nearest(call: Call) -> str:
    return _resize(call, "resize_nearest", False, False)


def _upsample_bilinear(call: Call) -> str:
    align = bool(call["align_corners"])
    return _resize(call, "resize_bilinear", align, not align)


HANDLERS: dict[str, Handler] = {
    "conv1d": _conv,
    "conv2d": _conv,
    "convolution": _convolution,
    "conv_transpose1d": _conv_transpose,
    "conv_transpose2d": _conv_transpose,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm_tuple,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "max_pool1d": _max_pool(1),
    "max_pool2d": _max_pool(2),
    "max_pool2d_with_indices": _max_pool(2, several=True),
    "avg_pool1d": _avg_pool(1),
    "avg_pool2d": _avg_pool(2),
    "adaptive_avg_pool1d": _adaptive_pool(1, "avg_pool2d"),
    "adaptive_avg_pool2d": _adaptive_pool(2, "avg_pool2d"),
    "_adaptive_avg_pool2d": _adaptive_pool(2, "avg_pool2d"),
    "adaptive_max_pool1d": _adaptive_max(1),
    "adaptive_max_pool2d": _adaptive_max(2),
    "upsample_nearest2d": _upsample_nearest,
    "upsample_bilinear2d": _upsample_bilinear,
}
