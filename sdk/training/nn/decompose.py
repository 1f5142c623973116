"""Bases of a tensor's modes: from Gram matrices (never a singular value decomposition of an unfolding), or by one subspace iteration."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdk.training.nn.modes import FEW, cross, mode_product, unfold_gram
from sdk.training.nn.ranks import SHORT, WHOLE_FROM, ranks_per_mode

#: Gram matrices up to this size are decomposed whole; larger ones by a few block iterations, whose cost falls with the rank wanted.
_WHOLE_SIZE = 64
_ITERATIONS = 3


def spectrum(gram: Tensor) -> tuple[Tensor, Tensor]:
    """(energies [d] falling, directions [d, d]) of a Gram matrix."""
    energies, directions = torch.linalg.eigh(gram)
    return energies.flip(0).clamp_min(0), directions.flip(1)


def leading(gram: Tensor, lost: float, rank: int = 0) -> tuple[Tensor, float, Tensor]:
    """(basis [d, K], energy it loses, some more directions): the fewest directions that lose at most `lost`, or the first `rank` of them."""
    d, total = gram.shape[0], float(gram.trace())
    block = min(d, rank + 8 if rank else max(16, d // 6))
    while d > _WHOLE_SIZE and block < d // 2:
        energies, directions = _block_spectrum(gram, block)
        k, missing = _fewest(energies, total, lost, rank)
        if k:
            return directions[:, :k].contiguous(), missing, directions[:, : k + _spare(k)]
        block *= 2
    energies, directions = spectrum(gram)
    k, missing = _fewest(energies, total, lost, rank)
    k = k or d
    return directions[:, :k].contiguous(), missing, directions[:, : k + _spare(k)]


def plain_hosvd(x: Tensor, eps: float, ranks: Sequence[int] = ()) -> list[Tensor | None]:
    """The published way (arXiv 2411.06346): the basis of every mode from the whole of `x`, each mode keeping eps of the energy by itself."""
    bases: list[Tensor | None] = []
    for mode in range(x.dim()):
        energies, directions = spectrum(unfold_gram(x, mode))
        k = ranks[mode] if ranks else ranks_per_mode([energies.double().numpy()], eps)[0]
        bases.append(None if _is_whole(k, x.shape[mode]) else directions[:, :k].contiguous())
    return bases


def sequential_hosvd(
    x: Tensor, eps: float, ranks: Sequence[int] = (), blocks: dict[int, Tensor] | None = None, energy: float | None = None
) -> tuple[Tensor, list[Tensor | None]]:
    """(core, bases): each mode's basis from what the modes before it left, which is smaller and smaller.

    The energies lost add up exactly, so that one budget of (1 - eps) serves all modes (Vannieuwenhoven et al., 2012): each mode may spend a
    share of what is left, one that would stay nearly whole spends nothing.
    blocks: by mode, directions to look for a long mode's basis in, from the batch before; renewed here. The energy is measured, so the budget
    holds with any of them; where they do not do, the Gram matrix of the mode is decomposed. energy: of `x`, where it is known already.
    """
    bases: list[Tensor | None] = [None] * x.dim()
    left = float(torch.linalg.vector_norm(x)) ** 2 if energy is None else energy
    budget = (1.0 - eps) * left
    for place, mode in enumerate(ORDER[x.dim()]):
        d, rank = x.shape[mode], ranks[mode] if ranks else 0
        if _is_whole(rank, d) if ranks else d <= SHORT:
            continue
        share = budget * _SHARES[x.dim()][place]
        found = _in_block(x, mode, share, rank, blocks, left) if blocks is not None and mode in blocks else None
        if found is None:
            basis, lost, wide = leading(unfold_gram(x, mode), share, rank)
            core = None
            if blocks is not None and d > _WARM_FROM and mode:
                blocks[mode] = wide
        else:
            basis, lost, core = found
        if not ranks and _is_whole(basis.shape[1], d):
            continue
        budget, left = budget - lost, left - lost
        bases[mode] = basis
        x = mode_product(x, basis, mode) if core is None else core
        if mode == 1 and x.dim() == 4 and x.shape[1] < FEW:
            x = x.contiguous()
    return x, bases


def _in_block(x: Tensor, mode: int, lost: float, rank: int, blocks: dict[int, Tensor], total: float) -> tuple[Tensor, float, Tensor] | None:
    """(basis, energy lost, core) from one subspace iteration of the mode's block; None where the block is too narrow for the energy.

    total: the energy of `x`.
    """
    block = torch.linalg.qr(power(x, blocks[mode], mode))[0]
    wide = mode_product(x, block, mode)
    energies, turn = spectrum(unfold_gram(wide, mode))
    k, missing = _fewest(energies, total, lost, min(rank, block.shape[1]))
    if not k or (not rank and k > block.shape[1] - 2):
        return None
    turned = block @ turn
    blocks[mode] = turned[:, : k + _spare(k)]
    return turned[:, :k].contiguous(), missing, mode_product(wide, turn[:, :k].contiguous(), mode)


def iterate(x: Tensor, bases: Sequence[Tensor | None], whole: bool = False) -> tuple[Tensor, list[Tensor | None]]:
    """(core, new bases): one subspace iteration per mode, started from `bases`, each on what the modes before it left.

    For a mode with basis U: V = A^T U, then the orthonormal basis of A V (arXiv 2505.05086, there on the whole A for every mode).
    whole: look at all samples; otherwise at every second one of a large batch, which gives nearly the same directions for half the work.
    """
    found: list[Tensor | None] = [None] * x.dim()
    for mode in ORDER[x.dim()]:
        basis = bases[mode]
        if basis is None:
            continue
        better = torch.linalg.qr(power(x if whole else some(x), basis, mode))[0]
        x, found[mode] = mode_product(x, better, mode), better
        if mode == 1 and x.dim() == 4 and x.shape[1] < FEW:
            x = x.contiguous()
    return x, found


#: Order in which modes are decomposed: features first, which shrink most, so that the others see little; the batch last.
ORDER = {2: (1, 0), 3: (2, 1, 0), 4: (1, 3, 2, 0)}
#: Share of the remaining budget that each mode in ORDER may spend.
_SHARES = {2: (0.7, 1.0), 3: (0.6, 0.5, 1.0), 4: (0.6, 0.35, 0.5, 1.0)}
#: Longer modes are searched from the last batch's directions; up to here a Gram matrix, decomposed whole or in blocks, takes less time
#: (torch 2.13, one core: 3.9 against 6.2 ms for [32, 48, 32, 32], 3.1 against 1.6 ms for [32, 336, 2, 2]).
_WARM_FROM = 128


def some(x: Tensor) -> Tensor:
    """Every second sample of a batch of 16 and more."""
    return x[::2] if x.shape[0] >= 16 else x


def power(x: Tensor, basis: Tensor, mode: int) -> Tensor:
    """[d, K]: x_(n) x_(n)^T U, by way of the Gram matrix where that is cheaper than two products with the long unfolding."""
    d, k = basis.shape
    if d <= 2 * k or d <= 16:
        return unfold_gram(x, mode) @ basis
    y = mode_product(x, basis, mode)
    if x.dim() == 4 and mode == 1:
        return cross(x, y)
    x2, y2 = x.movedim(mode, -1), y.movedim(mode, -1)
    return x2.reshape(-1, d).t() @ y2.reshape(-1, k)


def _block_spectrum(gram: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """(energies [block], directions [d, block]) of the largest part of a Gram matrix, by subspace iteration from its largest columns."""
    start = gram[:, gram.diagonal().topk(block).indices]
    for _ in range(_ITERATIONS):
        start = gram @ torch.linalg.qr(start)[0]
    basis = torch.linalg.qr(start)[0]
    energies, turn = spectrum(basis.t() @ gram @ basis)
    return energies, basis @ turn


def _spare(rank: int) -> int:
    """Directions looked at beside those the last batch needed: batches differ, and a block too narrow costs a whole Gram matrix."""
    return 4 + rank // 3


def _fewest(energies: Tensor, total: float, lost: float, rank: int = 0) -> tuple[int, float]:
    """(the least k whose first k energies lose at most `lost`, or `rank`; what they lose). k is 0 where these energies do not reach so far.

    A plain loop: spectra are short, and four tensor operations take longer.
    """
    kept, enough = 0.0, total - lost - 1e-7 * total
    for k, energy in enumerate(energies.tolist(), 1):
        kept += energy
        if k == rank or (not rank and kept >= enough):
            return k, max(0.0, total - kept)
    return rank, max(0.0, total - kept)


def _is_whole(rank: int, length: int) -> bool:
    return rank == 0 or rank >= WHOLE_FROM * length
