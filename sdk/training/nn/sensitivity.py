"""Which directions of a layer's input its weight gradient needs: not those with the most energy, but those that meet the output's gradient.

A bright, even background has most of an activation's energy and next to no part in the gradient; fine detail along rows and columns meets
gradients that are smooth. Bases and ranks chosen so keep the same cosine with about half the values (MobileNetV2-0.35, all convolutions).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sdk.training.nn.compressors import exact, fixed
from sdk.training.nn.decompose import spectrum
from sdk.training.nn.saved import Saved

#: A layer's weight gradient [O, C / groups, kh, kw] or [O, I] from what was kept of an input and the output's gradient.
Gradient = Callable[[Saved, Tensor], Tensor]

#: Ranks of a mode at which the loss is measured; between them it is interpolated.
_POINTS = 8
#: Share of plain energy in directions and spectra: calibration has seen few gradients, and those to come will differ.
_ENERGY = 0.15


def gradient_gram(x: Tensor, dy: Tensor, gradient: Gradient, samples: int = 8) -> Tensor:
    """[C, C] float64: sum over groups of `samples` samples of dW^T dW: the features along which gradients lie. For layers without groups."""
    total: Tensor | None = None
    for x_some, dy_some in zip(x.split(samples), dy.split(samples), strict=True):
        grad = gradient(exact().compress(x_some), dy_some).double()
        rows = grad.movedim(1, -1).reshape(-1, grad.shape[1])
        total = rows.t() @ rows if total is None else total.addmm_(rows.t(), rows)
    if total is None:
        raise ValueError("directions of gradients need at least one sample")
    return total


def directions(gradients: Tensor, inputs: Tensor) -> Tensor:
    """[C, C]: orthonormal directions, those most of the gradient first, from the Gram matrices of gradients and inputs."""
    scaled = [gram.double() / gram.double().trace().clamp_min(1e-300) for gram in (gradients, inputs)]
    return spectrum((1.0 - _ENERGY) * scaled[0] + _ENERGY * scaled[1])[1]


def energies(grams: Sequence[Tensor], bases: Sequence[Tensor]) -> tuple[np.ndarray, ...]:
    """Per mode [d], adding up to 1: the inputs' energy along each direction. grams: of the inputs; bases: [d, d], orthonormal."""
    along = [((gram.double() @ basis.double()) * basis).sum(0).clamp_min(0).numpy() for gram, basis in zip(grams, bases, strict=True)]
    return tuple(energy / max(energy.sum(), 1e-300) for energy in along)


class Sensitivity:
    """Adds up, batch by batch, what the gradient loses when a mode keeps its first k directions.

    bases: of each mode but the batch, [d, d]. gradient: the layer's. features: the mode that goes with the weight's second dimension, where
    the layer has no groups: along it the loss is the part of the gradient outside the kept directions, and needs no trial. None with groups.
    """

    def __init__(self, bases: Sequence[Tensor], gradient: Gradient, features: int | None) -> None:
        self._bases, self._gradient, self._features = [basis.float() for basis in bases], gradient, features
        self._lost = [np.zeros(basis.shape[0] + 1) for basis in bases]

    def see(self, x: Tensor, dy: Tensor) -> None:
        """One batch's input and output gradient."""
        grad = self._gradient(exact().compress(x), dy)
        norm = float(grad.square().sum())
        if not 0 < norm < float("inf"):
            return
        for n, basis in enumerate(self._bases):
            if n + 1 == self._features:
                parts = torch.tensordot(grad, basis, dims=([1], [0])).square().sum(tuple(range(grad.dim() - 1))).double().numpy()
                self._lost[n] += np.append(parts[::-1].cumsum()[::-1], 0.0) / norm
            else:
                self._lost[n] += self._trials(x, dy, grad, n) / norm

    def spectra(self, grams: Sequence[Tensor]) -> tuple[np.ndarray, ...]:
        """Per mode [d], adding up to 1: what each direction adds to the gradient (squared) that those before it give, and a share of its energy.

        grams: of the inputs, by mode.
        """
        found = []
        for lost, energy in zip(self._lost, energies(grams, self._bases), strict=True):
            falling = np.maximum.accumulate(lost[::-1])[::-1]
            gradient = -np.diff(falling) / falling[0] if falling[0] > 0 else energy
            found.append((1.0 - _ENERGY) * gradient + _ENERGY * energy)
        return tuple(found)

    def _trials(self, x: Tensor, dy: Tensor, grad: Tensor, n: int) -> np.ndarray:
        """[d + 1]: the squared loss with the first 0 .. d directions of one mode."""
        d = self._bases[n].shape[0]
        ranks = [int(rank) for rank in np.unique(np.geomspace(1, d, _POINTS).round()) if rank < d]
        losses = [float(grad.square().sum())]
        for rank in ranks:
            one: list[Tensor | None] = [None] * len(self._bases)
            one[n] = self._bases[n][:, :rank]
            losses.append(float((self._gradient(fixed(one).compress(x), dy) - grad).square().sum()))
        return np.interp(np.arange(d + 1), [0, *ranks, d], [*losses, 0.0])
