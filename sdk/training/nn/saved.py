"""What is kept of a layer's input for its weight gradient, and what decides it: `Saved` and `Compressor`.

A tensor with modes of lengths d_n is held in Tucker form: core x_0 U_0 x_1 U_1 .., U_n: [d_n, K_n]; a mode without a basis is whole in the core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sdk.training.nn import factors as held
from sdk.training.nn.modes import expand


@dataclass(frozen=True)
class Saved:
    """What is kept for backward of one input of `shape`.

    tensors: the core's parts, then those of each per-batch basis, in the order of the modes; each owns its storage.
    constants: bases [d_n, K_n] shared by all batches, as they are held; None for a mode without. batch_modes: modes whose basis is among the tensors.
    kind, basis_kind: how the core and the per-batch bases are held.
    """

    shape: torch.Size
    dtype: torch.dtype
    tensors: tuple[Tensor, ...]
    constants: tuple[held.Held | None, ...]
    batch_modes: tuple[int, ...] = ()
    kind: str = "float32"
    basis_kind: str = "float32"

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors; constants are not counted, being one copy for all batches."""
        return sum(t.numel() * t.element_size() for t in self.tensors)

    def core(self) -> Tensor:
        """[K_0, K_1, ...]: the input in its subspaces; d_n for modes that are whole."""
        return held.decode(self.tensors[: _width(self.kind)], self.dtype)

    def bases(self) -> tuple[Tensor | None, ...]:
        """The basis [d_n, K_n] of each mode, or None."""
        found = [None if c is None else c.tensor(self.dtype) for c in self.constants]
        first, width = _width(self.kind), _width(self.basis_kind)
        for i, mode in enumerate(self.batch_modes):
            found[mode] = held.decode(self.tensors[first + width * i : first + width * (i + 1)], self.dtype)
        return tuple(found)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Columns of each mode's basis, 0 where the mode is whole."""
        found, first, width = [0 if c is None else c.shape[1] for c in self.constants], _width(self.kind), _width(self.basis_kind)
        for i, mode in enumerate(self.batch_modes):
            found[mode] = self.tensors[first + width * i].shape[1]
        return tuple(found)

    def reconstruct(self) -> Tensor:
        """The whole input as the kept values describe it: for tests and calibration, training never makes it."""
        return expand(self.core(), self.bases())

    def without_tensors(self) -> Saved:
        """The description alone: what a graph node keeps while autograd holds the tensors."""
        return self.with_tensors(())

    def with_tensors(self, tensors: Sequence[Tensor]) -> Saved:
        """The reverse of `without_tensors`."""
        return Saved(self.shape, self.dtype, tuple(tensors), self.constants, self.batch_modes, self.kind, self.basis_kind)


class Compressor(Protocol):
    """Decides what is kept of a layer's input. One compressor serves one layer: it may carry state from batch to batch."""

    name: str

    def compress(self, x: Tensor) -> Saved:
        """What is kept of `x` [B, C, H, W], [B, I], [B, L, I] or [B, M, L, I]."""
        ...


def keep(
    x: Tensor, core: Tensor, bases: Sequence[Tensor | None], kind: str, basis_kind: str = "", constants: Sequence[held.Held | None] = ()
) -> Saved:
    """`Saved` of the input `x`: the core held as `kind`, this batch's bases as `basis_kind`, or like the core. constants: bases all batches share."""
    basis_kind = basis_kind or kind
    parts = list(held.encode(held.own(core), kind, _channel(x)))
    own_modes = []
    for n, basis in enumerate(bases):
        if basis is not None:
            own_modes.append(n)
            parts += held.encode(held.own(basis.contiguous()), basis_kind, 1)
    return Saved(x.shape, x.dtype, tuple(parts), tuple(constants) or (None,) * x.dim(), tuple(own_modes), kind, basis_kind)


def _width(kind: str) -> int:
    """Tensors that one is held as."""
    return 2 if kind == "int8" else 1


def _channel(x: Tensor) -> int:
    """The mode whose components get a scale each when the core is rounded: channels of a convolution's input, else features.

    A linear layer's input has features last; with four modes it cannot be told from a convolution's, whose second mode serves it as well.
    """
    return 1 if x.dim() == 4 else x.dim() - 1
