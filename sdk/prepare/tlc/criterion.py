"""What an activation does to its input, channel by channel, told from a normal distribution of that input.

A ReLU whose input is almost always positive passes it on (the channel is ON: the identity does as well); one whose input is almost always
negative blocks it (OFF: zero does as well). Batch norm says how its output lies, N(beta, gamma^2), so nothing has to be measured there;
where there is no batch norm, mean and standard deviation of some batches stand for beta and |gamma|.

Source: Liao et al., "Till the Layers Collapse", AAAI 2025 (arXiv 2412.15077): the ON/OFF rule. `sign_entropy` is the criterion of EASIER,
"The Simpler The Better", ECML PKDD 2024. `lost_energy` is ours: the mean square error that ON -> identity, OFF -> zero makes.
All arrays are [C], one value a channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdk.errors import UsageError

_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class Channels:
    """How an activation's input lies: `beta` its mean and `gamma` its standard deviation (the sign is ignored), [C] each.

    `basis`: "bn" when they are a batch norm's, "statistics" when they were measured on batches.
    """

    beta: np.ndarray
    gamma: np.ndarray
    basis: str = "bn"

    def __post_init__(self) -> None:
        for name in ("beta", "gamma"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64).reshape(-1))
        if len(self.beta) != len(self.gamma) or not len(self.beta):
            raise UsageError(f"{len(self.beta)} means and {len(self.gamma)} deviations describe no layer; give one of each for every channel")
        if not (np.isfinite(self.beta).all() and np.isfinite(self.gamma).all()):
            raise UsageError("a mean or deviation of a layer is not finite; the network's weights are damaged, so train or load it again")

    @property
    def below_zero(self) -> np.ndarray:
        """P(x <= 0) of each channel, [C]."""
        return below_zero(self.beta, self.gamma)

    @property
    def on(self) -> np.ndarray:
        """True for channels that may become the identity, False for those that may become zero; [C] bool.

        >>> Channels([0.7, -0.3, 0.0], [1.0, 1.0, 1.0]).on.tolist()
        [True, False, False]
        """
        return self.beta > 0


def below_zero(beta: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """P(x <= 0) for x ~ N(beta, gamma^2): 0.5 (1 + erf(-beta / (|gamma| sqrt 2))); a step at 0 where gamma is 0. [C] in [0, 1]."""
    spread = np.abs(gamma)
    still = spread < 1e-12 * np.maximum(1.0, np.abs(beta))
    z = np.asarray(beta, np.float64) / np.where(still, 1.0, spread)
    return np.where(still, (np.asarray(beta) <= 0).astype(np.float64), 0.5 * (1 + _erf(-z / math.sqrt(2))))


def sign_entropy(p: np.ndarray) -> float:
    """Mean entropy in bits of the sign, H(p) = -p log2 p - (1-p) log2 (1-p), of channels with P(x <= 0) = p: 0 for a layer that never
    switches, 1 for one that always may."""
    inside = np.clip(p, 1e-300, 1.0)
    outside = np.clip(1 - np.asarray(p), 1e-300, 1.0)
    return float(np.mean(-inside * np.log2(inside) - outside * np.log2(outside)))


def lost_energy(channels: Channels) -> float:
    """Share of a ReLU's output energy that ON -> identity and OFF -> zero get wrong, 0 for nothing, under N(beta, gamma^2).

    ON errs by E[min(x, 0)^2], OFF by E[max(x, 0)^2]; both over the sum of E[max(x, 0)^2] of the layer.
    """
    above, below = half_energies(channels.beta, channels.gamma)
    wrong = np.where(channels.on, below, above).sum()
    return float(wrong / max(above.sum(), 1e-300)) if wrong else 0.0


def half_energies(beta: np.ndarray, gamma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(E[max(x, 0)^2], E[min(x, 0)^2]) for x ~ N(beta, gamma^2), [C] each."""
    spread = np.abs(gamma)
    p = below_zero(beta, gamma)
    z = beta / np.where(spread > 0, spread, 1.0)
    density = np.where(spread > 0, np.exp(-0.5 * np.minimum(z * z, 1e3)) / math.sqrt(2 * math.pi), 0.0)
    whole = beta * beta + spread * spread
    mixed = beta * spread * density
    return np.maximum(whole * (1 - p) + mixed, 0.0), np.maximum(whole * p - mixed, 0.0)


#: How a layer may be ranked without running the network; `collapse(importance=...)` takes these and "gap".
SCORES = {"energy": lost_energy, "entropy": lambda channels: sign_entropy(channels.below_zero)}


@dataclass(frozen=True)
class Agreement:
    """How well the normal distribution foretold what a layer's activation sees: `predicted` and `measured` P(x > 0) of its channels."""

    site: str
    predicted: np.ndarray
    measured: np.ndarray

    @property
    def correlation(self) -> float:
        """Pearson's r over the channels; 1 where both are the same constant, 0 where only one varies."""
        return correlation(self.predicted, self.measured)

    @property
    def largest_error(self) -> float:
        """Of a channel's probability, in [0, 1]."""
        return float(np.abs(self.predicted - self.measured).max())


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r of two arrays [C]."""
    da, db = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((da * da).sum() * (db * db).sum()))
    if scale < 1e-18:
        return 1.0 if np.allclose(a, b) else 0.0
    return float((da * db).sum() / scale)


def pooled(found: Sequence[Agreement]) -> float:
    """Pearson's r over the channels of all layers together. Raises UsageError for no layers."""
    if not found:
        raise UsageError("no layer was measured, so nothing can be compared; give a network with activations")
    return correlation(np.concatenate([a.predicted for a in found]), np.concatenate([a.measured for a in found]))
