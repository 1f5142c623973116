"""What a layer keeps of its input for its weight gradient: all of it, or a low-rank Tucker form: a core, and a basis for each mode.

A tensor A with modes of lengths d_n is held as core x_0 U_0 x_1 U_1 ..., U_n: [d_n, K_n]; a mode without a basis is whole in the core.
Sources: HOSVD arXiv 2411.06346, activation subspace iteration arXiv 2505.05086, fixed subspaces as LANCE arXiv 2509.21617. Ours differs:
Gram matrices instead of singular value decompositions of unfoldings, one error budget for all modes, factors that own their storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from sdk.training.nn import factors as held
from sdk.training.nn.modes import expand, project


@dataclass(frozen=True)
class Saved:
    """What is kept for backward of one input of `shape`.

    tensors: the core's parts, then those of each per-batch basis, in the order of the modes; each owns its storage.
    constants: bases [d_n, K_n] shared by all batches, None for a mode without. batch_modes: modes whose basis is among the tensors.
    """

    shape: torch.Size
    dtype: torch.dtype
    tensors: tuple[Tensor, ...]
    constants: tuple[Tensor | None, ...]
    batch_modes: tuple[int, ...] = ()
    kind: str = "float32"

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors; constants are not counted, being one copy for all batches."""
        return sum(t.numel() * t.element_size() for t in self.tensors)

    def core(self) -> Tensor:
        """[K_0, K_1, ...]: the input in its subspaces; d_n for modes that are whole."""
        return held.decode(self.tensors[: self._width()], self.dtype)

    def bases(self) -> tuple[Tensor | None, ...]:
        """The basis [d_n, K_n] of each mode, or None."""
        found, width = list(self.constants), self._width()
        for i, mode in enumerate(self.batch_modes):
            found[mode] = held.decode(self.tensors[width * (i + 1) : width * (i + 2)], self.dtype)
        return tuple(found)

    def reconstruct(self) -> Tensor:
        """The whole input as the kept values describe it: for tests and calibration, training never makes it."""
        return expand(self.core(), self.bases())

    def without_tensors(self) -> Saved:
        """The description alone: what a graph node keeps while autograd holds the tensors."""
        return replace(self, tensors=())

    def with_tensors(self, tensors: Sequence[Tensor]) -> Saved:
        """The reverse of `without_tensors`."""
        return replace(self, tensors=tuple(tensors))

    def _width(self) -> int:
        return 2 if self.kind == "int8" else 1


class Compressor(Protocol):
    """Decides what is kept of a layer's input. One compressor serves one layer: it may carry state from batch to batch."""

    name: str

    def compress(self, x: Tensor) -> Saved:
        """What is kept of `x` [B, C, H, W], [B, I], [B, L, I] or [B, M, L, I]."""
        ...


def keep(x: Tensor, core: Tensor, bases: Sequence[Tensor | None], constant: Sequence[bool], kind: str) -> Saved:
    """`Saved` of the input `x` with these bases, those marked constant not copied; the rest and the core held as `kind`."""
    parts = list(held.encode(held.own(core), kind, _channel(x)))
    own_modes = [n for n, basis in enumerate(bases) if basis is not None and not constant[n]]
    for n in own_modes:
        parts += held.encode(held.own(bases[n].contiguous()), kind, 1)  # type: ignore[union-attr]
    constants = tuple(basis if constant[n] else None for n, basis in enumerate(bases))
    return Saved(x.shape, x.dtype, tuple(parts), constants, tuple(own_modes), kind)


@dataclass
class Exact:
    """Keeps the input itself (or a copy, where it is a view of something larger)."""

    factors: str = "float32"
    name: str = "exact"

    def compress(self, x: Tensor) -> Saved:
        """All of `x`."""
        return keep(x, x, (None,) * x.dim(), (False,) * x.dim(), self.factors)


@dataclass
class Fixed:
    """Bases computed once, by a calibration run: training only projects. bases: of each mode but the batch, [d_n, K_n] or None."""

    bases: tuple[Tensor | None, ...]
    factors: str = "float32"
    name: str = "fixed"

    def compress(self, x: Tensor) -> Saved:
        """The core of `x`; the bases are constants."""
        bases = (None, *self.bases)
        return keep(x, project(x, bases), bases, (True,) * x.dim(), self.factors)


def exact(factors: str = "float32") -> Exact:
    """Keep the input as it is; factors="float16" or "int8" keeps it rounded."""
    return Exact(factors)


def fixed(bases: Sequence[Tensor | None], factors: str = "float32") -> Fixed:
    """Keep the input's part in given subspaces. bases: (C, H, W), (I,), (L, I) or (M, L, I), each [d_n, K_n], None for a mode left whole."""
    own = [None if basis is None else held.own(basis.detach().contiguous()) for basis in bases]
    return Fixed(tuple(own), factors)


def _channel(x: Tensor) -> int:
    """The mode whose components get a scale each: channels of a convolution's input, else the batch left out the first one's last."""
    return 1 if x.dim() == 4 else x.dim() - 1
