"""How much each removal would hurt: how far the answers move, the measured rise of the loss, or the criterion alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, fx, nn

from sdk.prepare.tlc.criterion import SCORES
from sdk.prepare.tlc.nn.evaluate import answers, divergence, evaluate, pieces
from sdk.prepare.tlc.nn.nodes import ChannelAffine
from sdk.prepare.tlc.nn.statistics import Moments, criterion, measure

if TYPE_CHECKING:
    from sdk.prepare.tlc.nn.trace import Site


@dataclass(frozen=True)
class Removal:
    """What stands where an activation was: y = scale * x + shift, [C] each; channels of scale 0 are OFF."""

    site: str
    scale: np.ndarray = field(repr=False)
    shift: np.ndarray = field(repr=False)


def replacement(module: fx.GraphModule, site: Site, moments: Moments, rule: str) -> Removal:
    """By "line", "on_off" or "identity": see `sdk.prepare.tlc.records.Settings`."""
    match rule:
        case "line":
            scale, shift = moments.line()
        case "on_off":
            scale, shift = criterion(module, site, moments).on.astype(np.float64), np.zeros(site.channels)
        case _:
            scale, shift = np.ones(site.channels), np.zeros(site.channels)
    return Removal(site.name, scale, shift)


class Importance:
    """What removing sets of a network's activations is expected to cost; every set is measured once.

    x [N, ...], y [N]: samples to measure on. kind: "divergence", "gap", "energy" or "entropy": see `sdk.prepare.tlc.records.Settings`.
    """

    def __init__(self, module: fx.GraphModule, sites: Sequence[Site], x: Tensor, y: Tensor, rule: str, kind: str) -> None:
        self._trial = copy.deepcopy(module).eval()
        self._sites = {site.name: site for site in sites}
        self._x, self._y, self._kind = x, y, kind
        self.moments = measure(module, sites, (x[rows] for rows in pieces(len(x))))
        self.replacements = {site.name: replacement(module, site, self.moments[site.name], rule) for site in sites}
        self._base = evaluate(self._trial, x, y).loss if kind == "gap" else 0.0
        self._answers = answers(self._trial, x) if kind == "divergence" else None
        self._known: dict[frozenset[str], float] = {}

    def __call__(self, names: Iterable[str]) -> float:
        """Of removing these together; activations that are gone already count nothing."""
        left = frozenset(name for name in names if name in self._sites)
        if not left:
            return 0.0
        if left not in self._known:
            self._known[left] = self._from_criterion(left) if self._kind in SCORES else self._measured(left)
        return self._known[left]

    def _measured(self, names: frozenset[str]) -> float:
        """With the activations replaced for the moment; the network itself is not touched."""
        before = {name: self._trial.get_submodule(name) for name in names}
        try:
            for name in names:
                self._trial.set_submodule(name, affine(self.replacements[name], self._sites[name].channel_dim, self._x))
            if self._answers is not None:
                return divergence(self._answers, answers(self._trial, self._x))
            return evaluate(self._trial, self._x, self._y).loss - self._base
        finally:
            for name, layer in before.items():
                self._trial.set_submodule(name, layer)

    def _from_criterion(self, names: frozenset[str]) -> float:
        score: Callable[..., float] = SCORES[self._kind]
        return sum(score(criterion(self._trial, self._sites[name], self.moments[name])) for name in sorted(names))


def affine(removal: Removal, channel_dim: int, like: Tensor) -> nn.Module:
    """The layer of a removal."""
    kind = like.dtype if like.is_floating_point() else torch.float32
    return ChannelAffine(torch.from_numpy(removal.scale).to(kind), torch.from_numpy(removal.shift).to(kind), channel_dim)


def by_single(importance: Callable[[Iterable[str]], float], sites: Iterable[str]) -> Mapping[str, float]:
    """Each activation's own."""
    return {name: importance((name,)) for name in sites}
