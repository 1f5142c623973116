"""One small torch module per ATen op and form of it that the importer knows, and those it must refuse to guess at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

aten = torch.ops.aten
Shape = tuple[int, ...]
IMAGE, SIGNAL, ROWS = (2, 4, 7, 6), (2, 4, 11), (3, 5)


class Of(nn.Module):
    """A function as a module; `buffers` become its attributes' values, given behind the inputs."""

    def __init__(self, function: Callable[..., Any], *buffers: Tensor) -> None:
        super().__init__()
        self.function, self.count = function, len(buffers)
        for index, value in enumerate(buffers):
            self.register_buffer(f"buffer{index}", value)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs, *(getattr(self, f"buffer{i}") for i in range(self.count)))


def _norm(layer: nn.Module) -> nn.Module:
    """Statistics and factors that are not 0 and 1."""
    for tensor in (*layer.parameters(), *(b for b in layer.buffers() if b.is_floating_point())):
        nn.init.uniform_(tensor, 0.5, 1.5)
    return layer


def _bn_legit(x: Tensor, *p: Tensor) -> Tensor:
    return aten._native_batch_norm_legit_no_training(x, *p, 0.1, 1e-3)[0]


def _convolution(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return aten.convolution(x, w, b, [1, 2], [1, 0], [1, 1], False, [0, 0], 2)


def _transposed(x: Tensor, w: Tensor) -> Tensor:
    return aten.convolution(x, w, None, [2, 1], [1, 0], [1, 1], True, [1, 0], 2)


def _positive(count: int, size: int = 4) -> list[Tensor]:
    return [torch.rand(size) + 0.5 for _ in range(count)]


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[Shape, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, 2, 1, 2), (SIGNAL,)),
    "conv1d groups": (lambda: nn.Conv1d(4, 4, 3, groups=4), (SIGNAL,)),
    "conv1d without batch": (lambda: nn.Conv1d(4, 6, 3), ((4, 11),)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), (1, 2), (2, 1)), (IMAGE,)),
    "conv2d same": (lambda: nn.Conv2d(4, 6, (3, 2), padding="same", dilation=(1, 2)), (IMAGE,)),
    "conv2d valid": (lambda: nn.Conv2d(4, 6, 3, padding="valid", bias=False), (IMAGE,)),
    "conv2d groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (IMAGE,)),
    "conv2d depthwise": (lambda: nn.Conv2d(4, 8, 3, 2, 1, groups=4), (IMAGE,)),
    "conv2d without batch": (lambda: nn.Conv2d(4, 6, 3), ((4, 7, 6),)),
    "convolution": (lambda: Of(_convolution, torch.randn(6, 2, 3, 3), torch.randn(6)), (IMAGE,)),
    "convolution transposed": (lambda: Of(_transposed, torch.randn(4, 3, 3, 2)), (IMAGE,)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(4, 6, 4, 2, 1), (SIGNAL,)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), (IMAGE,)),
    "conv_transpose2d groups": (lambda: nn.ConvTranspose2d(4, 6, (2, 3), (3, 2), (0, 1), (1, 0), 2), (IMAGE,)),
    "conv_transpose2d cut": (lambda: nn.ConvTranspose2d(4, 2, 2, 1, 1, dilation=(1, 2)), (IMAGE,)),
    "linear": (lambda: nn.Linear(5, 4), (ROWS,)),
    "linear without bias": (lambda: nn.Linear(6, 4, bias=False), (IMAGE,)),
    "batch_norm": (lambda: _norm(nn.BatchNorm2d(4, eps=1e-2)), (IMAGE,)),
    "batch_norm 1-D": (lambda: _norm(nn.BatchNorm1d(4)), (SIGNAL,)),
    "batch_norm of rows": (lambda: _norm(nn.BatchNorm1d(5)), (ROWS,)),
    "batch_norm plain": (lambda: _norm(nn.BatchNorm2d(4, affine=False)), (IMAGE,)),
    "batch_norm decomposed": (lambda: Of(_bn_legit, *_positive(4)), (IMAGE,)),
    "layer_norm": (lambda: _norm(nn.LayerNorm(6)), (IMAGE,)),
    "layer_norm of two": (lambda: _norm(nn.LayerNorm((7, 6), elementwise_affine=True)), (IMAGE,)),
    "layer_norm plain": (lambda: nn.LayerNorm(5, elementwise_affine=False), (ROWS,)),
    "group_norm": (lambda: _norm(nn.GroupNorm(2, 4)), (IMAGE,)),
    "instance-like": (lambda: nn.GroupNorm(4, 4, affine=False), (IMAGE,)),
    "prelu": (lambda: nn.PReLU(4), (IMAGE,)),
    "prelu of one": (lambda: nn.PReLU(), (ROWS,)),
    "prelu decomposed": (lambda: Of(lambda x, w: aten._prelu_kernel(x, w), torch.rand(1, 4, 1, 1)), (IMAGE,)),
    "max_pool1d": (lambda: nn.MaxPool1d(3, 2, 1), (SIGNAL,)),
    "max_pool2d": (lambda: nn.MaxPool2d((2, 3), 2, (1, 0)), (IMAGE,)),
    "max_pool2d ceil": (lambda: nn.MaxPool2d(3, 2, ceil_mode=True), (IMAGE,)),
    "max_pool2d with indices": (lambda: Of(lambda x: aten.max_pool2d_with_indices(x, [2, 2], [1, 2])[0]), (IMAGE,)),
    "avg_pool1d": (lambda: nn.AvgPool1d(3, 2, 1), (SIGNAL,)),
    "avg_pool2d": (lambda: nn.AvgPool2d(3, 2, 1), (IMAGE,)),
    "avg_pool2d inside": (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), (IMAGE,)),
    "avg_pool2d ceil": (lambda: nn.AvgPool2d(3, 2, ceil_mode=True), (IMAGE,)),
    "avg_pool2d ceil inside": (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (IMAGE,)),
    "adaptive_avg_pool1d": (lambda: nn.AdaptiveAvgPool1d(1), (SIGNAL,)),
    "adaptive_avg_pool2d": (lambda: nn.AdaptiveAvgPool2d((7, 2)), (IMAGE,)),
    "adaptive_avg_pool2d decomposed": (lambda: Of(lambda x: aten._adaptive_avg_pool2d(x, [1, 3])), (IMAGE,)),
    "adaptive_max_pool1d": (lambda: nn.AdaptiveMaxPool1d(1), (SIGNAL,)),
    "adaptive_max_pool2d": (lambda: nn.AdaptiveMaxPool2d((1, 3)), (IMAGE,)),
    "upsample_nearest2d": (lambda: nn.Upsample(scale_factor=(2, 3)), (IMAGE,)),
    "upsample_nearest2d size": (lambda: nn.Upsample(size=(5, 13)), (IMAGE,)),
    "upsample_bilinear2d": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), (IMAGE,)),
    "upsample_bilinear2d corners": (lambda: nn.Upsample(size=(9, 4), mode="bilinear", align_corners=True), (IMAGE,)),
    "embedding of computed indices": (lambda: nn.Sequential(Of(lambda x: (x * 0).to(torch.int64) + 2), nn.Embedding(5, 3)), (ROWS,)),
}

MATH: dict[str, tuple[Callable[..., Any], tuple[Shape, ...]]] = {
    "add": (lambda x, y: torch.add(x, y, alpha=2), (IMAGE, (6,))),
    "sub": (lambda x, y: torch.sub(x, y, alpha=0.5), (IMAGE, (7, 1))),
    "mul": (lambda x: x * 3, (ROWS,)),
    "mul of integers": (lambda x: (x.to(torch.int32) * 3).to(torch.float32), (ROWS,)),
    "mixed types": (lambda x: x + torch.tensor([1, 2, 3, 4, 5]), (ROWS,)),
    "div": (lambda x, y: x / (y.abs() + 1), (ROWS, ROWS)),
    "true_divide": (lambda x: torch.true_divide(x, 3), (ROWS,)),
    "multiply": (lambda x: aten.multiply(x, x), (ROWS,)),
    "subtract": (lambda x: aten.subtract(x, x * 2), (ROWS,)),
    "divide": (lambda x: aten.divide(x, 2.5), (ROWS,)),
    "maximum": (lambda x, y: torch.maximum(x, y), (ROWS, ROWS)),
    "minimum": (lambda x, y: torch.minimum(x, y), (ROWS, ROWS)),
    "rsub": (lambda x: aten.rsub(x, 2.0, 3), (ROWS,)),
    "1 - x": (lambda x: 1 - x, (ROWS,)),
    "in place": (lambda x: (x * 2).add_(1).relu_(), (ROWS,)),
    "pow": (lambda x: (x**2, x**3, (x.abs() + 1) ** 0.5, (x.abs() + 1) ** -0.5, (x.abs() + 1) ** -1, x**1), (ROWS,)),
    "square": (lambda x: torch.square(x), (ROWS,)),
    "reciprocal": (lambda x: torch.reciprocal(x.abs() + 1), (ROWS,)),
    **{f.__name__: (f, (ROWS,)) for f in (torch.relu, torch.sigmoid, torch.tanh, torch.exp, torch.abs, torch.neg, torch.negative, torch.absolute)},
    "roots": (lambda x: (torch.log(x.abs() + 0.5), torch.sqrt(x.abs()), torch.rsqrt(x.abs() + 0.5)), (ROWS,)),
    "relu6": (lambda x: aten.relu6(x * 5), (ROWS,)),
    "silu": (F.silu, (ROWS,)),
    "hardswish": (lambda x: F.hardswish(x * 3), (ROWS,)),
    "hardsigmoid": (lambda x: F.hardsigmoid(x * 3), (ROWS,)),
    "clamp": (lambda x: (x.clamp(-1, 1), x.clamp(-0.3, 0.7), x.clamp(min=0.2), x.clamp(max=-0.2), x.clamp(0, 6)), (ROWS,)),
    "clamp_min": (lambda x: (aten.clamp_min(x, 0), aten.clamp_max(x, 0.1), aten.clip(x, 0.0, 0.5)), (ROWS,)),
    "hardtanh": (lambda x: F.hardtanh(x * 2, -1.5, 0.5), (ROWS,)),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), (ROWS,)),
    "elu": (F.elu, (ROWS,)),
    "gelu": (lambda x: (F.gelu(x), F.gelu(x, approximate="tanh")), (ROWS,)),
    "softmax": (lambda x: (x.softmax(1), x.softmax(-1)), (IMAGE,)),
    "log_softmax": (lambda x: x.log_softmax(1), (IMAGE,)),
    "softmax decomposed": (lambda x: (aten._softmax(x, 2, False), aten._log_softmax(x, 3, False)), (IMAGE,)),
    "mean": (lambda x: (x.mean(), x.mean(1), x.mean((2, 3), keepdim=True)), (IMAGE,)),
    "sum": (lambda x: (x.sum(), x.sum((0, -1))), (IMAGE,)),
    "amax": (lambda x: (x.amax((1, 2)), x.amax(0, keepdim=True)), (IMAGE,)),
    "max": (lambda x: (x.max(), x.max(1).values, x.max(2, keepdim=True)[1]), (IMAGE,)),
    "max of two": (lambda x, y: (torch.max(x, y), torch.min(x, y)), (ROWS, ROWS)),
    "var": (lambda x: (x.var(1), x.var((2, 3), correction=0, keepdim=True), x.var(), x.var(1, unbiased=False)), (IMAGE,)),
    "std": (lambda x: x.std(-1), (IMAGE,)),
    "argmax": (lambda x: (x.argmax(1), x.argmax(-1, keepdim=True)), (IMAGE,)),
    "masked_fill": (lambda x: x.masked_fill(torch.tensor([True, False, False, True, False]), 2.0), (ROWS,)),
    "masked softmax": (lambda x: x.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), float("-inf")).softmax(-1), ((2, 5, 5),)),
    "where": (lambda x: torch.where(torch.tensor([True, False, False, True, False]), x, torch.tensor(0.5)), (ROWS,)),
    "where not": (lambda x: torch.where(torch.tensor([True, False, False, True, False]), torch.arange(5.0), x), (ROWS,)),
    "matmul": (lambda x, y: (x @ y, x[0, 0] @ y[0], x @ y[0, :, 0]), ((2, 3, 4), (2, 4, 5))),
    "vectors": (lambda x, y: x @ y, ((4,), (4,))),
    "mm": (lambda x, y: torch.mm(x, y), (ROWS, (5, 4))),
    "bmm": (lambda x, y: torch.bmm(x, y.transpose(1, 2)), ((2, 3, 4), (2, 5, 4))),
    "addmm": (lambda x, y: torch.addmm(x, y, y.t()), ((3, 3), ROWS)),
    "baddbmm": (lambda x, y, z: torch.baddbmm(x, y, z), ((2, 3, 5), (2, 3, 4), (2, 4, 5))),
    "attention": (lambda q, k: F.scaled_dot_product_attention(q, k, k, scale=0.3), ((1, 2, 4, 8), (1, 2, 6, 8))),
    "causal attention": (lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), ((1, 2, 5, 8),)),
    "masked attention": (lambda q: F.scaled_dot_product_attention(q, q, q, attn_mask=torch.eye(5, dtype=torch.bool)), ((1, 2, 5, 8),)),
    "biased attention": (lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=m), ((1, 2, 5, 8), (5, 5))),
}

BUFFERED: dict[str, tuple[Callable[..., Any], tuple[Shape, ...], Callable[[], tuple[Tensor, ...]]]] = {
    "dense of a constant": (lambda x, w: x @ w, (ROWS,), lambda: (torch.randn(5, 4),)),
    "constant on the left": (lambda x, w: w @ x, (ROWS,), lambda: (torch.randn(2, 3),)),
    "addmm of constants": (lambda x, w, b: torch.addmm(b, x, w), (ROWS,), lambda: (torch.randn(5, 4), torch.randn(4))),
    "mask in a buffer": (lambda q, m: F.scaled_dot_product_attention(q, q, q, attn_mask=m), ((1, 2, 5, 8),),
                         lambda: (torch.full((5, 5), float("-inf")).triu(1),)),
    "mask added": (lambda x, m: (x + m).softmax(-1), ((2, 5, 5),), lambda: (torch.full((5, 5), float("-inf")).triu(1),)),
    "where of some infinite": (lambda x, m: torch.where(torch.tensor([True, False, False, True, False]), x, m).softmax(-1), (ROWS,),
                               lambda: (torch.tensor([0.0, float("-inf"), 0.5, 0.0, float("-inf")]),)),
    "index_select": (lambda x, i: x.index_select(1, i), (IMAGE,), lambda: (torch.tensor([3, 0, 0]),)),
    "index": (lambda x, i: (x[:, i], x[:, :, i[:2]]), (IMAGE,), lambda: (torch.tensor([-1, 2, 0]),)),
    "lookup of inputs": (lambda x, t: F.embedding(x.argmax(1), t), (ROWS,), lambda: (torch.randn(5, 3),)),
}  # fmt: skip

MOVES: dict[str, tuple[Callable[..., Any], tuple[Shape, ...]]] = {
    "view": (lambda x: x.view(2, -1), (IMAGE,)),
    "reshape": (lambda x: x.transpose(1, 2).reshape(-1, 6), (IMAGE,)),
    "flatten": (lambda x: x.flatten(1), (IMAGE,)),
    "unflatten": (lambda x: x.unflatten(1, (2, 2)), (IMAGE,)),
    "unsqueeze": (lambda x: x.unsqueeze(1), (ROWS,)),
    "squeeze": (lambda x: (x.squeeze(), x.squeeze(0), x.squeeze(1)), ((1, 3, 1, 2),)),
    "_unsafe_view": (lambda x: aten._unsafe_view(x, [5, 3]), (ROWS,)),
    "view_as": (lambda x, y: (x.view_as(y), x.reshape_as(y)), (ROWS, (5, 3))),
    "_reshape_alias": (lambda x: aten._reshape_alias(x, [5, 3], [3, 1]), (ROWS,)),
    "contiguous": (lambda x: x.permute(0, 2, 3, 1).contiguous() * 2, (IMAGE,)),
    "clone": (lambda x: x.clone() + x.detach(), (ROWS,)),
    "alias": (lambda x: aten.alias(x) + aten.lift_fresh_copy(x), (ROWS,)),
    "dropout": (lambda x: F.dropout(x, 0.5, False) + aten.feature_dropout(x, 0.5, False) + aten.alpha_dropout(x, 0.5, False), (IMAGE,)),
    "to": (lambda x: x.to(torch.int32).to(torch.float32) + x.to(torch.float32), (ROWS,)),
    "_to_copy": (lambda x: aten._to_copy(x, dtype=torch.int32), (ROWS,)),
    "type_as": (lambda x: x.argmax(1).type_as(x), (ROWS,)),
    "transpose": (lambda x: (x.transpose(1, 3), x.swapaxes(0, -1), x.swapdims(-2, 1), x.mT), (IMAGE,)),
    "movedim": (lambda x: (x.movedim(1, -1), x.moveaxis((0, -1), (2, 0))), (IMAGE,)),
    "permute": (lambda x: x.permute(3, -3, 0, 2), (IMAGE,)),
    "t": (lambda x: (x.t(), x.T), (ROWS,)),
    "slice": (lambda x: (x[:, 1:3], x[..., ::2], x[:, -2:]), (IMAGE,)),
    "select": (lambda x: (x[1], x[:, -1], x.select(2, 3)), (IMAGE,)),
    "narrow": (lambda x: x.narrow(-1, 2, 3), (IMAGE,)),
    "split": (lambda x: (*x.split(3, 2), *x.split([1, 3], 1)), (IMAGE,)),
    "split_with_sizes": (lambda x: aten.split_with_sizes(x, [5, 2], 2)[1], (IMAGE,)),
    "chunk": (lambda x: x.chunk(2, 1), (IMAGE,)),
    "tensor_split": (lambda x: x.tensor_split(3, 2), (IMAGE,)),
    "unbind": (lambda x: x.unbind(1)[2], (IMAGE,)),
    "cat": (lambda x, y: (torch.cat([x, y], -1), torch.cat([x, torch.zeros(0), x * 2])), (ROWS, (3, 2))),
    "concat": (lambda x: (aten.concat([x, x]), torch.cat([x, x.argmax(1, keepdim=True)], 1)), (ROWS,)),
    "stack": (lambda x: (torch.stack([x, x + 1], -1), torch.stack([x, x], 0)), (ROWS,)),
    "expand": (lambda x: (x.expand(3, -1, 5), x.expand(2, 3, 4, 5)), ((3, 4, 1),)),
    "expand_as": (lambda x, y: x.expand_as(y), ((1, 5), ROWS)),
    "repeat": (lambda x: (x.repeat(2, 1), x.repeat(2, 1, 3)), (ROWS,)),
    "pad": (lambda x: (F.pad(x, (1, 2)), F.pad(x, (0, 1, 2, 0), value=1.5), F.pad(x, (-1, 1))), (IMAGE,)),
    "constant_pad_nd": (lambda x: aten.constant_pad_nd(x, [1, -1, 2, 0], 0.5), (IMAGE,)),
    "flip": (lambda x: x.flip(-1, 1), (IMAGE,)),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), ((1, 8, 3, 2),)),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), ((1, 2, 6, 4),)),
    "channel_shuffle": (lambda x: aten.channel_shuffle(x, 2), (IMAGE,)),
    "shapes only": (lambda x: (x + torch.zeros_like(x), x * torch.ones_like(x), x + x.new_zeros(5), x - torch.full_like(x, 0.5)), (ROWS,)),
    "known numbers": (lambda x: x + torch.arange(5) * torch.linspace(0, 1, 5), (ROWS,)),
}

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Shape, ...]]] = {
    **LAYERS,
    **{name: (lambda f=f: Of(f), shapes) for name, (f, shapes) in {**MATH, **MOVES}.items()},
    **{name: (lambda f=f, made=made: Of(f, *made()), shapes) for name, (f, shapes, made) in BUFFERED.items()},
}

#: Forms that the graph cannot express: each must become an opaque node of this name, never something else.
OPAQUE: dict[str, tuple[Callable[..., Any], tuple[Shape, ...], str]] = {
    "random": (lambda x: x + torch.randn(5), (ROWS,), "aten::randn"),
    "noise": (lambda x: x + torch.rand_like(x), (ROWS,), "aten::rand_like"),
    "dropout in training": (lambda x: F.dropout(x, 0.5, True), (ROWS,), "aten::dropout"),
    "circular padding": (lambda x: F.pad(x, (1, 1), mode="circular"), (SIGNAL,), "aten::pad"),
    "other powers": (lambda x: x.abs() ** 1.7, (ROWS,), "aten::pow"),
    "an unknown op": (lambda x: torch.erfinv(x.tanh()), (ROWS,), "aten::erfinv"),
    "cumulated": (lambda x: x.cumsum(1), (ROWS,), "aten::cumsum"),
    "weights computed": (lambda x, w: F.conv2d(x, w), (IMAGE, (3, 4, 2, 2)), "aten::conv2d"),
    "linear computed": (lambda x, w: F.linear(x, w), (ROWS, (2, 5)), "aten::linear"),
    "three dimensions": (lambda x: F.conv3d(x, torch.ones(2, 3, 2, 2, 2)), ((1, 3, 4, 4, 4),), "aten::conv3d"),
    "convolution of three dimensions": (lambda x: aten.convolution(x, torch.ones(2, 3, 2, 2, 2), None, [1, 1, 1], [0, 0, 0], [1, 1, 1], False, [0, 0, 0], 1),
                                        ((1, 3, 4, 4, 4),), "aten::convolution"),
    "bytes as another type": (lambda x: x.view(torch.int32).view(torch.float32) * 1.0, (ROWS,), "aten::view"),
    "mean of uneven bins": (lambda x: F.adaptive_avg_pool2d(x, (4, 4)), (IMAGE,), "aten::adaptive_avg_pool2d"),
    "dilated pool": (lambda x: F.max_pool2d(x, 2, dilation=2), (IMAGE,), "aten::max_pool2d"),
    "divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), (IMAGE,), "aten::avg_pool2d"),
    "elu of another slope": (lambda x: F.elu(x, 0.5), (ROWS,), "aten::elu"),
    "floor division": (lambda x: torch.div(x, 2, rounding_mode="floor"), (ROWS,), "aten::div"),
    "scaled addmm": (lambda x, y: torch.addmm(x, y, y.t(), beta=2), ((3, 3), ROWS), "aten::addmm"),
    "condition computed": (lambda x: torch.where(x > 0, x, x * 2), (ROWS,), "aten::where"),
    "mask computed": (lambda x: x.masked_fill(x > 0, 1.0), (ROWS,), "aten::masked_fill"),
    "indices of two": (lambda x: x[torch.tensor([0, 1]), torch.tensor([1, 2])], (IMAGE,), "aten::index"),
    "argmax of everything": (lambda x: x.argmax(), (ROWS,), "aten::argmax"),
    "minimum of everything": (lambda x: x.min(), (ROWS,), "aten::min"),
    "limits computed": (lambda x, y: x.clamp(y, y + 1), (ROWS, ROWS), "aten::clamp"),
    "half precision": (lambda x: x.half().float(), (ROWS,), "aten::to"),
}  # fmt: skip
