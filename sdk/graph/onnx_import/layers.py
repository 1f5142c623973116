"""ONNX layers with weights, normalisation and matrix products."""

from __future__ import annotations

import numpy as np

from sdk.graph import channel_first as cf
from sdk.graph import pieces
from sdk.graph.onnx_import.constants import bounded
from sdk.graph.onnx_import.walk import Call, Const, Handler, Unknown


def spatial_dims(call: Call) -> int:
    """Spatial dimensions of input 0: 1 for [N, C, L], 2 for [N, C, H, W]. Raises Unknown for others."""
    rank = len(call.shape(0))
    if rank not in (3, 4):
        raise Unknown
    return rank - 2


def explicit_padding(call: Call, size: cf.Pair, kernel: cf.Pair, stride: cf.Pair, dilation: cf.Pair, spatial: int) -> cf.Padding:
    """((top, bottom), (left, right)) from `pads` or `auto_pad`. Raises Unknown where pads cut."""
    mode = call.attrs.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        made = [cf.same_padding(size[i], kernel[i], stride[i], dilation[i], mode == "SAME_UPPER") for i in (0, 1)]
        return made[0], made[1]
    pads = [0] * (2 * spatial) if mode == "VALID" else [int(p) for p in call.attrs.get("pads") or [0] * (2 * spatial)]
    if min(pads) < 0 or len(pads) != 2 * spatial:
        raise Unknown
    begin, end = pads[:spatial], pads[spatial:]
    return ((0, 0), (begin[0], end[0])) if spatial == 1 else ((begin[0], end[0]), (begin[1], end[1]))


def image_size(call: Call, spatial: int) -> cf.Pair:
    """(height, width) of input 0; a signal has height 1."""
    shape = call.shape(0)
    return (1, shape[2]) if spatial == 1 else (shape[2], shape[3])


def window(call: Call, name: str, spatial: int) -> cf.Pair:
    """A per-dimension attribute, 1 where it is absent."""
    return cf.pair([int(v) for v in call.attrs.get(name) or [1] * spatial], spatial)


def _conv(call: Call) -> str:
    spatial, weight = spatial_dims(call), call.need(1)
    if weight.ndim != spatial + 2:
        raise Unknown
    stride, dilation = window(call, "strides", spatial), window(call, "dilations", spatial)
    kernel = cf.image_kernel(weight).shape[2:]
    padding = explicit_padding(call, image_size(call, spatial), (kernel[0], kernel[1]), stride, dilation, spatial)
    return cf.conv(call.b, call.x(), weight, call.array(2), stride=stride, dilation=dilation, padding=padding, groups=int(call.attrs.get("group", 1)),
                   origin=(call.origin(1), call.origin(2)))  # fmt: skip


def _conv_transpose(call: Call) -> str:
    spatial, weight = spatial_dims(call), call.need(1)
    if weight.ndim != spatial + 2 or call.attrs.get("output_shape"):
        raise Unknown
    stride, dilation = window(call, "strides", spatial), window(call, "dilations", spatial)
    kernel = cf.image_kernel(weight).shape[2:]
    extra = cf.pair([int(v) for v in call.attrs.get("output_padding") or [0] * spatial], spatial, 0)
    mode = call.attrs.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        # ONNX: the output is stride times the input; the odd pixel is cut at the end for SAME_UPPER
        total = [(kernel[i] - 1) * dilation[i] + 1 + extra[i] - stride[i] for i in (0, 1)]
        if min(total) < 0:
            raise Unknown
        pads = [(t // 2, t - t // 2) if mode == "SAME_UPPER" else (t - t // 2, t // 2) for t in total]
        padding: cf.Padding = (pads[0], pads[1])
    else:
        padding = explicit_padding(call, (0, 0), (1, 1), stride, dilation, spatial)
    # only integers are traced back: the kernel is flipped and regrouped, so its floats no longer are the source's parameter
    origin = call.origin(1) if call.origin(1) in call.walk.stored else None
    return cf.conv_transpose(call.b, call.x(), weight, call.array(2), stride=stride, dilation=dilation, padding=padding, output_padding=extra,
                             groups=int(call.attrs.get("group", 1)), origin=(origin, call.origin(2)))  # fmt: skip


# ---- matrix products -----------------------------------------------------------------------------------------------


def product(call: Call, a: object, c: object) -> str:
    """a @ c; a constant right side [K, N] becomes the weight of a dense layer."""
    walk, b = call.walk, call.b
    if isinstance(c, Const) and c.value.ndim == 2 and len(walk.shape_of(a)) >= 2:
        weight = b.const(c.origin or f"{b.scope}.weight", c.value.T, c.origin)
        return b.op("dense", walk.as_tensor(a), weight, "", activation="none")
    return pieces.matmul(b, walk.as_tensor(a), walk.as_tensor(c))


def _matmul(call: Call) -> str:
    call.x(0), call.shape(1)
    return product(call, call.inputs[0], call.inputs[1])


def _fused_matmul(call: Call) -> str:
    """com.microsoft.FusedMatMul: alpha * (a' @ b')."""
    if call.attrs.get("transBatchA") or call.attrs.get("transBatchB"):
        raise Unknown
    b, flags = call.b, {"transpose_a": bool(call.attrs.get("transA")), "transpose_b": bool(call.attrs.get("transB"))}
    y = b.op("batch_matmul", call.x(0), call.x(1), **flags)  # type: ignore[arg-type]
    return _times(call, y, float(call.attrs.get("alpha", 1.0)), "alpha")


def _times(call: Call, x: str, factor: float, name: str) -> str:
    return x if factor == 1 else call.b.op("mul", x, call.b.const(f"{call.b.scope}.{name}", np.float32(factor)), activation="none")


def _gemm(call: Call) -> str:
    """alpha * A' @ B' + beta * C."""
    b, alpha, beta = call.b, float(call.attrs.get("alpha", 1.0)), float(call.attrs.get("beta", 1.0))
    x = b.op("transpose", call.x(), perm=(1, 0)) if call.attrs.get("transA") else call.x()
    if not isinstance(call.inputs[1], Const):
        y = b.op("batch_matmul", x, call.x(1), transpose_a=False, transpose_b=bool(call.attrs.get("transB")))
        return _plus(call, _times(call, y, alpha, "alpha"), beta)
    weight = call.need(1) if call.attrs.get("transB") else call.need(1).T
    if weight.ndim != 2:
        raise Unknown
    weight = weight if alpha == 1 else weight * np.float32(alpha)
    name = b.const(call.origin(1) or f"{b.scope}.weight", weight, call.origin(1) if alpha == 1 else None)
    bias = call.inputs[2] if call.has(2) else None
    if isinstance(bias, Const) and bias.value.size == weight.shape[0] and bias.value.shape[-1:] == weight.shape[:1] and beta == 1:
        return b.op("dense", x, name, b.const(bias.origin or f"{b.scope}.bias", bias.value.reshape(-1), bias.origin), activation="none")
    return _plus(call, b.op("dense", x, name, "", activation="none"), beta)


def _plus(call: Call, y: str, beta: float) -> str:
    """y + beta * C, where there is a C."""
    if not call.has(2) or beta == 0:
        return y
    return call.b.op("add", y, _times(call, call.x(2), beta, "beta"), activation="none")


# ---- normalisation -------------------------------------------------------------------------------------------------


def _batch_norm(call: Call) -> str:
    if call.attrs.get("training_mode", 0) or call.attrs.get("spatial", 1) != 1 or len(call.shape()) < 2:
        raise Unknown
    names = ("weight", "bias", "running_mean", "running_var")
    values = [call.need(i) for i in range(1, 5)]
    b = call.b
    parameters = [b.const(call.origin(i) or f"{b.scope}.{n}", v, call.origin(i)) for i, n, v in zip(range(1, 5), names, values, strict=True)]
    return cf.batch_norm(b, call.x(), parameters, call.attrs.get("epsilon", 1e-5))


def _instance_norm(call: Call) -> str:
    """One group per channel; a group is a row of a layer_norm."""
    shape = call.shape()
    if len(shape) < 3:
        raise Unknown
    bounded(shape[2:])
    origins = (call.origin(1), call.origin(2))
    return pieces.group_norm(call.b, call.x(), shape[1], call.attrs.get("epsilon", 1e-5), call.need(1), call.need(2), origins)


def _group_norm(call: Call) -> str:
    """Opset 18 gives one factor per group, opset 21 one per channel."""
    shape, groups = call.shape(), int(call.attrs["num_groups"])
    if len(shape) < 2 or groups < 1 or shape[1] % groups:
        raise Unknown
    bounded(shape[1:])
    repeats = 1 if call.need(1).size == shape[1] else shape[1] // groups
    scale, bias = (np.repeat(call.need(i), repeats) for i in (1, 2))
    origins = (call.origin(1), call.origin(2)) if repeats == 1 else (None, None)
    return pieces.group_norm(call.b, call.x(), groups, call.attrs.get("epsilon", 1e-5), scale, bias, origins)


def _layer_norm(call: Call) -> str:
    if sum(map(bool, call.node.output)) > 1:
        raise Unknown
    shape = call.shape()
    axes = len(shape) - int(call.attrs.get("axis", -1)) % len(shape)
    tail = shape[len(shape) - axes :]
    bounded(tail)
    # gamma and beta may be broadcast to the normalised shape
    gamma = np.broadcast_to(call.need(1), tail)
    beta = None if call.array(2) is None else np.broadcast_to(call.need(2), tail)
    return pieces.layer_norm(call.b, call.x(), axes, call.attrs.get("epsilon", 1e-5), gamma, beta, (call.origin(1), call.origin(2)))


def _rms_norm(call: Call) -> str:
    """x / sqrt(mean(x * x) + eps) * scale."""
    b, x, shape = call.b, call.x(), call.shape()
    axes = tuple(range(int(call.attrs.get("axis", -1)) % len(shape), len(shape)))
    mean = b.op("mean", b.op("mul", x, x, activation="none"), axes=axes, keep_dims=True)
    eps = b.const(f"{b.scope}.eps", np.float32(call.attrs.get("epsilon", 1e-5)))
    y = b.op("mul", x, b.op("rsqrt", b.op("add", mean, eps, activation="none")), activation="none")
    return b.op("mul", y, call.x(1), activation="none")


def _lp_norm(call: Call) -> str:
    """x / sqrt(sum(x * x)) along an axis."""
    if int(call.attrs.get("p", 2)) != 2:
        raise Unknown
    b, x = call.b, call.x()
    axis = int(call.attrs.get("axis", -1)) % len(call.shape())
    total = b.op("sum", b.op("mul", x, x, activation="none"), axes=(axis,), keep_dims=True)
    return b.op("div", x, b.op("sqrt", total), activation="none")


HANDLERS: dict[str, Handler] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "com.microsoft.FusedMatMul": _fused_matmul,
    "Gemm": _gemm,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "SimplifiedLayerNormalization": _rms_norm,
    "LpNormalization": _lp_norm,
}
