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

from sdk.graph.ops import training_math as tm
from sdk.graph.ops import training_shapes as ts
from sdk.graph.ops.base import Meaning, Op, Use, same_shape

_ACTIVATIONS = ("none", "relu", "relu6")


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
    Op("train_conv2d", "Convolution x * w + b in float32, plus an adapter's z * p; w may be int8.", ("x", "w", "b?", "z?", "p?"), ts.conv2d_shape,
       _f32(tm.conv2d), attrs={**_WINDOW, **_ACTIVATION}, constraints=_CHECKS),
    Op("train_depthwise", "Each channel of x with its own filter w [1, KH, KW, C] in float32; w may be int8.", ("x", "w", "b?"), ts.depthwise,
       _f32(tm.depthwise), attrs={**_WINDOW, **_ACTIVATION}, constraints=_CHECKS),
    Op("train_dense", "x times the transpose of w [O, I] plus b in float32, plus an adapter's z p^T; w may be int8.", ("x", "w", "b?", "z?", "p?"),
       ts.dense_shape, _f32(tm.dense), attrs=_ACTIVATION, constraints=_CHECKS),
    Op("train_head", "1x1 convolution, activation and mean over the image in one, with the activation's mask.", ("x", "w", "b?", "z?", "p?"),
       same_shape, _f32(tm.head), attrs={"activation": "relu or relu6"}, constraints=_CHECKS, results=ts.head_results),
    Op("pack_mask", "Where a relu or relu6 let its input through, a bit a value.", ("y",), ts.mask_shape, _f32(tm.pack_mask), dtype=_mask_dtype,
       attrs={"activation": "relu or relu6"}, constraints=(activation_is_known,)),
    Op("mode_product", "x times a matrix u [K, D] along one axis.", ("x", "u"), ts.mode_shape, _f32(tm.mode_product),
       attrs={"axis": "counted from 0", "transpose": "from K to D"}),
    Op("softmax_cross_entropy", "Loss and gradient of logits [N, C] against labels int32 [N].", ("logits", "label"), same_shape,
       _f32(tm.softmax_cross_entropy), results=ts.loss_results),
    Op("mask_grad", "A gradient, 0 where the mask's bit is 0.", ("dy", "mask"), ts.mask_grad_shape, _f32(tm.mask_grad)),
    Op("train_conv2d_grad", "Gradient of a convolution's input, plus `add`.", ("dy", "w", "add?"), ts.conv2d_grad_shape, _f32(tm.conv2d_grad),
       attrs={**_WINDOW, **_SIZE}, constraints=_W),
    Op("train_depthwise_grad", "Gradient of a depthwise convolution's input, plus `add`.", ("dy", "w", "add?"), ts.depthwise_grad_shape,
       _f32(tm.depthwise_grad), attrs={**_WINDOW, **_SIZE}, constraints=_W),
    Op("train_dense_grad", "Gradient of a dense layer's input, plus `add`.", ("dy", "w", "add?"), ts.dense_grad_shape, _f32(tm.dense_grad), constraints=_W),
    Op("train_head_grad", "Gradient of train_head's input, plus `add`.", ("dy", "mask", "w", "add?"), ts.head_grad_shape, _f32(tm.head_grad),
       attrs=_SIZE, constraints=_W),
    Op("mean_grad", "Gradient of the input of a mean over height and width.", ("dy",), ts.mean_grad_shape, _f32(tm.mean_grad), attrs=_SIZE),
    Op("train_conv2d_update", "Takes a step of w against its gradient.", ("x", "dy", "w", "hyper", "velocity?", "u?", "counter?"), same_shape,
       _f32(tm.conv2d_update), attrs=_WINDOW, constraints=_W, results=ts.conv2d_update_results, updates=(2, 4, 6)),
    Op("train_depthwise_update", "Takes a step of a depthwise w against its gradient.", ("x", "dy", "w", "hyper", "velocity?", "counter?"), same_shape,
       _f32(tm.depthwise_update), attrs=_WINDOW, constraints=_W, results=ts.depthwise_update_results, updates=(2, 4, 5)),
    Op("train_dense_update", "Takes a step of a dense w against its gradient.", ("x", "dy", "w", "hyper", "velocity?", "u?", "counter?"), same_shape,
       _f32(tm.dense_update), constraints=_W, results=ts.dense_update_results, updates=(2, 4, 6)),
    Op("train_head_update", "Takes a step of train_head's w against its gradient.", ("x", "dy", "mask", "w", "hyper", "velocity?", "u?", "counter?"),
       same_shape, _f32(tm.head_update), constraints=_W, results=ts.head_update_results, updates=(3, 5, 7)),
    Op("bias_update", "Takes a step of a bias against its gradient.", ("dy", "b", "hyper", "velocity?"), same_shape, _f32(tm.bias_update),
       results=ts.bias_update_results, updates=(1, 3)),
    Op("head_bias_update", "Takes a step of train_head's bias against its gradient.", ("dy", "mask", "b", "hyper", "velocity?"), same_shape,
       _f32(tm.head_bias_update), attrs=_SIZE, results=ts.head_bias_results, updates=(2, 4)),
)  # fmt: skip
