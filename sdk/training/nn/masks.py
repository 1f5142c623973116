"""One bit a value: which values a gradient passes through, packed in pieces so that no full-size temporary exists."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from sdk.training.nn.modes import channels_last

#: Values tested at once. The test makes a byte a value, so a piece of it is 64 KiB: it stays in cache and counts for nothing in the peak.
CHUNK = 1 << 16


def flat(x: Tensor) -> Tensor:
    """The values of a contiguous or channels-last tensor in memory order, as a view [N]."""
    return (x.permute(0, 2, 3, 1) if channels_last(x) else x).view(-1)


def pieces(values: Tensor) -> Iterator[slice]:
    """Slices of at most CHUNK of the values [N]."""
    return (slice(start, min(start + CHUNK, values.numel())) for start in range(0, values.numel(), CHUNK))


def pack(x: Tensor, passes: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """uint8 [ceil(N / 8)]: the bits of `passes(x)`, in memory order, the first value in the highest bit. x: contiguous or channels-last.

    numpy compares and packs several times faster than torch, on the same memory.
    """
    values = flat(x).detach()
    bits = torch.empty((values.numel() + 7) // 8, dtype=torch.uint8)
    given, packed = values.numpy(), bits.numpy()
    for piece in pieces(values):
        packed[piece.start // 8 : (piece.stop + 7) // 8] = np.packbits(passes(given[piece]))
    return bits


def masked(dy: Tensor, bits: Tensor, scale: float = 1.0) -> Tensor:
    """`dy` times `scale` where the bit is set, else 0, as a new tensor. dy: in the memory order in which the bits were packed."""
    dx = torch.empty_like(dy)
    source, target = flat(dy), flat(dx)
    for piece in pieces(source):
        keep = np.unpackbits(bits[piece.start // 8 : (piece.stop + 7) // 8].numpy(), count=piece.stop - piece.start)
        torch.mul(source[piece], torch.from_numpy(keep), out=target[piece])
        if scale != 1.0:
            target[piece].mul_(scale)
    return dx


def in_order_of(dy: Tensor, last: bool) -> Tensor:
    """`dy` in channels-last or contiguous memory order; itself where it lies so already."""
    return dy.contiguous(memory_format=torch.channels_last) if last else dy.contiguous()
