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
    """What stands where an activation was: y = scale * x + shift, [C] each; channels of scale 0 are OFF. `width`: where it is not 0, only so
    many channels flow there, mixed of the C."""

    site: str
    scale: np.ndarray = field(repr=False)
    shift: np.ndarray = field(repr=False)
    width: int = 0

    @property
    def passing(self) -> int:
        """Channels that flow there."""
        return self.width or int(np.count_nonzero(self.scale))


def replacement(module: fx.GraphModule, site: Site, moments: Moments, rule: str) -> Removal:
    """By "line", "on_off" or "identity": see `sdk.prepare.tlc.records.Settings`.

    A line that no layer can take in, behind an addition say, would be a multiplication for every value, where a ReLU is fused and costs nothing."""
    match rule:
        case "line" if site.exclusive:
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
        self._known: dict[tuple[frozenset[str], int], float] = {}

    def __call__(self, names: Iterable[str], keep: int = 0) -> float:
        """Of removing these together; activations that are gone already count nothing. keep: channels that pass, 0 for all that the rule lets;
        what is gone may get narrower still."""
        left = frozenset(name for name in names if name in self._sites or keep)
        if not left:
            return 0.0
        if (left, keep) not in self._known:
            self._known[left, keep] = self._from_criterion(left) if self._kind in SCORES else self._measured(left, keep)
        return self._known[left, keep]

    def _measured(self, names: frozenset[str], keep: int) -> float:
        """With the activations replaced for the moment; the network itself is not touched."""
        if keep:
            return self._moved(self._narrow(next(iter(names)), keep))
        before = {name: self._trial.get_submodule(name) for name in names}
        try:
            for name in names:
                self._trial.set_submodule(name, affine(self.replacements[name], self._sites[name].channel_dim, self._x))
            return self._moved(self._trial)
        finally:
            for name, layer in before.items():
                self._trial.set_submodule(name, layer)

    def _narrow(self, name: str, width: int) -> fx.GraphModule:
        """Copies of the network with one activation removed and so many channels in its place."""
        from sdk.prepare.tlc.nn.linearise import linearise
        from sdk.prepare.tlc.nn.narrow import narrow

        if name not in self._sites:
            return narrow(self._trial, name, width, [self._x[rows] for rows in pieces(len(self._x))])
        found = self.replacements[name]
        without = linearise(self._trial, self._sites[name], scale=torch.from_numpy(found.scale), shift=torch.from_numpy(found.shift))
        return narrow(without, name, width, [self._x[rows] for rows in pieces(len(self._x))])

    def _moved(self, changed: fx.GraphModule) -> float:
        """How far the answers are from those of before, or how much the loss rose."""
        if self._answers is not None:
            return divergence(self._answers, answers(changed, self._x))
        return evaluate(changed, self._x, self._y).loss - self._base

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
