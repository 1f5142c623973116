"""How many components each mode keeps, from its spectrum: the energies along the mode's principal directions, falling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

#: A mode that would keep this share of its components or more is left whole: its basis and the product with it cost more than they save.
WHOLE_FROM = 0.75
#: Modes up to this length are left whole: on small maps a cut of rows or columns saves little and costs a product.
SHORT = 4
#: Ranks tried per mode in the exact search; longer modes are tried at this many ranks, evenly spread over powers.
_TRIED = 96
#: What a layer may lose of its own gradient so that others keep more of theirs: so many times what all lose, and this share at most.
_MOST_TIMES, _MOST_LOST = 3.0, 0.7


def ranks_per_mode(spectra: Sequence[np.ndarray], eps: float) -> tuple[int, ...]:
    """The published rule (arXiv 2411.06346): K_n is the least k whose first k energies are eps of all, each mode alone.

    Up to (1 - eps) of the energy is lost once per mode. ranks_per_mode([np.array([8., 1., 1.])], 0.9) == (2,)
    """
    return tuple(_least(np.asarray(spectrum, dtype=np.float64), eps) for spectrum in spectra)


def ranks_global(spectra: Sequence[np.ndarray], shape: Sequence[int], eps: float, samples: int = 16, constant: bool = True) -> tuple[int, ...]:
    """Ranks that lose at most (1 - eps) of the energy in all modes together, and keep the fewest values; 0 for a mode left whole.

    The energy lost by cutting several modes is at most the sum of what each cut loses, so that sum is held under the budget. All ranks of
    all modes but the longest are tried, and the longest takes the least rank that the rest of the budget allows: the optimum, not a greedy guess.
    Values counted: the core of one sample times `samples`, and the bases once (constant), or the core and the bases once (shape with the batch).
    shape: length of each mode. Modes of up to 4, and with a rank >= 0.75 of their length, are left whole.
    """
    if not 0 < eps <= 1:
        raise ValueError(f"a share of energy of {eps} is not possible; give one above 0 and at most 1")
    tails = [_tail(np.asarray(spectrum, dtype=np.float64), length) for spectrum, length in zip(spectra, shape, strict=True)]
    longest = int(np.argmax(shape))
    others = [n for n in range(len(shape)) if n != longest]
    grid = np.meshgrid(*(_candidates(shape[n]) for n in others), indexing="ij")
    ranks = {n: g.ravel() for n, g in zip(others, grid, strict=True)}
    count = ranks[others[0]].size if others else 1
    left = (1.0 - eps) * (1 + 1e-9) + 1e-12 - sum((tails[n][ranks[n]] for n in others), np.zeros(count))
    # tails fall with the rank: the least rank whose tail is at most what is left of the budget
    least = np.searchsorted(-tails[longest], -left, side="left")
    least = np.where((least >= WHOLE_FROM * shape[longest]) | (shape[longest] <= SHORT), shape[longest], np.maximum(least, 1))
    ranks = {n: np.tile(r, 2) for n, r in ranks.items()}
    ranks[longest] = np.concatenate([least, np.full(count, shape[longest])])  # its basis may cost more than it saves
    best = int(np.argmin(np.where(np.tile(left, 2) < 0, np.inf, _values(ranks, shape, samples if constant else 1))))
    return tuple(0 if ranks[n][best] >= shape[n] else int(ranks[n][best]) for n in range(len(shape)))


@dataclass(frozen=True)
class Sharing:
    """A layer among those that share one budget. spectra, shape: of each mode but the batch. weight: its squared gradient norm."""

    spectra: Sequence[np.ndarray] = field(repr=False)
    shape: Sequence[int]
    weight: float


def ranks_shared(layers: Sequence[Sharing], eps: float, samples: int = 16) -> list[tuple[int, ...]]:
    """Ranks of all layers that keep `eps` of the gradient that they have together, in the fewest values; 0 for a mode left whole.

    A layer's loss is counted as in `ranks_global`, times its squared gradient norm: layers with large gradients keep more of theirs, and one
    with next to none loses three times the share of all, or 70 %, at most. Each layer takes the point of its front of values over loss that
    one price for loss makes cheapest (Lagrange), the highest loss that stays within the budget. Values counted: cores of `samples` samples
    and the bases once.
    """
    if not 0 < eps <= 1:
        raise ValueError(f"a share of the gradient of {eps} is not possible; give one above 0 and at most 1")
    total = sum(layer.weight for layer in layers)
    if total <= 0:
        return [ranks_global(layer.spectra, layer.shape, eps, samples) for layer in layers]
    most = min(_MOST_LOST, _MOST_TIMES * (1.0 - eps)) + 1e-12
    fronts = [_front(layer, samples, most) for layer in layers]
    weights = [layer.weight / total for layer in layers]
    budget = (1.0 - eps) * (1 + 1e-9) + 1e-12

    def cheapest(price: float) -> list[int]:
        return [int(np.argmin(values + price * weight * lost)) for (values, lost, _), weight in zip(fronts, weights, strict=True)]

    chosen, low, high = [len(values) - 1 for values, _, _ in fronts], 1e-6, 1e18  # the last point of a front loses least
    for _ in range(100):
        price = float(np.sqrt(low * high))
        tried = cheapest(price)
        if sum(weight * lost[i] for (_, lost, _), weight, i in zip(fronts, weights, tried, strict=True)) > budget:
            low = price
        else:
            chosen, high = tried, price
    found = (ranks[i] for (_, _, ranks), i in zip(fronts, chosen, strict=True))
    return [tuple(0 if k >= d else int(k) for k, d in zip(ranks, layer.shape, strict=True)) for ranks, layer in zip(found, layers, strict=True)]


def _front(layer: Sharing, samples: int, most: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values [n], losses [n], ranks [n, modes]) of the choices that lose at most `most` and that no other beats in both, values rising."""
    tails = [_tail(np.asarray(spectrum, dtype=np.float64), length) for spectrum, length in zip(layer.spectra, layer.shape, strict=True)]
    grid = np.meshgrid(*(_candidates(length) for length in layer.shape), indexing="ij")
    ranks = {n: g.ravel() for n, g in enumerate(grid)}
    lost = np.sum([tails[n][k] for n, k in ranks.items()], axis=0)
    values = _values(ranks, layer.shape, samples)
    order = np.lexsort((lost, values))
    order = order[lost[order] <= most]
    before = np.concatenate([[np.inf], np.minimum.accumulate(lost[order])[:-1]])
    order = order[lost[order] < before]
    return values[order], lost[order], np.stack([ranks[n][order] for n in range(len(layer.shape))], axis=1)


def captured(spectra: Sequence[np.ndarray], ranks: Sequence[int]) -> float:
    """The least share of energy that these ranks keep: one less what every mode's cut loses."""
    lost = 0.0
    for spectrum, rank in zip(spectra, ranks, strict=True):
        energy = np.asarray(spectrum, dtype=np.float64)
        lost += float(_tail(energy, len(energy))[rank]) if rank else 0.0
    return 1.0 - lost


def _least(spectrum: np.ndarray, eps: float) -> int:
    kept = np.cumsum(np.maximum(spectrum, 0.0))
    if not kept.size or kept[-1] <= 0:
        return 1
    return min(int(np.searchsorted(kept, eps * kept[-1] * (1 - 1e-12))) + 1, len(spectrum))


def _tail(spectrum: np.ndarray, length: int) -> np.ndarray:
    """[length + 1]: the share of energy lost when the mode keeps k components, for k = 0 .. length."""
    if len(spectrum) != length:
        raise ValueError(f"a mode of length {length} has a spectrum of {len(spectrum)} energies; give one for each principal direction")
    energy = np.maximum(spectrum, 0.0)
    total = energy.sum()
    return np.concatenate([np.cumsum(energy[::-1])[::-1] / total if total > 0 else np.zeros(length), [0.0]])


def _candidates(length: int) -> np.ndarray:
    """Ranks worth trying: 1 up to below 0.75 of the length, and the whole length."""
    most = 0 if length <= SHORT else int(np.ceil(WHOLE_FROM * length)) - 1
    ranks = np.arange(1, most + 1) if most <= _TRIED else np.unique(np.geomspace(1, most, _TRIED).round().astype(int))
    return np.append(ranks, length)


def _values(ranks: dict[int, np.ndarray], shape: Sequence[int], samples: int) -> np.ndarray:
    """Values kept: cores of all samples and the bases of the modes that are cut."""
    core = np.full(ranks[0].shape, float(samples))
    bases = np.zeros(ranks[0].shape)
    for n, length in enumerate(shape):
        core = core * ranks[n]
        bases += np.where(ranks[n] < length, ranks[n] * length, 0)
    return core + bases
