"""Compressors: exact, svd, hosvd, activation subspace iteration (asi) and fixed subspaces.

Sources: HOSVD arXiv 2411.06346, asi arXiv 2505.05086, fixed subspaces as LANCE arXiv 2509.21617. What ours does otherwise: Gram matrices
instead of decompositions of unfoldings, each mode on what the modes before it left, one error budget for all modes, no memory in the
batch's mode (samples of two batches have nothing to do with each other), a random generator of its own, factors that own their storage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdk.training.nn.decompose import iterate, leading, plain_hosvd, sequential_hosvd
from sdk.training.nn.factors import Held
from sdk.training.nn.modes import mode_product, project, unfold_gram
from sdk.training.nn.ranks import WHOLE_FROM
from sdk.training.nn.saved import Compressor, Saved, keep

__all__ = ["Asi", "Compressor", "Exact", "Fixed", "Hosvd", "Refresh", "Saved", "Svd", "asi", "exact", "fixed", "hosvd", "svd"]

#: Batches up to this size are never compressed along the batch: so few samples have little in common.
SMALL_BATCH = 8


@dataclass
class Exact:
    """Keeps the input itself (or a copy, where it is a view of something larger)."""

    factors: str = "float32"
    name: str = "exact"

    def compress(self, x: Tensor) -> Saved:
        """All of `x`."""
        return keep(x, x, [None] * x.dim(), self.factors)


@dataclass
class Svd:
    """Keeps eps of the energy of the input seen as a matrix [B, everything else] (arXiv 2411.06346, the variant it compares with).

    rank: 0 follows from eps; another is held to.
    """

    eps: float
    factors: str = "float32"
    rank: int = 0
    name: str = "svd"

    def compress(self, x: Tensor) -> Saved:
        """A basis of the samples [B, K] and K combinations of samples."""
        if not _finite(x):
            return keep(x, x, [None] * x.dim(), self.factors)
        gram = unfold_gram(x, 0)
        basis, _, _ = leading(gram, (1.0 - self.eps) * float(gram.trace()), min(self.rank, x.shape[0]))
        if basis.shape[1] * (x.shape[0] + x[0].numel()) >= x.numel():  # two factors would take more than the input
            return keep(x, x, [None] * x.dim(), self.factors)
        return keep(x, mode_product(x, basis, 0), [basis, *[None] * (x.dim() - 1)], self.factors)


@dataclass
class Hosvd:
    """Keeps eps of the energy, with bases of every mode computed anew for each batch; ranks () follow from eps, others are held to.

    sequential: each mode on what the modes before left, (1 - eps) lost in all. Otherwise as published: each mode on the whole input, up to
    (1 - eps) lost in each, three to ten times slower.
    """

    eps: float
    ranks: tuple[int, ...] = ()
    sequential: bool = True
    factors: str = "float32"
    name: str = "hosvd"
    blocks: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def compress(self, x: Tensor) -> Saved:
        """The core and one basis per mode."""
        energy = float(torch.linalg.vector_norm(x)) ** 2
        if not math.isfinite(energy):  # the loss will tell that training diverged
            return keep(x, x, [None] * x.dim(), self.factors)
        if self.sequential:
            self.blocks = dict(self.blocks)  # whoever keeps the ones before, to go back to them, keeps them unchanged
            core, bases = sequential_hosvd(x, self.eps, self.ranks, self.blocks, energy)
        else:
            bases = plain_hosvd(x, self.eps, self.ranks)
            core = project(x, bases)
        return keep(x, core, bases, self.factors)

    def carried(self) -> dict[str, Tensor]:
        """What goes on to the next batch: directions to look in, by mode."""
        return {str(mode): block for mode, block in self.blocks.items()}

    def carry(self, known: Mapping[str, Tensor]) -> None:
        """Go on with what `carried` gave."""
        self.blocks = {int(mode): block for mode, block in known.items()}


@dataclass
class Asi:
    """Given ranks; one subspace iteration per batch and mode, started where the last batch ended. The batch's mode starts afresh each time.

    ranks: of each mode, batch first; 0, or 0.75 of the length and more, leaves a mode whole. seed: of the first bases.
    """

    ranks: tuple[int, ...]
    seed: int = 0
    factors: str = "float32"
    name: str = "asi"
    bases: list[Tensor | None] = field(default_factory=list, repr=False)

    def compress(self, x: Tensor) -> Saved:
        """The core and one basis per mode."""
        if len(self.ranks) != x.dim():
            raise ValueError(f"asi has ranks for {len(self.ranks)} modes and the input has {x.dim()}; give one a mode, the batch first")
        core, found = iterate(x, self.bases or self._start(x))
        self.bases = [None if basis is None else basis.contiguous() for basis in found]  # as they are kept, so that one copy serves both
        batch = _batch_basis(core, rank=self.ranks[0])
        if batch is not None:
            core = mode_product(core, batch, 0)
        return keep(x, core, [batch, *self.bases[1:]], self.factors, "float32")  # the next batch starts from them: 8 bits would be a second copy

    def carried(self) -> dict[str, Tensor]:
        """What goes on to the next batch: the bases, by mode."""
        return {str(n): basis for n, basis in enumerate(self.bases) if basis is not None}

    def carry(self, known: Mapping[str, Tensor]) -> None:
        """Go on with what `carried` gave."""
        self.bases = [known.get(str(n)) for n in range(len(self.ranks))] if known else []

    def _start(self, x: Tensor) -> list[Tensor | None]:
        random = torch.Generator().manual_seed(self.seed)
        starts: list[Tensor | None] = [None]
        for length, rank in zip(x.shape[1:], self.ranks[1:], strict=True):
            whole = rank == 0 or rank >= WHOLE_FROM * length
            starts.append(None if whole else torch.randn(length, rank, generator=random, dtype=x.dtype))
        return iterate(x, starts, whole=True)[1]  # the first batch is iterated twice: a random start knows nothing


@dataclass(frozen=True)
class Refresh:
    """When fixed bases are renewed: the moving average of the captured energy fell `slack` below eps, and `every` batches passed since.

    eps: the share of energy the bases were chosen to keep; None where they were chosen by the gradient's: the share the first batch has.
    decay: of the moving average, per batch.
    """

    eps: float | None = None
    every: int = 50
    slack: float = 0.05
    decay: float = 0.9


@dataclass
class Fixed:
    """Bases computed once, by a calibration run: training only projects. held: those of each mode but the batch, [d_n, K_n] or None; they
    are rounded as `factors` says, and the gradient is that of the input projected on the rounded ones.

    batch_eps: below 1, batches of more than 8 also keep only this share of the core's energy along the batch. refresh: None leaves the bases
    as they are. captured: moving average of the share of energy the core has, counted only with refresh. refreshes: times renewed.
    """

    held: tuple[Held | None, ...]
    refresh: Refresh | None = None
    factors: str = "float32"
    batch_eps: float = 1.0
    name: str = "fixed"
    captured: float = math.nan
    refreshes: int = 0
    _since: int = 0
    _expected: float = 0.0

    @property
    def bases(self) -> tuple[Tensor | None, ...]:
        """[d_n, K_n] of each mode but the batch, or None."""
        return tuple(None if basis is None else basis.tensor() for basis in self.held)

    def compress(self, x: Tensor) -> Saved:
        """The core of `x`; the bases are constants."""
        core = project(x, self._projection(x))
        if self.refresh is not None and self._drifted(x, core, self.refresh):
            renewed = iterate(x, self._projection(x), whole=True)[1][1:]
            self.held = tuple(None if basis is None else Held.of(basis, self.factors) for basis in renewed)
            core = project(x, self._projection(x))
            self.captured, self._since = _share(core, x), 0
            self.refreshes += 1
        batch = _batch_basis(core, eps=self.batch_eps)
        if batch is not None:
            core = mode_product(core, batch, 0)
        return keep(x, core, [batch, *[None] * len(self.held)], self.factors, constants=(None, *self.held))

    def carried(self) -> dict[str, Tensor]:
        """What goes on to the next batch: bases that may be renewed, by mode and part; nothing of those that stay."""
        if self.refresh is None:
            return {}
        return {f"{n}.{i}": part for n, basis in enumerate(self.held) if basis is not None for i, part in enumerate(basis.parts)}

    def carry(self, known: Mapping[str, Tensor]) -> None:
        """Go on with what `carried` gave."""
        if self.refresh is not None:
            found = [None if basis is None else Held(tuple(known[f"{n}.{i}"] for i in range(len(basis.parts)))) for n, basis in enumerate(self.held)]
            self.held = tuple(found)

    def _projection(self, x: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *(None if basis is None else basis.tensor(x.dtype) for basis in self.held))

    def _drifted(self, x: Tensor, core: Tensor, rule: Refresh) -> bool:
        share = _share(core, x)
        first = math.isnan(self.captured)
        self.captured = share if first else rule.decay * self.captured + (1.0 - rule.decay) * share
        if first:
            self._expected = share if rule.eps is None else rule.eps
        self._since += 1
        return self.captured < self._expected - rule.slack and self._since >= rule.every


def exact(factors: str = "float32") -> Exact:
    """Keep the input as it is; factors="float16" or "int8" keeps it rounded."""
    return Exact(factors)


def svd(eps: float, factors: str = "float32", rank: int = 0) -> Svd:
    """Keep eps of the energy of the samples' matrix, or the first `rank` directions."""
    return Svd(eps, factors, rank)


def hosvd(eps: float, ranks: Sequence[int] = (), factors: str = "float32", sequential: bool = True) -> Hosvd:
    """Keep eps of the energy with bases of every batch's own; sequential=False is the published rule, mode by mode on the whole input."""
    return Hosvd(eps, tuple(ranks), sequential, factors)


def asi(ranks: Sequence[int], seed: int = 0, factors: str = "float32") -> Asi:
    """Keep given ranks (batch first), with bases that follow the batches."""
    return Asi(tuple(ranks), seed, factors)


def fixed(bases: Sequence[Tensor | None], refresh: Refresh | None = None, factors: str = "float32", batch_eps: float = 1.0) -> Fixed:
    """Keep the input's part in given subspaces. bases: (C, H, W), (I,), (L, I) or (M, L, I), each [d_n, K_n], None for a mode left whole."""
    return Fixed(tuple(None if basis is None else Held.of(basis, factors) for basis in bases), refresh, factors, batch_eps)


def _batch_basis(core: Tensor, rank: int = 0, eps: float = 1.0) -> Tensor | None:
    """[B, K0]: the samples' principal directions in the core, or None where the batch stays whole."""
    length = core.shape[0]
    if length <= SMALL_BATCH or (not rank and eps >= 1.0) or rank >= WHOLE_FROM * length or not _finite(core):
        return None
    gram = unfold_gram(core, 0)
    basis, _, _ = leading(gram, (1.0 - eps) * float(gram.trace()), rank)
    return None if basis.shape[1] >= WHOLE_FROM * length else basis


def _share(core: Tensor, x: Tensor) -> float:
    """The part of the energy of `x` that its core has."""
    return float(torch.linalg.vector_norm(core)) ** 2 / max(float(torch.linalg.vector_norm(x)) ** 2, 1e-30)


def _finite(x: Tensor) -> bool:
    """Whether `x` can be decomposed; if not, it is kept whole, and the loss will tell that training diverged."""
    return math.isfinite(float(x.sum()))
