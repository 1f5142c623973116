"""Bases of a tensor's modes: from Gram matrices (never a singular value decomposition of an unfolding), or by one subspace iteration."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdk.training.nn.modes import mode_product, unfold_gram
from sdk.training.nn.ranks import WHOLE_FROM, ranks_per_mode

#: Gram matrices up to this size are decomposed whole; larger ones by a few block iterations, whose cost falls with the rank wanted.
_WHOLE_SIZE = 64
_ITERATIONS = 3


def spectrum(gram: Tensor) -> tuple[Tensor, Tensor]:
    """(energies [d] falling, directions [d, d]) of a Gram matrix."""
    energies, directions = torch.linalg.eigh(gram)
    return energies.flip(0).clamp_min(0), directions.flip(1)


def leading(gram: Tensor, lost: float, rank: int = 0) -> tuple[Tensor, float]:
    """(basis [d, K], energy it loses): the fewest directions that lose at most the energy `lost`, or the first `rank` of them."""
    d, total = gram.shape[0], float(gram.trace())
    block = min(d, rank + 8 if rank else max(16, d // 6))
    while d > _WHOLE_SIZE and block < d // 2:
        energies, directions = _block_spectrum(gram, block)
        k = rank or _fewest(energies, total, lost)
        if k:
            return directions[:, :k].contiguous(), max(0.0, total - float(energies[:k].sum()))
        block *= 2
    energies, directions = spectrum(gram)
    k = rank or _fewest(energies, total, lost) or d
    return directions[:, :k].contiguous(), max(0.0, total - float(energies[:k].sum()))


def plain_hosvd(x: Tensor, eps: float, ranks: Sequence[int] = ()) -> list[Tensor | None]:
    """The published way (arXiv 2411.06346): the basis of every mode from the whole of `x`, each mode keeping eps of the energy by itself."""
    bases: list[Tensor | None] = []
    for mode in range(x.dim()):
        energies, directions = spectrum(unfold_gram(x, mode))
        k = ranks[mode] if ranks else ranks_per_mode([energies.double().numpy()], eps)[0]
        bases.append(None if _is_whole(k, x.shape[mode]) else directions[:, :k].contiguous())
    return bases


def sequential_hosvd(x: Tensor, eps: float, ranks: Sequence[int] = ()) -> tuple[Tensor, list[Tensor | None]]:
    """(core, bases): each mode's basis from what the modes before it left, which is smaller and smaller.

    The energies lost add up exactly, so that one budget of (1 - eps) serves all modes (Vannieuwenhoven et al., 2012): short modes come first
    and may spend a share each, a mode that would stay nearly whole spends nothing, and the channels get what is left.
    """
    bases: list[Tensor | None] = [None] * x.dim()
    budget = (1.0 - eps) * float(torch.linalg.vector_norm(x)) ** 2
    order = _order(x.dim())
    for place, mode in enumerate(order):
        if ranks and _is_whole(ranks[mode], x.shape[mode]):
            continue
        share = budget * _SHARES[x.dim()][place]
        basis, lost = leading(unfold_gram(x, mode), share, ranks[mode] if ranks else 0)
        if not ranks and _is_whole(basis.shape[1], x.shape[mode]):
            continue
        budget -= lost
        bases[mode] = basis
        x = mode_product(x, basis, mode)
    return x, bases


def iterate(x: Tensor, bases: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor | None]]:
    """(core, new bases): one subspace iteration per mode, started from `bases`, each on what the modes before it left.

    For a mode with basis U: V = A^T U, then the orthonormal basis of A V (arXiv 2505.05086, there on the whole A for every mode).
    """
    found: list[Tensor | None] = [None] * x.dim()
    for mode in _order(x.dim()):
        basis = bases[mode]
        if basis is None:
            continue
        found[mode] = torch.linalg.qr(_power(x, basis, mode))[0]
        x = mode_product(x, found[mode], mode)  # type: ignore[arg-type]
    return x, found


#: Share of the remaining budget that each mode in `_order` may spend.
_SHARES = {2: (0.5, 1.0), 3: (0.3, 0.8, 1.0), 4: (0.2, 0.25, 0.7, 1.0)}


def _order(modes: int) -> list[int]:
    """Short modes first, features before the batch: (W, H, C, batch) of a convolution, (L, I, batch) of a linear layer."""
    return {2: [1, 0], 3: [1, 2, 0], 4: [3, 2, 1, 0]}[modes]


def _power(x: Tensor, basis: Tensor, mode: int) -> Tensor:
    """[d, K]: x_(n) x_(n)^T U, by way of the Gram matrix where that is cheaper than two products with the long unfolding."""
    d, k = basis.shape
    if d <= 2 * k or d <= 32:
        return unfold_gram(x, mode) @ basis
    return cross(x, mode_product(x, basis, mode), mode)


def cross(x: Tensor, y: Tensor, mode: int) -> Tensor:
    """[d, K]: the unfolding of x [.., d, ..] times the transposed unfolding of y [.., K, ..], which agree in all other modes."""
    x3, y3 = x.movedim(mode, 1), y.movedim(mode, 1)
    if x3.dim() == 4 and x3.is_contiguous() and x3.shape[2] * x3.shape[3] >= 64:
        return torch.bmm(x3.flatten(2), y3.flatten(2).transpose(1, 2)).sum(0)
    return x3.movedim(1, -1).reshape(-1, x3.shape[1]).t() @ y3.movedim(1, -1).reshape(-1, y3.shape[1])


def _block_spectrum(gram: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """(energies [block], directions [d, block]) of the largest part of a Gram matrix, by subspace iteration from its largest columns."""
    start = gram[:, gram.diagonal().topk(block).indices]
    for _ in range(_ITERATIONS):
        start = gram @ torch.linalg.qr(start)[0]
    basis = torch.linalg.qr(start)[0]
    energies, turn = spectrum(basis.t() @ gram @ basis)
    return energies, basis @ turn


def _fewest(energies: Tensor, total: float, lost: float) -> int:
    """The least k whose first k energies lose at most `lost`; 0 where these energies do not reach so far."""
    kept = energies.cumsum(0)
    enough = (kept >= total - lost - 1e-7 * total).nonzero()
    return int(enough[0]) + 1 if len(enough) else 0


def _is_whole(rank: int, length: int) -> bool:
    return rank == 0 or rank >= WHOLE_FROM * length
