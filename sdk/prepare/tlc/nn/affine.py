"""What a run of linear ops computes, as one convolution: the algebra of merging.

    y = conv(pad(x, padding), weight, bias, stride, groups)

Two convolutions in a row are one of kernel k1 + (k2 - 1) * s1 and stride s1 * s2 (Fu et al., DepthShrinker, ICML 2022; Kim et al., ICML 2023, merge so too).
That holds to the last bit only where the second pads nothing: its zeros stand for values that the first would not have made zero. `exact` says so.
On the "meta" device the same functions give shapes without computing anything; they ask torch for nothing but empty tensors there, because its
arithmetic on that device loads a compiler first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdk.errors import UsageError


@dataclass(frozen=True, eq=False)
class Affine:
    """weight [O, I / groups, *kernel] float64, bias [O] float64; stride and padding for each axis of space.

    A linear layer has one axis of kernel 1. `blank`: only padding or cropping so far. `exact`: no inner padding was moved to the front.
    A negative padding crops.
    """

    weight: Tensor
    bias: Tensor
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    blank: bool = False
    exact: bool = True

    def __post_init__(self) -> None:
        axes = self.weight.ndim - 2
        if not len(self.stride) == len(self.padding) == axes or self.weight.shape[0] != len(self.bias) or self.weight.shape[0] % self.groups:
            shapes = f"weight {list(self.weight.shape)}, bias {list(self.bias.shape)}"
            raise UsageError(f"{shapes}, stride {self.stride}, padding {self.padding} and {self.groups} groups make no convolution")

    @property
    def kernel(self) -> tuple[int, ...]:
        """Size on each axis of space."""
        return tuple(self.weight.shape[2:])

    @property
    def inputs(self) -> int:
        """Channels read."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def pointwise(self) -> bool:
        """True when every output pixel reads one input pixel, the one at its own place."""
        return set(self.kernel) == {1} and set(self.stride) == {1} and set(self.padding) == {0}


def identity(channels: int, axes: int, device: str = "cpu") -> Affine:
    """x -> x, for x [N, channels, ...] with `axes` axes of space."""
    weight = torch.ones(channels, 1, *[1] * axes, dtype=torch.float64, device=device)
    return Affine(weight, torch.zeros(channels, dtype=torch.float64, device=device), (1,) * axes, (0,) * axes, channels, blank=True)


def padded(first: Affine, amounts: tuple[int, ...]) -> Affine:
    """`first`, then zero padding (a negative one crops) by `amounts` for each axis."""
    padding = tuple(p + a * s for p, a, s in zip(first.padding, amounts, first.stride, strict=True))
    kept = first.blank and all(p >= 0 or a <= 0 for p, a in zip(first.padding, amounts, strict=True))  # what was cropped is no zero
    return replace(first, padding=padding, exact=first.exact and (kept or all(a <= 0 for a in amounts)))


def then(first: Affine, second: Affine) -> Affine:
    """x -> second(first(x)) as one convolution, of as many groups as both allow."""
    before = padded(first, second.padding)
    if first.blank:
        return replace(second, padding=before.padding, exact=before.exact and second.exact)
    groups = math.gcd(first.groups, second.groups)
    kernel = tuple((k2 - 1) * s + k1 for k1, k2, s in zip(first.kernel, second.kernel, first.stride, strict=True))
    weight = _composed(first, second, groups, kernel)
    stride = tuple(a * b for a, b in zip(first.stride, second.stride, strict=True))
    return Affine(weight, _constants(first, second), stride, before.padding, groups, exact=before.exact and second.exact)


def _constants(first: Affine, second: Affine) -> Tensor:
    """[O]: what `second` makes of the bias of `first`, and its own."""
    if second.bias.is_meta:
        return second.bias
    passed = second.weight.flatten(2).sum(2)  # [O, C / groups of second]
    made = passed.view(second.groups, -1, passed.shape[1]) @ first.bias.view(second.groups, -1, 1)
    return second.bias + made.flatten()


def _composed(first: Affine, second: Affine, groups: int, kernel: tuple[int, ...]) -> Tensor:
    """weight [O, I / groups, *kernel] of both in a row.

    Each pixel of the second kernel lays a copy of the first, its stride apart: a transposed convolution of the second by the first. It runs
    group by group of the second where the first has no finer ones (a depthwise one after a dense one need not be made dense).
    """
    if first.weight.is_meta:
        return torch.empty(len(second.weight), first.inputs // groups, *kernel, dtype=first.weight.dtype, device="meta")
    parts = second.groups if groups == first.groups else groups
    left, right = regrouped(first.weight, first.groups, groups), regrouped(second.weight, second.groups, parts)
    transposed = F.conv_transpose2d if len(kernel) == 2 else F.conv_transpose1d
    columns = right.view(parts, -1, *right.shape[1:]).transpose(0, 1).flatten(1, 2)  # [O / parts, C, *k2]
    weight = transposed(columns, left, stride=first.stride, groups=parts)  # [O / parts, parts * I / groups, *kernel]
    return weight.view(len(weight), parts, -1, *kernel).transpose(0, 1).flatten(0, 1)


def regrouped(weight: Tensor, groups: int, fewer: int) -> Tensor:
    """The same convolution with `fewer` groups, which divide `groups`: [O, I / groups, *k] -> [O, I / fewer, *k]; what was apart is zero."""
    if groups == fewer:
        return weight
    outputs, inputs = weight.shape[:2]
    inside = groups // fewer
    if weight.is_meta:
        return torch.empty(outputs, inputs * inside, *weight.shape[2:], dtype=weight.dtype, device="meta")
    blocks = weight.view(fewer, inside, outputs // groups, 1, *weight.shape[1:])
    place = torch.eye(inside, dtype=weight.dtype, device=weight.device).view(1, inside, 1, inside, *[1] * (weight.ndim - 1))
    return (blocks * place).flatten(3, 4).flatten(0, 2)


def both(main: Affine, side: Affine) -> Affine | None:
    """x -> main(x) + side(x) as one convolution; None where the smaller kernel does not lie inside the larger one, or strides differ."""
    if main.stride != side.stride or main.weight.shape[0] != side.weight.shape[0] or main.inputs != side.inputs:
        return None
    shifts = [p - q for p, q in zip(main.padding, side.padding, strict=True)]
    rests = [k - j - shift for k, j, shift in zip(main.kernel, side.kernel, shifts, strict=True)]
    if min(shifts) < 0 or min(rests) < 0:
        swapped = max(shifts) <= 0 and max(rests) <= 0 and any((*shifts, *rests))
        return both(side, main) if swapped else None
    groups, exact = math.gcd(main.groups, side.groups), main.exact and side.exact
    if main.weight.is_meta:
        return Affine(regrouped(main.weight, main.groups, groups), main.bias, main.stride, main.padding, groups, exact=exact)
    ring = [amount for pair in zip(reversed(shifts), reversed(rests), strict=True) for amount in pair]
    weight = regrouped(main.weight, main.groups, groups) + F.pad(regrouped(side.weight, side.groups, groups), ring)
    return Affine(weight, main.bias + side.bias, main.stride, main.padding, groups, exact=exact)


def scaled(first: Affine, scale: Tensor, shift: Tensor) -> Affine:
    """`first`, then y * scale + shift channel by channel; scale, shift [O]."""
    if first.weight.is_meta:
        return replace(first, blank=False)
    factor = scale.view(-1, *[1] * (first.weight.ndim - 1))
    return replace(first, weight=first.weight * factor, bias=first.bias * scale + shift, blank=False)


def of_layer(layer: nn.Module, device: str = "cpu") -> Affine | None:
    """A convolution or a linear layer; None where its padding is not symmetric zeros."""
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
        return None
    weight = layer.weight.detach().to(device, torch.float64)
    bias = torch.zeros(len(weight), dtype=torch.float64, device=device) if layer.bias is None else layer.bias.detach().to(device, torch.float64)
    if isinstance(layer, nn.Linear):
        return Affine(weight[:, :, None], bias, (1,), (0,), 1)
    padding = _padding(layer)
    if padding is None:
        return None
    return Affine(_spread(weight, layer.dilation), bias, tuple(layer.stride), padding, layer.groups)


def _padding(layer: nn.Conv1d | nn.Conv2d) -> tuple[int, ...] | None:
    if layer.padding_mode != "zeros" and layer.padding not in ("valid", (0,) * len(layer.kernel_size)):
        return None
    if not isinstance(layer.padding, str):
        return tuple(layer.padding)
    spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if layer.padding == "valid":
        return (0,) * len(spans)
    return None if any(span % 2 for span in spans) else tuple(span // 2 for span in spans)


def _spread(weight: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """A dilated kernel with its zeros written out."""
    for axis, step in enumerate(dilation, 2):
        if step > 1:
            wide = list(weight.shape)
            wide[axis] = (wide[axis] - 1) * step + 1
            spread = torch.zeros(wide, dtype=weight.dtype, device=weight.device)
            index = torch.arange(0, wide[axis], step, device=weight.device)
            weight = spread.index_copy(axis, index, weight)
    return weight


def as_conv(value: Affine, like: Tensor) -> nn.Conv1d | nn.Conv2d:
    """The convolution, in the dtype and on the device of `like`; its padding must not be negative."""
    kind = nn.Conv2d if len(value.kernel) == 2 else nn.Conv1d
    layer = kind(value.inputs, len(value.weight), value.kernel, value.stride, value.padding, groups=value.groups, device="meta")  # type: ignore[arg-type]
    layer.weight, layer.bias = _parameter(value.weight, like), _parameter(value.bias, like)
    return layer


def as_linear(value: Affine, like: Tensor) -> nn.Linear:
    """The linear layer of a pointwise `value`."""
    layer = nn.Linear(value.inputs, len(value.weight), device="meta")
    layer.weight, layer.bias = _parameter(regrouped(value.weight, value.groups, 1).flatten(1), like), _parameter(value.bias, like)
    return layer


def _parameter(values: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(values.to(like.device, like.dtype).contiguous())
