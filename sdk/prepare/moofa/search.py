"""Evolution of subnets within a budget: from the smallest one up, so that tight budgets are searched as well as wide ones.

Among random subnets of the published ladders fewer than one in seventy keeps a tight budget, so none is drawn at random: the first population
grows from the leanest subnet by changes that keep the budget, and children that break it are drawn again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

import numpy as np

from sdk.errors import UsageError
from sdk.prepare.moofa.budget import Budget, Cost, Costs, first_fit
from sdk.prepare.moofa.space import Ladder, Subnet, active, sample

#: Subnets [n] to what they are worth [n]: a predictor's `score`.
Score = Callable[[Sequence[Subnet]], np.ndarray]


@dataclass(frozen=True)
class Evolution:
    """How long and how wide. change: the chance that a mutant's choice is drawn anew; change_side: that its resolution is.

    tries: how often a child that breaks the budget is drawn again before its parent takes its place. exchanges: how many moves out of the
    budget and back are tried where no move within it leads up.
    """

    population: int = 40
    rounds: int = 30
    parents: float = 0.25
    mutants: float = 0.5
    change: float = 0.1
    change_side: float = 0.5
    tries: int = 50
    exchanges: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if self.population < 2 or self.rounds < 0 or self.tries < 1:
            asked = f"{self.population} subnets over {self.rounds} rounds with {self.tries} tries"
            raise UsageError(f"evolution of {asked} is not possible; take 2, 0 and 1 or more")
        for name in ("parents", "mutants", "change", "change_side"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"evolution's {name} of {getattr(self, name)} is not possible; it is a share, from 0 to 1")


@dataclass(frozen=True)
class Found:
    """A subnet within the budget, what it is worth and what it costs."""

    subnet: Subnet
    score: float
    cost: Cost


class _Hunt:
    """One search: what it asked for is remembered, so that no subnet is scored or priced twice."""

    def __init__(self, ladder: Ladder, score: Score, costs: Costs, budget: Budget, settings: Evolution) -> None:
        self.ladder, self.score, self.costs, self.budget, self.settings = ladder, score, costs, budget, settings
        self.random = Random(settings.seed)
        self.prices: dict[Any, Cost] = {}
        self.known: dict[Any, Found] = {}

    def fits(self, subnet: Subnet) -> bool:
        key = subnet.key(self.ladder)
        if key not in self.prices:
            self.prices[key] = self.costs(subnet)
        return self.budget.allows(self.prices[key])

    def judge(self, subnets: Sequence[Subnet]) -> list[Found]:
        """Each one once, all of them within the budget."""
        keyed = {net.key(self.ladder): net for net in subnets}
        new = {key: net for key, net in keyed.items() if key not in self.known}
        for (key, net), score in zip(new.items(), self.score(list(new.values())) if new else (), strict=True):
            self.known[key] = Found(net, float(score), self.prices[key])
        return [self.known[key] for key in keyed]

    def best(self, count: int) -> list[Found]:
        """The best of all that were judged."""
        return sorted(self.known.values(), key=lambda found: -found.score)[:count]

    def parents(self, population: Sequence[Found]) -> list[Found]:
        """The best of every resolution: another side needs other choices everywhere, so the sides do not compete until the end."""
        each = max(1, round(self.settings.parents * self.settings.population / len(self.ladder.resolutions)))
        ranked = sorted(population, key=lambda found: -found.score)
        return [found for side in self.ladder.resolutions for found in [f for f in ranked if f.subnet.resolution == side][:each]]

    def grown(self, start: Sequence[Subnet]) -> list[Subnet]:
        """The first population: `start`, and what grows from it by mutation."""
        members = list(start)
        while len(members) < self.settings.population:
            parent = self.random.choice(members)
            members.append(self._redrawn(partial(mutant, self.ladder, parent, self.settings, self.random), parent))
        return members

    def children(self, parents: Sequence[Subnet]) -> list[Subnet]:
        """As many as the population has: mutants, and crossovers of two."""
        made, settings, random = [], self.settings, self.random
        for i in range(settings.population):
            one, other = random.choice(parents), random.choice(parents)
            if i < settings.mutants * settings.population:
                made.append(self._redrawn(partial(mutant, self.ladder, one, settings, random), one))
            else:
                made.append(self._redrawn(partial(crossover, one, other, random), one))
        return made

    def _redrawn(self, draw: Callable[[], Subnet], parent: Subnet) -> Subnet:
        for _ in range(self.settings.tries):
            if self.fits(child := draw()):
                return child
        return parent

    def climb(self, found: Found) -> Found:
        """Up by the best move, again and again; where none leads up, by one that breaks the budget and one that mends it."""
        while ((better := self.step(found.subnet)) and better.score > found.score) or (better := self.exchange(found)):
            found = better
        return found

    def step(self, subnet: Subnet) -> Found | None:
        """The best that one move reaches."""
        near = self.judge([net for net in moves(self.ladder, subnet) if self.fits(net)])
        return max(near, key=lambda found: found.score, default=None)

    def exchange(self, found: Found) -> Found | None:
        """A better subnet two moves away, over one that is out of the budget: those that gain much for little excess are tried first."""
        over = [net for net in moves(self.ladder, found.subnet) if not self.fits(net)]
        gains = self.score(over) - found.score if over else np.zeros(0)
        excess = [max(self.budget.ratios(self.prices[net.key(self.ladder)])) - 1 for net in over]
        for i in np.argsort(-gains / np.array(excess))[: self.settings.exchanges]:
            if gains[i] > 0 and (better := self.step(over[i])) and better.score > found.score:
                return better
        return None


def evolve(
    ladder: Ladder, score: Score, costs: Costs, budget: Budget, settings: Evolution | None = None, start: Sequence[Subnet] = (), count: int | None = None
) -> list[Found]:
    """The best subnets within the budget, best first, no two the same network; `count` of them, as many as a population by default.

    start: subnets to begin with, for example of a tighter budget; those that break this one are left out.
    Raises DoesNotFit where no subnet keeps the budget, before anything is searched.
    """
    settings = settings or Evolution()
    hunt = _Hunt(ladder, score, costs, budget, settings)
    lean = first_fit(ladder, costs, budget)
    seeds = [net for net in (lean, *(replace(lean, resolution=side) for side in ladder.resolutions), *start) if hunt.fits(net)]
    population = hunt.judge(hunt.grown(seeds))
    for _ in range(settings.rounds):
        parents = hunt.parents(population)
        population = [*parents, *hunt.judge(hunt.children([found.subnet for found in parents]))]
    for side in ladder.resolutions:
        for found in [f for f in hunt.best(len(hunt.known)) if f.subnet.resolution == side][:1]:
            hunt.climb(found)
    return hunt.best(count or settings.population)


def moves(ladder: Ladder, subnet: Subnet) -> Iterator[Subnet]:
    """Subnets one step away: another kernel and expansion in one slot, another depth in one stage, another side.

    A deeper stage's new slots are alike, each kind once: what lay unused in them says nothing.
    """
    kinds = list(itertools.product(ladder.kernels, ladder.expansions))
    for slot in active(ladder, subnet):
        yield from (_with(subnet, (slot,), *kind) for kind in kinds if kind != (subnet.kernels[slot], subnet.expansions[slot]))
    for stage, depth in enumerate(subnet.depths):
        for other in ladder.depths:
            moved = replace(subnet, depths=(*subnet.depths[:stage], other, *subnet.depths[stage + 1 :]))
            new = range(stage * ladder.depths[-1] + depth, stage * ladder.depths[-1] + other)
            yield from (moved,) if other < depth else (_with(moved, new, *kind) for kind in kinds if other > depth)
    yield from (replace(subnet, resolution=side) for side in ladder.resolutions if side != subnet.resolution)


def _with(subnet: Subnet, slots: Sequence[int], kernel: int, expansion: float) -> Subnet:
    """The subnet with this kernel and expansion in `slots`."""
    kernels = tuple(kernel if i in slots else k for i, k in enumerate(subnet.kernels))
    return replace(subnet, kernels=kernels, expansions=tuple(expansion if i in slots else e for i, e in enumerate(subnet.expansions)))


def mutant(ladder: Ladder, subnet: Subnet, settings: Evolution, random: Random) -> Subnet:
    """The subnet with some choices drawn anew."""
    other = sample(ladder, random)

    def mixed(own: Sequence[Any], new: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(n if random.random() < settings.change else o for o, n in zip(own, new, strict=True))

    side = other.resolution if random.random() < settings.change_side else subnet.resolution
    return Subnet(mixed(subnet.kernels, other.kernels), mixed(subnet.expansions, other.expansions), mixed(subnet.depths, other.depths), side)


def crossover(one: Subnet, other: Subnet, random: Random) -> Subnet:
    """Every choice from one or the other, at even odds."""

    def mixed(a: Sequence[Any], b: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(random.choice(pair) for pair in zip(a, b, strict=True))

    side = random.choice((one.resolution, other.resolution))
    return Subnet(mixed(one.kernels, other.kernels), mixed(one.expansions, other.expansions), mixed(one.depths, other.depths), side)


def random_search(ladder: Ladder, score: Score, costs: Costs, budget: Budget, draws: int, seed: int = 0) -> Found | None:
    """The best of `draws` uniform subnets that keeps the budget, for comparison with `evolve`; None where none does."""
    random = Random(seed)
    nets = [net for net in (sample(ladder, random) for _ in range(draws)) if budget.allows(costs(net))]
    if not nets:
        return None
    scores = score(nets)
    best = int(np.argmax(scores))
    return Found(nets[best], float(scores[best]), costs(nets[best]))
