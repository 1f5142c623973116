"""Products along one mode of a tensor: Gram matrices, projection on bases and back, in the memory order the tensor already has.

A dense tensor is looked at as [before, d, after] in the order its values lie in memory, so that channels-last tensors need no copy either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Bases = Sequence[Tensor | None]
Pair = tuple[int, int]

#: Values that are copied at once where a mode lies badly for a matrix product: 1 MiB of float32, which stays in a second-level cache.
CHUNK = 1 << 18
#: Positions from which one matrix product per sample beats a 1 x 1 convolution (which reorders its data first), measured with torch 2.13.
MANY = 64


def memory_order(x: Tensor) -> tuple[int, ...]:
    """The dimensions of `x` from the slowest to the fastest in memory; modes of length 1 stay where they are among equals."""
    if x.is_contiguous():
        return tuple(range(x.dim()))
    strides = x.stride()
    return tuple(sorted(range(x.dim()), key=lambda n: (-strides[n], n)))


def dense(x: Tensor) -> Tensor:
    """`x` itself where its values lie without gaps in some order of its dimensions, else a contiguous copy."""
    if x.is_contiguous():
        return x
    expected, strides = 1, x.stride()
    for n in sorted(range(x.dim()), key=lambda n: (strides[n], -n)):
        if x.shape[n] > 1:
            if strides[n] != expected:
                return x.contiguous()
            expected *= x.shape[n]
    return x


def channels_last(x: Tensor) -> bool:
    """Whether the 4-D tensor `x` lies as [B, H, W, C] in memory (and not just as well as [B, C, H, W])."""
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


#: Channels-last tensors of fewer channels are put in [B, C, H, W] order before their rows or columns are multiplied.
FEW = 32


def mode_product(x: Tensor, basis: Tensor, mode: int) -> Tensor:
    """`x` with mode `mode` of length d turned into one of length K: sum_i x[.., i, ..] basis[i, k]. basis: [d, K]. Keeps the memory order."""
    if x.dim() == 4 and mode == 1 and (channels_last(x) or x.shape[2] * x.shape[3] < MANY):
        return F.conv2d(x, basis.t().unsqueeze(2).unsqueeze(3))
    x = dense(x)
    order = memory_order(x)
    at = order.index(mode)
    sizes = [x.shape[n] for n in order]
    flat = x.permute(order)
    before, d, after = _product(sizes[:at]), sizes[at], _product(sizes[at + 1 :])
    if after == 1:
        out = flat.reshape(before, d) @ basis
    elif before == 1:
        out = basis.t() @ flat.reshape(d, after)
    elif before > d and d * after <= 128:
        # one product of all with a matrix that is mostly zeros is faster than thousands of small products
        out = flat.reshape(before, d * after) @ torch.einsum("dk,ab->dakb", basis, torch.eye(after, dtype=x.dtype)).reshape(d * after, -1)
    else:
        out = torch.bmm(basis.t().expand(before, -1, -1), flat.reshape(before, d, after))
    sizes[at] = basis.shape[1]
    back = [order.index(n) for n in range(len(order))]
    return out.view(sizes).permute(back)


def pair_product(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`mode_product` along the last two modes of a 4-D tensor at once. rows: [H, K], columns: [W, L] -> [B, C, K, L]; keeps the memory order.

    One product with the Kronecker product while that is small: thousands of products of 8 x 8 matrices take longer than one larger one.
    """
    (h, k), (w, ll) = rows.shape, columns.shape
    if h * w * k * ll > CHUNK // 4:
        return mode_product(mode_product(x, columns, 3), rows, 2)
    both = (rows[:, None, :, None] * columns[None, :, None, :]).reshape(h * w, k * ll)  # the Kronecker product
    x = dense(x)
    if channels_last(x):
        b, c = x.shape[:2]
        out = torch.bmm(both.t().expand(b, -1, -1), x.permute(0, 2, 3, 1).reshape(b, h * w, c))
        return out.view(b, k, ll, c).permute(0, 3, 1, 2)
    return (x.reshape(-1, h * w) @ both).view(*x.shape[:2], k, ll)


def project(x: Tensor, bases: Bases) -> Tensor:
    """The core of `x`: each mode n with a basis [d_n, K_n] shrinks to K_n, a mode with None stays. The mode that shrinks most goes first."""
    if sum(basis is not None for basis in bases) == 1:
        return _one_by_one(x, bases, range(len(bases)))
    if x.dim() == 4 and bases[2] is not None and bases[3] is not None and bases[1] is None:
        first = None if bases[0] is None or _shrink(bases[0]) > _shrink(bases[2]) * _shrink(bases[3]) else bases[0]
        x = pair_product(x if first is None else mode_product(x, first, 0), bases[2], bases[3])
        return x if bases[0] is None or first is not None else mode_product(x, bases[0], 0)
    steps = sorted((n for n, basis in enumerate(bases) if basis is not None), key=lambda n: _shrink(bases[n]))
    if x.dim() == 4 and bases[1] is not None:
        steps = sorted(steps, key=(1, 3, 2, 0).index)
    for place, n in enumerate(steps):
        if n == 3 and x.dim() == 4 and bases[2] is not None and x.is_contiguous():
            x = pair_product(x, bases[2], _given(bases[3]))
            return _one_by_one(x, bases, steps[place + 2 :])
        x = mode_product(x, _given(bases[n]), n)
        if n == 1 and x.dim() == 4 and len(steps) > 1 and x.shape[1] < FEW:
            x = x.contiguous()  # rows and columns of few channels are badly multiplied between them, and what is left is small
    return x


def expand(core: Tensor, bases: Bases, like: Tensor | None = None) -> Tensor:
    """The reverse of `project`: each mode with a basis [d_n, K_n] grows from K_n to d_n, channels and batch last.

    like: a 4-D tensor in whose memory order (channels-last or not) the result is to lie.
    """
    turned = [None if basis is None else basis.t() for basis in bases]
    if core.dim() != 4:
        return project(core, turned)
    rows, columns = turned[2:]
    core = _one_by_one(core, turned, (2, 3)) if rows is None or columns is None else pair_product(core, rows, columns)
    if like is not None:
        core = core.contiguous(memory_format=torch.channels_last if channels_last(like) else torch.contiguous_format)
    return _one_by_one(core, turned, (1, 0))


def _one_by_one(x: Tensor, bases: Bases, modes: Sequence[int]) -> Tensor:
    for n in modes:
        basis = bases[n]
        x = x if basis is None else mode_product(x, basis, n)
    return x


def cross(x: Tensor, y: Tensor) -> Tensor:
    """[C, K]: the sum over samples and positions of x [B, C, P, Q] times y [B, K, P, Q]."""
    positions = x.shape[2] * x.shape[3]
    last = channels_last(x) and channels_last(y)
    if last and x.shape[0] * positions <= 4096 and min(x.shape[1], y.shape[1]) >= 16:
        return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).t() @ y.permute(0, 2, 3, 1).reshape(-1, y.shape[1])
    if positions < MANY or channels_last(x) or channels_last(y):
        return weight_grad_by_onednn(y, x, (1, 1))[:, :, 0, 0]
    return torch.bmm(x.reshape(-1, x.shape[1], positions), y.reshape(-1, y.shape[1], positions).transpose(1, 2)).sum(0)


def weight_grad_by_onednn(
    x: Tensor, dy: Tensor, kernel: Pair, stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1), groups: int = 1
) -> Tensor:
    """[O, C / groups, kh, kw]: a convolution's weight gradient from its whole input. It reads nothing of the weight but its sizes."""
    weight = dy.new_empty(1).expand(dy.shape[1], x.shape[1] // groups, *kernel)
    return torch.ops.aten.convolution_backward(dy, x, weight, None, stride, padding, dilation, False, (0, 0), groups, (False, True, False))[1]


def unfold_gram(x: Tensor, mode: int, double: bool = False) -> Tensor:
    """[d, d]: the unfolding of `x` along `mode` times its transpose, without a copy of the unfolding (at most 1 MiB of it at a time).

    double: add up in float64, for spectra whose small end matters.
    """
    x = dense(x)
    order = memory_order(x)
    at = order.index(mode)
    sizes = [x.shape[n] for n in order]
    before, d, after = _product(sizes[:at]), sizes[at], _product(sizes[at + 1 :])
    flat = x.permute(order).reshape(before, d, after)
    gram = x.new_zeros(d, d, dtype=torch.float64 if double else x.dtype)
    for part in _columns(flat):
        wide = part.to(gram.dtype)
        gram.addmm_(wide, wide.t())
    return gram


def _columns(flat: Tensor) -> Iterator[Tensor]:
    """The unfolding [d, before * after] of [before, d, after] in pieces: views where they are wide enough for a matrix product, else copies."""
    before, d, after = flat.shape
    if after == 1:
        yield from (part.view(-1, d).t() for part in flat.split(max(1, CHUNK // d)))
    elif before <= 4 or after >= MANY:
        yield from flat
    else:  # one piece at a time: all of them would be a copy of the whole
        yield from (part.transpose(0, 1).reshape(d, -1) for part in flat.split(max(1, CHUNK // (d * after))))


def _given(basis: Tensor | None) -> Tensor:
    if basis is None:
        raise ValueError("a mode without a basis stays as it is and is not multiplied")
    return basis


def _shrink(basis: Tensor | None) -> float:
    return 1.0 if basis is None else basis.shape[1] / basis.shape[0]


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
