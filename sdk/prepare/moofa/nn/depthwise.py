"""Depthwise convolution whose weight gradient does not stall on small pictures.

Where a picture has few more pixels than the kernel has taps, a CPU library's weight gradient costs as much as on a picture four times
as large: 40 times the layer's forward pass at 4x4 pixels and a 7x7 kernel. A product of all pixels with all pixels costs little there.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

#: Pictures of up to so many pixels, and kernels of at least so many taps a side, take the product.
PIXELS, TAPS = 16, 5


def depthwise(x: Tensor, weight: Tensor, stride: int = 1) -> Tensor:
    """x [N, C, H, W], weight [C, 1, K, K] -> [N, C, H', W'], padded by K // 2; differentiable once."""
    size = weight.shape[-1]
    if x.device.type == "cpu" and size >= TAPS and x.shape[-2] * x.shape[-1] <= PIXELS and not torch.is_autocast_enabled("cpu"):
        return cast(Tensor, _Depthwise.apply(x, weight, stride))
    return F.conv2d(x, weight, None, stride, size // 2, 1, x.shape[1])


def weight_gradient(x: Tensor, gradient: Tensor, size: int, stride: int) -> Tensor:
    """x [N, C, H, W], gradient [N, C, H', W'] of the answer -> [C, 1, size, size]."""
    count, channels, height, width = x.shape
    rows, columns = gradient.shape[2:]
    pad, pixels = size // 2, rows * columns
    left, right = x.permute(1, 2, 3, 0).contiguous(), gradient.permute(1, 0, 2, 3).contiguous()  # else copied slice by slice
    pairs = torch.bmm(left.view(channels, height * width, count), right.view(channels, count, pixels))
    padded = F.pad(pairs.view(channels, height, width, pixels), (0, 0, pad, pad, pad, pad))
    across, down = pixels, pixels * (width + 2 * pad)  # from a pixel of x to its neighbours
    taps = padded.as_strided((channels, size, size, rows, columns), (down * (height + 2 * pad), down, across, stride * down + columns, stride * across + 1))
    return taps.sum((3, 4)).unsqueeze(1)


class _Depthwise(torch.autograd.Function):
    """`depthwise` with `weight_gradient`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, x.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        size = weight.shape[-1]
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, [ctx.stride] * 2, [size // 2] * 2, [1, 1], False, [0, 0], x.shape[1], [True, False, False])[0]  # fmt: skip
        if ctx.needs_input_grad[1]:
            to_weight = weight_gradient(x, gradient, size, ctx.stride)
        return to_x, to_weight, None
