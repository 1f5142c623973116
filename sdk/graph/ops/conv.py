"""Convolutions and matrix products.

int8 and int16 sums are exact: products are added in a float type whose mantissa holds every partial sum (BLAS is fast
there), then requantised with LiteRT's integers.
"""

from __future__ import annotations

import numpy as np

from sdk.graph import quantmath as qm
from sdk.graph.ops.base import Op, Shape, Use, float_activation, is_quantised

#: Values of an im2col matrix that are alive at once; the batch is cut so that it stays below.
CHUNK_VALUES = 1 << 22


def _out_size(size: int, kernel: int, stride: int, dilation: int, pad: tuple[int, int]) -> int:
    return (size + pad[0] + pad[1] - (kernel - 1) * dilation - 1) // stride + 1


def _image_shape(use: Use, kernel: tuple[int, int], channels: int) -> Shape:
    x = use.input(0).shape
    if len(x) != 4:
        raise use.wrong(f"its input has shape {list(x)}; it must be [N, H, W, C]")
    stride, dilation, padding = use.attr("stride"), use.node.attrs.get("dilation", (1, 1)), use.attr("padding")
    if min(*stride, *dilation, *kernel) < 1 or min(*padding[0], *padding[1]) < 0:
        raise use.wrong("kernel, stride and dilation must be at least 1, padding at least 0")
    h, w = (_out_size(x[1 + i], kernel[i], stride[i], dilation[i], padding[i]) for i in (0, 1))
    return (x[0], max(h, -1), max(w, -1), channels)


def conv2d_shape(use: Use) -> Shape:
    """[N, OH, OW, O]; also checks weight and bias."""
    x, w, groups = use.input(0).shape, use.input(1).shape, use.node.attrs.get("groups", 1)
    if len(w) != 4 or len(x) != 4 or groups < 1 or x[3] != w[3] * groups or w[0] % groups:
        raise use.wrong(f"weight {list(w)} with {groups} groups does not fit input {list(x)}; it must be [O, KH, KW, C/groups]")
    _check_bias(use, w[0])
    return _image_shape(use, (w[1], w[2]), w[0])


def depthwise_shape(use: Use) -> Shape:
    """[N, OH, OW, C*M]."""
    x, w, m = use.input(0).shape, use.input(1).shape, use.attr("multiplier")
    if len(w) != 4 or len(x) != 4 or w[0] != 1 or w[3] != x[3] * m:
        raise use.wrong(f"weight {list(w)} does not fit input {list(x)}; it must be [1, KH, KW, C*{m}]")
    _check_bias(use, w[3])
    return _image_shape(use, (w[1], w[2]), w[3])


def dense_shape(use: Use) -> Shape:
    """[..., O]."""
    x, w = use.input(0).shape, use.input(1).shape
    if len(w) != 2 or not x or x[-1] != w[1]:
        raise use.wrong(f"weight {list(w)} does not fit input {list(x)}; it must be [O, I] with I the input's last dimension")
    _check_bias(use, w[0])
    return (*x[:-1], w[0])


def _check_bias(use: Use, channels: int) -> None:
    bias = use.inputs[2] if len(use.inputs) > 2 else None
    if bias is not None and bias.shape != (channels,):
        raise use.wrong(f"bias has shape {list(bias.shape)}; it must be [{channels}]")


def batch_matmul_shape(use: Use) -> Shape:
    """[..., M, N] with the leading dimensions broadcast."""
    a, b = list(use.input(0).shape), list(use.input(1).shape)
    if len(a) < 2 or len(b) < 2:
        raise use.wrong(f"inputs {a} and {b} must have at least two dimensions")
    if use.node.attrs.get("transpose_a", False):
        a[-2:] = a[:-3:-1]
    if use.node.attrs.get("transpose_b", False):
        b[-2:] = b[:-3:-1]
    try:
        lead = np.broadcast_shapes(tuple(a[:-2]), tuple(b[:-2]))
    except ValueError:
        lead = None
    if lead is None or a[-1] != b[-2]:
        raise use.wrong(f"matrices {a} and {b} cannot be multiplied")
    return (*lead, a[-2], b[-1])


# ---- the sums ------------------------------------------------------------------------------------------------------


def _padded(x: np.ndarray, padding: tuple[tuple[int, int], tuple[int, int]]) -> np.ndarray:
    return np.pad(x, ((0, 0), *padding, (0, 0))) if any(map(any, padding)) else x


def _windows(x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]) -> np.ndarray:
    """View [N, OH, OW, KH, KW, C] of a padded image."""
    span = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, span, (1, 2))[:, :: stride[0], :: stride[1], :, :: dilation[0], :: dilation[1]]
    return view.transpose(0, 1, 2, 4, 5, 3)


def _conv_sums(x: np.ndarray, w: np.ndarray, use: Use) -> np.ndarray:
    """x [N, H, W, C] and w [O, KH, KW, C/groups], both in the type to sum in -> [N, OH, OW, O]."""
    groups = use.node.attrs.get("groups", 1)
    view = _windows(_padded(x, use.attr("padding")), w.shape[1:3], use.attr("stride"), use.node.attrs.get("dilation", (1, 1)))
    depth, outs = w.shape[3], w.shape[0] // groups
    parts = []
    for g in range(groups):
        columns = view[..., g * depth : (g + 1) * depth].reshape(*view.shape[:3], -1)
        parts.append(columns @ w[g * outs : (g + 1) * outs].reshape(outs, -1).T)
    return parts[0] if groups == 1 else np.concatenate(parts, axis=-1)


def _depthwise_sums(x: np.ndarray, w: np.ndarray, use: Use) -> np.ndarray:
    """x [N, H, W, C] and w [1, KH, KW, C*M] -> [N, OH, OW, C*M]; one multiply and add per tap."""
    multiplier = use.attr("multiplier")
    view = _windows(_padded(x, use.attr("padding")), w.shape[1:3], use.attr("stride"), use.node.attrs.get("dilation", (1, 1)))
    taps = w.reshape(w.shape[1], w.shape[2], x.shape[3], multiplier)
    total = np.zeros((*view.shape[:3], x.shape[3], multiplier), x.dtype)
    for i in range(taps.shape[0]):
        for j in range(taps.shape[1]):
            total += view[:, :, :, i, j, :, None] * taps[i, j]
    return total.reshape(*view.shape[:3], -1)


def _exact_type(x: np.ndarray, w: np.ndarray, offset: int) -> type[np.floating]:
    """The float type in which every partial sum of (x - offset) * w over one output channel is exact."""
    largest = max(abs(int(np.iinfo(x.dtype).min) - offset), abs(int(np.iinfo(x.dtype).max) - offset))
    per_channel = np.abs(w.astype(np.int64)).reshape(w.shape[0], -1).sum(axis=1).max(initial=0)
    return np.float32 if largest * int(per_channel) < 2**24 else np.float64


def _chunks(x: np.ndarray, values_per_sample: int) -> list[slice]:
    step = max(1, CHUNK_VALUES // max(1, values_per_sample))
    return [slice(i, i + step) for i in range(0, max(len(x), 1), step)]


def _finish(sums: np.ndarray, use: Use) -> np.ndarray:
    """Exact sums [..., O] -> quantised outputs: bias, multiplier, zero point, activation."""
    out, bias = use.output(), use.optional(2)
    low, high = qm.output_range(use.node, out)
    total = sums.astype(np.int64)
    if bias is not None:
        total += bias
    if use.node.op == "dense":
        scales = np.array(qm.effective_scales(use.node, _tensors(use)))
        return np.clip(qm.scale_once(total, scales) + out.zero_point, low, high).astype(out.dtype)
    mult, shift = (np.array(v, np.int64) for v in qm.conv_multipliers(use.node, _tensors(use)))
    if use.input(0).dtype == "int16" and (bias is None or bias.dtype == np.int64):
        return np.clip(qm.multiply_by_quantized_multiplier_64(total, mult, shift) + out.zero_point, low, high).astype(out.dtype)
    return qm.requantise(qm.wrap_int32(total), mult, shift, out.zero_point, low, high, out.dtype)


def _tensors(use: Use) -> dict:
    return {t.name: t for t in (*use.inputs, *use.outputs) if t is not None}


def conv2d_int(use: Use) -> np.ndarray:
    """int8 or int16 activations, int8 weights [O, KH, KW, C/groups], int32 or int64 bias."""
    x, w, zero = use.value(0), use.value(1), use.input(0).zero_point
    kind = _exact_type(x, w, zero)
    weights = w.astype(kind)
    values = use.output().size // max(1, use.output().shape[0]) // max(1, w.shape[0]) * (w.size // max(1, w.shape[0]))
    parts = [_finish(_conv_sums(x[s].astype(kind) - np.asarray(zero, kind), weights, use), use) for s in _chunks(x, values)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def depthwise_int(use: Use) -> np.ndarray:
    """int8 or int16 activations, int8 weights [1, KH, KW, C*M]."""
    x, w, zero = use.value(0), use.value(1), use.input(0).zero_point
    kind = np.int32 if x.dtype == np.int8 else np.int64
    values = 8 * use.output().size // max(1, use.output().shape[0])
    parts = [_finish(_depthwise_sums(x[s].astype(kind) - np.asarray(zero, kind), w.astype(kind), use), use) for s in _chunks(x, values)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def dense_int(use: Use) -> np.ndarray:
    """int8 or int16 activations [..., I], int8 weights [O, I]; a per-tensor weight may have a zero point."""
    x, w, zero = use.value(0), use.value(1), use.input(0).zero_point
    quant = use.input(1).quant
    weights = w.astype(np.int64) - (quant.zero_point[0] if quant and len(quant.scale) == 1 else 0)
    kind = _exact_type(x, weights, zero)
    return _finish((x.astype(kind) - kind(zero)) @ weights.astype(kind).T, use)


def batch_matmul_int(use: Use) -> np.ndarray:
    """int8 or int16 matrices on both sides."""
    a, b = _operands(use)
    za, zb = use.input(0).zero_point, use.input(1).zero_point
    sums = (a.astype(np.float64) - za) @ (b.astype(np.float64) - zb)
    out, pairs = use.output(), qm.conv_multipliers(use.node, _tensors(use))
    low, high = qm.output_range(use.node, out)
    total = sums.astype(np.int64)
    if out.dtype == "int16":
        scaled = qm.multiply_by_quantized_multiplier_64(total, pairs[0][0], pairs[1][0])
        return np.clip(scaled + out.zero_point, low, high).astype(out.dtype)
    return qm.requantise(qm.wrap_int32(total), pairs[0][0], pairs[1][0], out.zero_point, low, high, out.dtype)


def _operands(use: Use) -> tuple[np.ndarray, np.ndarray]:
    a, b = use.value(0), use.value(1)
    a = a.swapaxes(-1, -2) if use.node.attrs.get("transpose_a", False) else a
    return a, b.swapaxes(-1, -2) if use.node.attrs.get("transpose_b", False) else b


def _float_end(sums: np.ndarray, use: Use) -> np.ndarray:
    bias = use.optional(2)
    total = sums if bias is None else sums + bias
    return float_activation(total.astype(np.float32, copy=False), use.node.attrs.get("activation", "none"))


def conv2d_float(use: Use) -> np.ndarray:
    """float32 convolution."""
    return _float_end(_conv_sums(use.value(0), use.value(1), use), use)


def depthwise_float(use: Use) -> np.ndarray:
    """float32 depthwise convolution."""
    return _float_end(_depthwise_sums(use.value(0), use.value(1), use), use)


def dense_float(use: Use) -> np.ndarray:
    """float32 `x @ w.T + b`."""
    return _float_end(use.value(0) @ use.value(1).T, use)


def batch_matmul_float(use: Use) -> np.ndarray:
    """float32 matrix product."""
    a, b = _operands(use)
    return (a @ b).astype(np.float32, copy=False)


# ---- constraints ---------------------------------------------------------------------------------------------------


def weight_is_int8(use: Use) -> str | None:
    """int8, int16 activations: weights are int8 with zero point 0 (a per-tensor dense weight may have another); the bias is int32, or int64 for int16."""
    x, w = use.input(0), use.input(1)
    bias = use.inputs[2] if len(use.inputs) > 2 else None
    if not is_quantised(x):
        return None
    if w.dtype != "int8" or w.quant is None:
        return f"its input is {x.dtype} but its weight is {w.dtype}{'' if w.quant else ' without a scale'}; quantise the weights to int8"
    if any(w.quant.zero_point) and not (use.node.op == "dense" and len(w.quant.scale) == 1):
        return "its int8 weights have a zero point other than 0; quantise the weights symmetrically"
    if bias is not None and bias.dtype != "int32" and not (x.dtype == "int16" and bias.dtype == "int64"):
        return f"its bias is {bias.dtype}; it must be int32 with scale input scale * weight scale"
    return None


def weight_scales_per_output(use: Use) -> str | None:
    """int8, int16: one weight scale, or one per output channel."""
    w, op = use.input(1), use.node.op
    axis = 3 if op == "depthwise_conv2d" else 0
    if is_quantised(use.input(0)) and w.quant is not None and w.quant.axis not in (None, axis):
        return f"its weight scales lie along axis {w.quant.axis}; they must lie along axis {axis}, the output channel"
    return None


_CONV_ATTRS = {
    "stride": "(h, w)",
    "dilation": "(h, w)",
    "padding": "((top, bottom), (left, right))",
    "activation": "none, relu, relu6 or relu_n1_to_1",
}
_WEIGHTS = (weight_is_int8, weight_scales_per_output)

OPS = (
    Op("conv2d", "Convolution of x [N, H, W, C] with w [O, KH, KW, C/groups] and bias b [O].", ("x", "w", "b?"), conv2d_shape,
       {"float32": conv2d_float, "int8": conv2d_int, "int16": conv2d_int}, attrs={**_CONV_ATTRS, "groups": "divides C and O"},
       constraints=_WEIGHTS),
    Op("depthwise_conv2d", "Each channel of x [N, H, W, C] with its own filters w [1, KH, KW, C*M].", ("x", "w", "b?"), depthwise_shape,
       {"float32": depthwise_float, "int8": depthwise_int, "int16": depthwise_int}, attrs={**_CONV_ATTRS, "multiplier": "M"},
       constraints=_WEIGHTS),
    Op("dense", "x [..., I] times the transpose of w [O, I], plus b [O].", ("x", "w", "b?"), dense_shape,
       {"float32": dense_float, "int8": dense_int, "int16": dense_int}, attrs={"activation": _CONV_ATTRS["activation"]},
       constraints=_WEIGHTS),
    Op("batch_matmul", "Matrix product of a [..., M, K] and b [..., K, N].", ("a", "b"), batch_matmul_shape,
       {"float32": batch_matmul_float, "int8": batch_matmul_int, "int16": batch_matmul_int},
       attrs={"transpose_a": "swap the last two dimensions of a first", "transpose_b": "the same for b"}),
)  # fmt: skip
