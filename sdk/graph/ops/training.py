"""The ops of a training step on a microcontroller: float32 layers behind an int8 prefix, their gradients, and updates in place.

w is float32, or int8 with one scale or one per output channel (zero point 0) that is turned into real numbers while it is read; constant or
a variable. Images are NHWC, w is [O, KH, KW, C], a depthwise w [1, KH, KW, C], a dense one [O, I]. "?": may be absent ("" in the middle).

| forward | gives | attributes |
|---|---|---|
| train_conv2d(x, w, b?, z?, p?) | y = act(x * w + z * p + b); z [N, H, W, K] and p [O, KH, KW, K] are an adapter's | stride, dilation, padding, activation |
| train_depthwise(x, w, b?) | y [N, OH, OW, C] | stride, dilation, padding, activation |
| train_dense(x, w, b?, z?, p?) | y [..., O]; z [..., K], p [O, K] | activation |
| train_head(x, w, b?, z?, p?) | pooled [N, O], mask: 1x1 convolution, activation and mean over all pixels, the map is never held | activation relu or relu6 |
| pack_mask(y) | uint8 [ceil(size / 8)]: bit i is 1 where the activation let value i through (0 < y, and y < 6) | activation relu or relu6 |
| mode_product(x, u) | x [.., D, ..] times u [K, D] along `axis` -> [.., K, ..]; `transpose`: x has K there and the result D | axis, transpose |
| softmax_cross_entropy(logits, label) | loss [1], gradient [N, C]; means over N; label int32 [N] | |

| backward | gives | attributes |
|---|---|---|
| mask_grad(dy, mask) | dy where the bit is 1, else 0 (in place where dy dies) | |
| train_conv2d_grad(dy, w, add?) | gradient of x [N, H, W, C], plus `add` (in place where that dies) | stride, dilation, padding, size = (H, W) |
| train_depthwise_grad(dy, w, add?) | the same | the same |
| train_dense_grad(dy, w, add?) | gradient of x [..., I] | |
| train_head_grad(dy, mask, w, add?) | gradient of x [N, H, W, C] from dy [N, O] | size = (H, W) |
| mean_grad(dy) | dy / (H W) at every pixel [N, H, W, C]: backward of a mean over H and W; dy [N, C] or [N, 1, 1, C] | size = (H, W) |

| update, no output | changes | attributes |
|---|---|---|
| train_conv2d_update(x, dy, w, hyper, velocity?, u?, counter?) | w, velocity, counter | stride, dilation, padding |
| train_depthwise_update(x, dy, w, hyper, velocity?, counter?) | the same | stride, dilation, padding |
| train_dense_update(x, dy, w, hyper, velocity?, u?, counter?) | the same | |
| train_head_update(x, dy, mask, w, hyper, velocity?, u?, counter?) | the same | |
| bias_update(dy, b, hyper, velocity?) | b, velocity; dy [..., O] is summed over all but the last dimension | |
| head_bias_update(dy, mask, b, hyper, velocity?) | b, velocity; dy [N, O] | size = (H, W) |

* An adapter W + P U^T: z = train_conv2d(x, u) with u [K, 1, 1, C]; y = train_conv2d(x, w, b, z, p). Backward: dz = train_conv2d_grad(dy, p);
  dx = train_conv2d_grad(dy, w), then train_conv2d_grad(dz, u, add=dx). Update: train_conv2d_update(z, dy, p, hyper). Dense: the same with u [K, I].
* A fixed subspace: keep z as above in x's place; train_conv2d_update(z, dy, w, hyper, "", u) with the same u ([K, C] or [K, 1, 1, C])
  brings the gradient back to all C channels.
  Rows and columns: mode_product with u_h, u_w when storing, and with `transpose` just before the update.
* hyper float32 [4] = {learning rate, momentum, 0, 0}. With a velocity: v = momentum v + g, w -= rate v; without: w -= rate g.
* Gradients need w as it was: put *_grad before *_update. Order of nodes is kept between readers and updates of a variable.
* int8 w that learns: steps are taken in real numbers, q -= rate g / s, which is a gradient for q times s^-2 (the quantisation-aware scaling of
  Lin et al., On-Device Training Under 256KB Memory, 2022). Biases stay float32 and need no such factor. Rounding is stochastic, so steps
  smaller than half a unit move w by the right amount on average: floor(q - step + noise), noise in [0, 1) from a hash of the weight's index
  and `counter` (int32 [1], a variable each such update owns and raises by one), so that a run can be repeated exactly.
* Bits of a mask: value i is bit i % 8 of byte i // 8, in NHWC order; those of train_head in channel order, value (n O + o) H W + pixel.
"""

from __future__ import annotations

import math

from sdk.graph.ops import training_math as tm
from sdk.graph.ops.base import Meaning, Op, Shape, Use, same_shape
from sdk.graph.ops.conv import depthwise_shape

_ACTIVATIONS = ("none", "relu", "relu6")


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


# ---- constraints ---------------------------------------------------------------------------------------------------


def weights_are_symmetric(use: Use) -> str | None:
    """int8 weights have zero point 0 and one scale, or one per output channel."""
    for tensor in use.inputs:
        if tensor is not None and tensor.dtype == "int8" and tensor.quant is not None:
            axis = 3 if "depthwise" in use.node.op else 0
            if any(tensor.quant.zero_point) or tensor.quant.axis not in (None, axis):
                return f"its int8 weight {tensor.name} has a zero point, or scales not along axis {axis}; quantise it symmetrically per output channel"
    return None


def activation_is_known(use: Use) -> str | None:
    """The activation is none, relu or relu6; a mask and train_head want relu or relu6."""
    known = _ACTIVATIONS if use.node.op in ("train_conv2d", "train_depthwise", "train_dense") else _ACTIVATIONS[1:]
    activation = use.node.attrs.get("activation", "none")
    return None if activation in known else f"its activation is {activation!r}; known here are {', '.join(known)}"


_WINDOW = {"stride": "(h, w)", "dilation": "(h, w)", "padding": "((top, bottom), (left, right))"}
_ACTIVATION = {"activation": "none, relu or relu6"}
_SIZE = {"size": "(H, W) of the gradient"}
_CHECKS = (weights_are_symmetric, activation_is_known)


def _f32(meaning: Meaning) -> dict[str, Meaning]:
    return {"float32": meaning}


def _mask_dtype(use: Use) -> str:
    return "uint8"


_W = (weights_are_symmetric,)
OPS = (
    Op("train_conv2d", "Convolution x * w + b in float32, plus an adapter's z * p; w may be int8.", ("x", "w", "b?", "z?", "p?"), conv2d_shape,
       _f32(tm.conv2d), attrs={**_WINDOW, **_ACTIVATION}, constraints=_CHECKS),
    Op("train_depthwise", "Each channel of x with its own filter w [1, KH, KW, C] in float32; w may be int8.", ("x", "w", "b?"), depthwise,
       _f32(tm.depthwise), attrs={**_WINDOW, **_ACTIVATION}, constraints=_CHECKS),
    Op("train_dense", "x times the transpose of w [O, I] plus b in float32, plus an adapter's z p^T; w may be int8.", ("x", "w", "b?", "z?", "p?"),
       dense_shape, _f32(tm.dense), attrs=_ACTIVATION, constraints=_CHECKS),
    Op("train_head", "1x1 convolution, activation and mean over the image in one, with the activation's mask.", ("x", "w", "b?", "z?", "p?"),
       same_shape, _f32(tm.head), attrs={"activation": "relu or relu6"}, constraints=_CHECKS, results=head_results),
    Op("pack_mask", "Where a relu or relu6 let its input through, a bit a value.", ("y",), mask_shape, _f32(tm.pack_mask), dtype=_mask_dtype,
       attrs={"activation": "relu or relu6"}, constraints=(activation_is_known,)),
    Op("mode_product", "x times a matrix u [K, D] along one axis.", ("x", "u"), mode_shape, _f32(tm.mode_product),
       attrs={"axis": "counted from 0", "transpose": "from K to D"}),
    Op("softmax_cross_entropy", "Loss and gradient of logits [N, C] against labels int32 [N].", ("logits", "label"), same_shape,
       _f32(tm.softmax_cross_entropy), results=loss_results),
    Op("mask_grad", "A gradient, 0 where the mask's bit is 0.", ("dy", "mask"), mask_grad_shape, _f32(tm.mask_grad)),
    Op("train_conv2d_grad", "Gradient of a convolution's input, plus `add`.", ("dy", "w", "add?"), conv2d_grad_shape, _f32(tm.conv2d_grad),
       attrs={**_WINDOW, **_SIZE}, constraints=_W),
    Op("train_depthwise_grad", "Gradient of a depthwise convolution's input, plus `add`.", ("dy", "w", "add?"), depthwise_grad_shape,
       _f32(tm.depthwise_grad), attrs={**_WINDOW, **_SIZE}, constraints=_W),
    Op("train_dense_grad", "Gradient of a dense layer's input, plus `add`.", ("dy", "w", "add?"), dense_grad_shape, _f32(tm.dense_grad), constraints=_W),
    Op("train_head_grad", "Gradient of train_head's input, plus `add`.", ("dy", "mask", "w", "add?"), head_grad_shape, _f32(tm.head_grad),
       attrs=_SIZE, constraints=_W),
    Op("mean_grad", "Gradient of the input of a mean over height and width.", ("dy",), mean_grad_shape, _f32(tm.mean_grad), attrs=_SIZE),
    Op("train_conv2d_update", "Takes a step of w against its gradient.", ("x", "dy", "w", "hyper", "velocity?", "u?", "counter?"), same_shape,
       _f32(tm.conv2d_update), attrs=_WINDOW, constraints=_W, results=conv2d_update_results, updates=(2, 4, 6)),
    Op("train_depthwise_update", "Takes a step of a depthwise w against its gradient.", ("x", "dy", "w", "hyper", "velocity?", "counter?"), same_shape,
       _f32(tm.depthwise_update), attrs=_WINDOW, constraints=_W, results=depthwise_update_results, updates=(2, 4, 5)),
    Op("train_dense_update", "Takes a step of a dense w against its gradient.", ("x", "dy", "w", "hyper", "velocity?", "u?", "counter?"), same_shape,
       _f32(tm.dense_update), constraints=_W, results=dense_update_results, updates=(2, 4, 6)),
    Op("train_head_update", "Takes a step of train_head's w against its gradient.", ("x", "dy", "mask", "w", "hyper", "velocity?", "u?", "counter?"),
       same_shape, _f32(tm.head_update), constraints=_W, results=head_update_results, updates=(3, 5, 7)),
    Op("bias_update", "Takes a step of a bias against its gradient.", ("dy", "b", "hyper", "velocity?"), same_shape, _f32(tm.bias_update),
       results=bias_update_results, updates=(1, 3)),
    Op("head_bias_update", "Takes a step of train_head's bias against its gradient.", ("dy", "mask", "b", "hyper", "velocity?"), same_shape,
       _f32(tm.head_bias_update), attrs=_SIZE, results=head_bias_results, updates=(2, 4)),
)  # fmt: skip
