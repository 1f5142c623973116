"""Meanings of the ops in training.py: computed in float64, rounded to float32 once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sdk.graph.ir import Tensor
from sdk.graph.ops.base import Use, float_activation
from sdk.graph.ops.conv import _out_size, _padded, _windows
from sdk.graph.quantmath import dequantise_array

Array = np.ndarray


def out_size(use: Use, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
    """(OH, OW) of a window over an image of `size`. Raises ModelError where it does not fit."""
    stride, dilation, padding = use.attr("stride"), use.attr("dilation"), use.attr("padding")
    if min(*stride, *dilation, *kernel) < 1 or min(*padding[0], *padding[1]) < 0:
        raise use.wrong("kernel, stride and dilation must be at least 1, padding at least 0")
    h, w = (_out_size(size[i], kernel[i], stride[i], dilation[i], padding[i]) for i in (0, 1))
    if h < 1 or w < 1:
        raise use.wrong(f"its kernel {list(kernel)} does not fit an image of {list(size)}; pad the image or choose a smaller kernel")
    return h, w


def real(tensor: Tensor, value: Array) -> Array:
    """float64 values of a weight: float32 as it is, int8 by its scales (float32 products, as a kernel forms them, are not rounded here)."""
    if tensor.quant is None or value.dtype != np.int8:
        return value.astype(np.float64)
    return dequantise_array(value, tensor.quant).astype(np.float64) if tensor.quant.axis is None else value * _scales(tensor)


def _scales(tensor: Tensor) -> Array:
    """The scales in the weight's shape: [O, 1, ..] or [1, 1, 1, C]; 1 where it has none."""
    if tensor.quant is None:
        return np.ones((1,) * len(tensor.shape))
    shape = [1] * len(tensor.shape)
    if tensor.quant.axis is not None:
        shape[tensor.quant.axis] = -1
    return np.asarray(tensor.quant.scale, np.float64).reshape(shape)


def _weight(use: Use, index: int) -> Array:
    return real(use.input(index), use.value(index))


def _double(use: Use, index: int) -> Array:
    return use.value(index).astype(np.float64)


def _single(x: Array) -> Array:
    return np.asarray(x, np.float32)


def _view(x: Array, use: Use, kernel: Sequence[int]) -> Array:
    """[N, OH, OW, KH, KW, C]."""
    return _windows(_padded(x, use.attr("padding")), (kernel[0], kernel[1]), use.attr("stride"), use.attr("dilation"))


# ---- forward -------------------------------------------------------------------------------------------------------


def _conv(x: Array, w: Array, use: Use) -> Array:
    return np.tensordot(_view(x, use, w.shape[1:3]), w, axes=((3, 4, 5), (1, 2, 3)))


def _finish(use: Use, sums: Array) -> Array:
    bias = use.optional(2)
    return float_activation(_single(sums if bias is None else sums + bias), use.node.attrs.get("activation", "none"))


def _adapted(use: Use, product: Callable[[Array, Array], Array]) -> Array:
    """x w, plus z p where there is an adapter."""
    sums = product(_double(use, 0), _weight(use, 1))
    return sums if use.optional(3) is None else sums + product(_double(use, 3), _weight(use, 4))


def conv2d(use: Use) -> Array:
    """act(x * w + z * p + b)."""
    return _finish(use, _adapted(use, lambda x, w: _conv(x, w, use)))


def depthwise(use: Use) -> Array:
    """act(x * w + b), channel by channel."""
    w = _weight(use, 1)
    return _finish(use, np.einsum("nyxijc,ijc->nyxc", _view(_double(use, 0), use, w.shape[1:3]), w[0]))


def dense(use: Use) -> Array:
    """act(x w^T + z p^T + b)."""
    return _finish(use, _adapted(use, lambda x, w: x @ w.T))


def head(use: Use) -> tuple[Array, Array]:
    """Mean over the pixels of act(x w^T + z p^T + b), and the mask of that map in channel order."""
    y = _finish(use, _adapted(use, lambda x, w: x @ w[:, 0, 0].T))
    return _single(y.mean(axis=(1, 2), dtype=np.float64)), _bits(y.transpose(0, 3, 1, 2), use.attr("activation"))


def _bits(y: Array, activation: str) -> Array:
    open_ = (y > 0) & (y < 6) if activation == "relu6" else y > 0
    return np.packbits(open_.reshape(-1), bitorder="little")


def _unpacked(mask: Array, shape: Sequence[int]) -> Array:
    return np.unpackbits(mask, bitorder="little", count=int(np.prod(shape))).reshape(shape)


def pack_mask(use: Use) -> Array:
    """Bits of 0 < y (and y < 6)."""
    return _bits(use.value(0), use.attr("activation"))


def mode_product(use: Use) -> Array:
    """x times u along one axis."""
    u, axis = _double(use, 1), int(use.attr("axis"))
    matrix = u.T if use.node.attrs.get("transpose", False) else u
    return _single(np.moveaxis(np.tensordot(_double(use, 0), matrix, axes=((axis,), (1,))), -1, axis))


def softmax_cross_entropy(use: Use) -> tuple[Array, Array]:
    """(mean of log(sum(exp(x))) - x[label], (softmax(x) - onehot) / N). A label out of range takes part in neither."""
    x, label = _double(use, 0), use.value(1)
    shifted = x - x.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    total = powers.sum(axis=1, keepdims=True)
    known = (np.arange(x.shape[1]) == label[:, None]).astype(np.float64)
    loss = (np.log(total[:, 0]) - (shifted * known).sum(axis=1)).mean(keepdims=True)
    return _single(loss), _single((powers / total - known) / len(x))


# ---- backward ------------------------------------------------------------------------------------------------------


def mask_grad(use: Use) -> Array:
    """dy * mask."""
    dy = use.value(0)
    return dy * _unpacked(use.value(1), dy.shape).astype(np.float32)


def _plus(use: Use, index: int, x: Array) -> Array:
    add = use.optional(index)
    return _single(x if add is None else x + add)


def _spread(use: Use, columns: Array) -> Array:
    """Gradients of every tap [N, OH, OW, KH, KW, C] added up where they came from: [N, H, W, C]."""
    (top, bottom), (left, right) = use.attr("padding")
    (sh, sw), (dh, dw), (h, w) = use.attr("stride"), use.attr("dilation"), use.attr("size")
    n, oh, ow, kh, kw, c = columns.shape
    whole = np.zeros((n, h + top + bottom, w + left + right, c))
    for i in range(kh):
        for j in range(kw):
            y, x = i * dh, j * dw
            whole[:, y : y + (oh - 1) * sh + 1 : sh, x : x + (ow - 1) * sw + 1 : sw] += columns[:, :, :, i, j]
    return whole[:, top : top + h, left : left + w]


def conv2d_grad(use: Use) -> Array:
    """dy w spread over the window."""
    return _plus(use, 2, _spread(use, np.tensordot(_double(use, 0), _weight(use, 1), axes=1)))


def depthwise_grad(use: Use) -> Array:
    """dy w spread over the window, channel by channel."""
    return _plus(use, 2, _spread(use, np.einsum("nyxc,ijc->nyxijc", _double(use, 0), _weight(use, 1)[0])))


def dense_grad(use: Use) -> Array:
    """dy w."""
    return _plus(use, 2, _double(use, 0) @ _weight(use, 1))


def _map_grad(dy: Array, mask: Array, pixels: int) -> Array:
    """[N, pixels, O]: dy [N, O] / pixels where the mask is 1."""
    n, o = dy.shape
    return (dy[:, :, None] / pixels * _unpacked(mask, (n, o, pixels))).transpose(0, 2, 1)


def head_grad(use: Use) -> Array:
    """Gradient through mean, activation and 1x1 convolution."""
    h, w = use.attr("size")
    dy = _map_grad(_double(use, 0), use.value(1), h * w)
    return _plus(use, 3, (dy @ _weight(use, 2)[:, 0, 0]).reshape(len(dy), h, w, -1))


def mean_grad(use: Use) -> Array:
    """dy / (H W) everywhere."""
    dy, (h, w) = _double(use, 0), use.attr("size")
    return _single(np.broadcast_to(dy.reshape(len(dy), 1, 1, -1) / (h * w), (len(dy), h, w, dy.shape[-1])))


# ---- updates -------------------------------------------------------------------------------------------------------


def noise(counter: int, count: int) -> Array:
    """float64 in [0, 1) in steps of 2^-24 for `count` weights: the finaliser of a 32-bit hash (lowbias32) over counter and index."""
    with np.errstate(over="ignore"):
        h = np.arange(count, dtype=np.uint32) + np.uint32((counter * 0x9E3779B9) & 0xFFFFFFFF)
        h ^= h >> np.uint32(16)
        h *= np.uint32(0x7FEB352D)
        h ^= h >> np.uint32(15)
        h *= np.uint32(0x846CA68B)
        h ^= h >> np.uint32(16)
    return (h >> np.uint32(8)).astype(np.float64) / 2**24


def _step(use: Use, weight: int, gradient: Array, counter: int = 0) -> tuple[Array, ...]:
    """New values of w, of the velocity and of the counter, those that there are."""
    w, (rate, momentum) = use.input(weight), _double(use, weight + 1)[:2]
    velocity = use.optional(weight + 2)
    change = gradient.reshape(w.shape) if velocity is None else momentum * velocity + gradient.reshape(w.shape)
    news = [_moved(use, weight, rate * change, counter)]
    if velocity is not None:
        news.append(_single(change))
    if counter and use.optional(counter) is not None:
        news.append(use.value(counter) + np.int32(1))
    return tuple(news)


def _moved(use: Use, weight: int, step: Array, counter: int) -> Array:
    w = use.input(weight)
    if w.dtype == "float32":
        return _single(_double(use, weight) - step)
    dither = noise(int(use.value(counter)[0]), w.size).reshape(w.shape)
    return np.clip(np.floor(use.value(weight) - step / _scales(w) + dither), -127, 127).astype(np.int8)


def _restored(use: Use, index: int, gradient: Array) -> Array:
    """The last dimension from K back to all channels where there is a basis."""
    return gradient if use.optional(index) is None else gradient @ _weight(use, index).reshape(gradient.shape[-1], -1)


def conv2d_update(use: Use) -> tuple[Array, ...]:
    """w -= rate * gradient."""
    view = _view(_double(use, 0), use, use.input(2).shape[1:3])
    return _step(use, 2, _restored(use, 5, np.tensordot(_double(use, 1), view, axes=((0, 1, 2), (0, 1, 2)))), 6)


def depthwise_update(use: Use) -> tuple[Array, ...]:
    """w -= rate * gradient."""
    view = _view(_double(use, 0), use, use.input(2).shape[1:3])
    return _step(use, 2, np.einsum("nyxijc,nyxc->ijc", view, _double(use, 1)), 5)


def dense_update(use: Use) -> tuple[Array, ...]:
    """w -= rate * gradient."""
    x, dy = (_double(use, i).reshape(-1, use.value(i).shape[-1]) for i in (0, 1))
    return _step(use, 2, _restored(use, 5, dy.T @ x), 6)


def head_update(use: Use) -> tuple[Array, ...]:
    """w -= rate * gradient."""
    x = _double(use, 0)
    dy = _map_grad(_double(use, 1), use.value(2), x.shape[1] * x.shape[2])
    flat = x.reshape(-1, x.shape[-1])
    return _step(use, 3, _restored(use, 6, dy.reshape(len(flat), -1).T @ flat), 7)


def bias_update(use: Use) -> tuple[Array, ...]:
    """b -= rate * gradient."""
    dy = _double(use, 0)
    return _step(use, 1, dy.reshape(-1, dy.shape[-1]).sum(axis=0))


def head_bias_update(use: Use) -> tuple[Array, ...]:
    """b -= rate * gradient."""
    h, w = use.attr("size")
    return _step(use, 2, _map_grad(_double(use, 0), use.value(1), h * w).sum(axis=(0, 1)))
