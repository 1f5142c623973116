"""Convolution forward and both its gradients. The weight gradient works on a compressed input and never makes the whole input again.

Equations as in arXiv 2411.06346, with the padding, stride, dilation and groups that its code does not serve.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from sdk.training.nn.modes import channels_last, cross, expand, mode_product, project, weight_grad_by_onednn
from sdk.training.nn.saved import Saved

#: Values of an input that are made again at once where a weight gradient needs them (k x k kernels): 4 MiB of float32.
CHUNK = 1 << 20

Kernel = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """How a convolution walks over its input. padding: (top, bottom, left, right)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def even(self) -> tuple[int, int]:
        """The padding that both sides have: (rows, columns). What torch's convolution adds by itself, without a copy."""
        top, bottom, left, right = self.padding
        return min(top, bottom), min(left, right)

    @property
    def extra(self) -> tuple[int, int, int, int]:
        """What is left to add beside `even`, in the order of torch's pad: (left, right, top, bottom)."""
        (top, bottom, left, right), (rows, columns) = self.padding, self.even
        return left - columns, right - columns, top - rows, bottom - rows


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """y [B, O, H', W'] of x [B, C, H, W] and weight [O, C / groups, kh, kw]."""
    return F.conv2d(_padded(x, geometry), weight, bias, geometry.stride, geometry.even, geometry.dilation, geometry.groups)


def conv_input_grad(dy: Tensor, weight: Tensor, shape: torch.Size, geometry: Geometry) -> Tensor:
    """dx of `shape` [B, C, H, W]: exact, from dy [B, O, H', W'] and the weight alone."""
    left, right, top, bottom = geometry.extra
    sizes = (shape[2] + top + bottom, shape[3] + left + right)
    rest = [
        size - (steps - 1) * stride + 2 * even - dilation * (tap - 1) - 1
        for size, steps, stride, even, dilation, tap in zip(
            sizes, dy.shape[2:], geometry.stride, geometry.even, geometry.dilation, weight.shape[2:], strict=True
        )
    ]
    # torch's own convolution_backward wants the input for its sizes and order alone; a transposed convolution does not, and is as fast
    dx = F.conv_transpose2d(dy, weight, None, geometry.stride, geometry.even, rest, geometry.groups, geometry.dilation)
    return dx[:, :, top : top + shape[2], left : left + shape[3]] if any(geometry.extra) else dx


def conv_bias_grad(dy: Tensor) -> Tensor:
    """[O]: dy summed over samples and positions."""
    if channels_last(dy):
        return dy.sum((0, 2, 3))
    return dy.sum(0).sum((1, 2))  # samples first: torch sums a few positions at a time ten times slower


def conv_weight_grad(saved: Saved, dy: Tensor, geometry: Geometry, kernel: Kernel) -> Tensor:
    """[O, C / groups, kh, kw] from what was kept of the input and dy [B, O, H', W']."""
    batch, channels, rows, columns = saved.bases()
    core = saved.core()
    if batch is not None:
        dy = mode_product(dy, batch, 0)
    if kernel == (1, 1) and geometry.groups == 1 and _core_is_dearer(core, rows, columns, dy):
        reduced = _pointwise(core, rows, columns, saved.shape, dy, geometry)
    elif channels is not None and geometry.groups == channels.shape[0] and _chain_is_cheaper(core, saved.shape, dy, kernel):
        reduced = _by_chunks(core, (None, None, rows, columns), saved.shape, dy, replace(geometry, groups=1), kernel)  # [O, K, kh, kw]
        rows_of = channels.repeat_interleave(dy.shape[1] // channels.shape[0], 0)  # [O, K]
        return torch.einsum("okuv,ok->ouv", reduced, rows_of)[:, None]
    else:
        spread = channels if geometry.groups > 1 else None
        reduced = _by_chunks(core, (None, spread, rows, columns), saved.shape, dy, geometry, kernel)
    if channels is None or geometry.groups > 1:
        return reduced
    if kernel == (1, 1):
        return (reduced.flatten(1) @ channels.t())[:, :, None, None]
    return torch.einsum("okuv,ck->ocuv", reduced, channels)


def _chain_is_cheaper(core: Tensor, shape: torch.Size, dy: Tensor, kernel: Kernel) -> bool:
    """Depthwise: whether the gradient of all channels by all components [O, K, kh, kw] is sooner made than the input's channels.

    Measured with torch 2.13: making a value of the input and reading it costs about 24 products; on tiny maps depthwise kernels crawl.
    """
    k, positions = core.shape[1], dy.shape[2] * dy.shape[3]
    return positions <= 4 or k * kernel[0] * kernel[1] * positions <= (k + 24) * shape[2] * shape[3]


def _core_is_dearer(core: Tensor, rows: Tensor | None, columns: Tensor | None, dy: Tensor) -> bool:
    """Whether it takes more products to spread the core [.., K, ..] over the positions than to bring dy [.., O, ..] to the core's subspaces."""
    if rows is None and columns is None:
        return False
    (o, k), small, full = (dy.shape[1], core.shape[1]), core.shape[2] * core.shape[3], dy.shape[2] * dy.shape[3]
    taps = sum(basis.shape[1] for basis in (rows, columns) if basis is not None)
    return k * full * taps + o * k * full > o * full * taps + o * k * small


def _pointwise(core: Tensor, rows: Tensor | None, columns: Tensor | None, shape: torch.Size, dy: Tensor, geometry: Geometry) -> Tensor:
    """[O, K, 1, 1] of a 1 x 1 kernel: dy goes to the core's subspaces instead of the core to dy's positions."""
    taps = [
        _tap(basis, shape[n], dy, n, geometry.stride[n - 2], geometry.padding[2 * (n - 2)]) for n, basis in ((2, rows), (3, columns))
    ]
    return cross(project(dy, (None, None, *taps)), core)[:, :, None, None]


def _tap(basis: Tensor | None, size: int, dy: Tensor, mode: int, stride: int, before: int) -> Tensor | None:
    """[steps, K]: the rows of a padded basis that dy's positions along `mode` look at; None for all of an unpadded mode without a basis."""
    steps = dy.shape[mode]
    if stride == 1 and before == 0 and steps == size:
        return basis
    whole = torch.eye(size, dtype=dy.dtype) if basis is None else basis
    after = max(0, (steps - 1) * stride + 1 - before - size)
    return F.pad(whole, (0, 0, before, after))[: (steps - 1) * stride + 1 : stride].contiguous()


def _by_chunks(core: Tensor, bases: tuple[Tensor | None, ...], shape: torch.Size, dy: Tensor, geometry: Geometry, kernel: Kernel) -> Tensor:
    """[O, K / groups, kh, kw]: the core spread over the positions (and, with groups, the channels), a few samples at a time."""
    if all(basis is None for basis in bases) and (core.shape[0] == dy.shape[0]):
        return _weight_backward(core, dy, geometry, kernel)
    channels = core.shape[1] if bases[1] is None else bases[1].shape[0]
    step = max(1, CHUNK // (channels * shape[2] * shape[3]))
    if step >= core.shape[0]:
        return _weight_backward(expand(core, bases, dy), dy, geometry, kernel)
    total: Tensor | None = None
    for some, dy_some in zip(core.split(step), dy.split(step), strict=True):
        part = _weight_backward(expand(some, bases, dy_some), dy_some, geometry, kernel)
        total = part if total is None else total.add_(part)
    if total is None:
        raise ValueError("a weight gradient needs at least one sample")
    return total


def _weight_backward(x: Tensor, dy: Tensor, geometry: Geometry, kernel: Kernel) -> Tensor:
    if kernel == (1, 1) and geometry == Geometry():
        return cross(dy, x)[:, :, None, None]
    padded = _padded(x, geometry)
    return weight_grad_by_onednn(padded, dy, kernel, geometry.stride, geometry.even, geometry.dilation, geometry.groups)


def _padded(x: Tensor, geometry: Geometry) -> Tensor:
    return F.pad(x, geometry.extra) if any(geometry.extra) else x
