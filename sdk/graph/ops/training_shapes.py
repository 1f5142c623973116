"""Shapes of the ops in training.py; each says what does not fit."""

from __future__ import annotations

import math

from sdk.graph.ops import training_math as tm
from sdk.graph.ops.base import Shape, Use
from sdk.graph.ops.conv import depthwise_shape


def _fits(use: Use, index: int, shape: Shape, what: str) -> None:
    """Input `index`, where it is given, has `shape`."""
    tensor = use.inputs[index] if index < len(use.inputs) else None
    if tensor is not None and tensor.shape != shape:
        raise use.wrong(f"{what} has shape {list(tensor.shape)}; it must be {list(shape)}")


def _image(use: Use, index: int = 0) -> Shape:
    shape = use.input(index).shape
    if len(shape) != 4:
        raise use.wrong(f"input {index} has shape {list(shape)}; it must be [N, H, W, C]")
    return shape


def _adapter_fits(use: Use, x: Shape, w: Shape) -> None:
    z, p = (use.inputs[i] if i < len(use.inputs) else None for i in (3, 4))
    if (z is None) != (p is None):
        raise use.wrong("it has only one of an adapter's two tensors; give both z and p, or neither")
    if z is not None:
        _fits(use, 3, (*x[:-1], z.shape[-1]), "z")
        _fits(use, 4, (*w[:-1], z.shape[-1]), "p")


def conv2d_shape(use: Use) -> Shape:
    """[N, OH, OW, O] of train_conv2d."""
    x, w = _image(use), _image(use, 1)
    if w[3] != x[3]:
        raise use.wrong(f"weight {list(w)} does not fit input {list(x)}; it must be [O, KH, KW, C]")
    _fits(use, 2, (w[0],), "bias")
    _adapter_fits(use, x, w)
    return (x[0], *tm.out_size(use, x[1:3], w[1:3]), w[0])


def depthwise(use: Use) -> Shape:
    """[N, OH, OW, C] of train_depthwise."""
    return depthwise_shape(Use(use.node.with_attrs(multiplier=1), use.inputs, use.outputs))


def dense_shape(use: Use) -> Shape:
    """[..., O] of train_dense."""
    x, w = use.input(0).shape, use.input(1).shape
    if len(w) != 2 or not x or x[-1] != w[1]:
        raise use.wrong(f"weight {list(w)} does not fit input {list(x)}; it must be [O, I] with I the input's last dimension")
    _fits(use, 2, (w[0],), "bias")
    _adapter_fits(use, x, w)
    return (*x[:-1], w[0])


def mask_bytes(values: int) -> int:
    """Bytes of a mask of so many values."""
    return -(-values // 8)


def head_results(use: Use) -> tuple[tuple[Shape, str], ...]:
    """pooled [N, O] and the mask of the map that is never held."""
    x, w = _image(use), _image(use, 1)
    if w[1:] != (1, 1, x[3]):
        raise use.wrong(f"weight {list(w)} does not fit input {list(x)}; it must be [O, 1, 1, C]")
    _fits(use, 2, (w[0],), "bias")
    _adapter_fits(use, x, w)
    return ((x[0], w[0]), "float32"), ((mask_bytes(math.prod(x[:3]) * w[0]),), "uint8")


def mask_shape(use: Use) -> Shape:
    """[ceil(size / 8)]."""
    return (mask_bytes(use.input(0).size),)


def mask_grad_shape(use: Use) -> Shape:
    """dy's shape."""
    _fits(use, 1, mask_shape(use), "mask")
    return use.input(0).shape


def mode_shape(use: Use) -> Shape:
    """x's shape with another number along the axis."""
    x, u, axis = use.input(0).shape, use.input(1).shape, int(use.attr("axis"))
    before, after = (0, 1) if use.node.attrs.get("transpose", False) else (1, 0)
    if not 0 <= axis < len(x) or len(u) != 2 or u[before] != x[axis]:
        raise use.wrong(f"matrix {list(u)} does not fit dimension {axis} of {list(x)}; give [K, D] and an axis counted from 0")
    return (*x[:axis], u[after], *x[axis + 1 :])


def loss_results(use: Use) -> tuple[tuple[Shape, str], ...]:
    """loss [1] and the gradient of the logits."""
    logits = use.input(0).shape
    if len(logits) != 2:
        raise use.wrong(f"its logits have shape {list(logits)}; they must be [N, classes]")
    _fits(use, 1, (logits[0],), "label")
    if use.input(1).dtype != "int32":
        raise use.wrong(f"its label is {use.input(1).dtype}; it must be int32, the index of the class")
    return ((1,), "float32"), (logits, "float32")


def conv2d_grad_shape(use: Use) -> Shape:
    """[N, H, W, C]."""
    dy, w, size = _image(use), _image(use, 1), tuple(use.attr("size"))
    _fits(use, 0, (dy[0], *tm.out_size(use, size, w[1:3]), w[0]), "dy")
    result = (dy[0], *size, w[3])
    _fits(use, 2, result, "add")
    return result


def depthwise_grad_shape(use: Use) -> Shape:
    """[N, H, W, C]."""
    dy, w, size = _image(use), _image(use, 1), tuple(use.attr("size"))
    _fits(use, 0, (dy[0], *tm.out_size(use, size, w[1:3]), w[3]), "dy")
    result = (dy[0], *size, w[3])
    _fits(use, 2, result, "add")
    return result


def dense_grad_shape(use: Use) -> Shape:
    """[..., I]."""
    dy, w = use.input(0).shape, use.input(1).shape
    if len(w) != 2 or not dy or dy[-1] != w[0]:
        raise use.wrong(f"weight {list(w)} does not fit dy {list(dy)}; it must be [O, I] with O the last dimension of dy")
    result = (*dy[:-1], w[1])
    _fits(use, 2, result, "add")
    return result


def head_grad_shape(use: Use) -> Shape:
    """[N, H, W, C]."""
    dy, w, size = use.input(0).shape, _image(use, 2), tuple(use.attr("size"))
    if len(dy) != 2 or w[:3] != (dy[1], 1, 1):
        raise use.wrong(f"weight {list(w)} does not fit dy {list(dy)}; they must be [O, 1, 1, C] and [N, O]")
    _fits(use, 1, (mask_bytes(math.prod(dy) * math.prod(size)),), "mask")
    result = (dy[0], *size, w[3])
    _fits(use, 3, result, "add")
    return result


def mean_grad_shape(use: Use) -> Shape:
    """[N, H, W, C]."""
    dy = use.input(0).shape
    if len(dy) < 2 or math.prod(dy[1:-1]) != 1:
        raise use.wrong(f"dy has shape {list(dy)}; it must be [N, C] or [N, 1, 1, C]")
    return (dy[0], *use.attr("size"), dy[-1])


def _state_fits(use: Use, weight: int, counter: int) -> None:
    """hyper, velocity and counter of an update whose weight is input `weight`; `counter` 0: it has none."""
    w = use.input(weight)
    _fits(use, weight + 1, (4,), "hyper")
    _fits(use, weight + 2, w.shape, "velocity")
    if w.dtype == "int8" and (not counter or counter >= len(use.inputs) or use.inputs[counter] is None):
        raise use.wrong("its weight is int8 and it has no counter; give it an int32 [1] variable of its own")
    if counter:
        _fits(use, counter, (1,), "counter")


def _channels(use: Use, index: int, x: Shape, depth: int) -> None:
    """x's last dimension is w's depth, or K where a basis u [K, depth] brings it back."""
    u = use.inputs[index] if index < len(use.inputs) else None
    if u is not None:
        _fits(use, index, (x[-1], *(1,) * (len(u.shape) - 2), depth), "u")
    elif x[-1] != depth:
        raise use.wrong(f"x has {x[-1]} channels and its weight {depth}; give a basis u [{x[-1]}, {depth}]")


def conv2d_update_results(use: Use) -> tuple[tuple[Shape, str], ...]:
    """Nothing."""
    x, w = _image(use), _image(use, 2)
    _channels(use, 5, x, w[3])
    _fits(use, 1, (x[0], *tm.out_size(use, x[1:3], w[1:3]), w[0]), "dy")
    _state_fits(use, 2, 6)
    return ()


def depthwise_update_results(use: Use) -> tuple[tuple[Shape, str], ...]:
    """Nothing."""
    x, w = _image(use), _image(use, 2)
    _fits(use, 2, (1, *w[1:3], x[3]), "weight")
    _fits(use, 1, (x[0], *tm.out_size(use, x[1:3], w[1:3]), x[3]), "dy")
    _state_fits(use, 2, 5)
    return ()


def dense_update_results(use: Use) -> tuple[tuple[Shape, str], ...]:
    """Nothing."""
    x, w = use.input(0).shape, use.input(2).shape
    _channels(use, 5, x, w[-1])
    _fits(use, 1, (*x[:-1], w[0]), "dy")
    _state_fits(use, 2, 6)
    return ()


def head_update_results(use: Use) -> tuple[tuple[Shape, str], ...]:
    """Nothing."""
    x, w = _image(use), _image(use, 3)
    _channels(use, 6, x, w[3])
    _fits(use, 1, (x[0], w[0]), "dy")
    _fits(use, 2, (mask_bytes(math.prod(x[:3]) * w[0]),), "mask")
    _state_fits(use, 3, 7)
    return ()


def bias_update_results(use: Use) -> tuple[tuple[Shape, str], ...]:
    """Nothing."""
    _fits(use, 1, use.input(0).shape[-1:], "bias")
    _state_fits(use, 1, 0)
    return ()


def head_bias_results(use: Use) -> tuple[tuple[Shape, str], ...]:
    """Nothing."""
    dy = use.input(0).shape
    _fits(use, 1, (mask_bytes(math.prod(dy) * math.prod(use.attr("size"))),), "mask")
    _fits(use, 2, dy[-1:], "bias")
    _state_fits(use, 2, 0)
    return ()
