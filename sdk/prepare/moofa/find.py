"""The search from end to end: measure subnets, learn to predict, look where it promises most, measure again, plan what was chosen.

Measured accuracies decide in the end; predictions only say what to measure. Every measurement is kept by content, so a run that was killed
goes on, and a search for another budget begins with what this one measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdk.errors import DataError, DoesNotFit, UsageError
from sdk.prepare.moofa import jobs, predictor
from sdk.prepare.moofa.budget import Budget, Costs, first_fit
from sdk.prepare.moofa.draw import DRAWS, balanced
from sdk.prepare.moofa.found import Measured, Quality, SearchResult
from sdk.prepare.moofa.pareto import trace
from sdk.prepare.moofa.search import Evolution, Found, evolve
from sdk.prepare.moofa.space import Ladder, Subnet

if TYPE_CHECKING:
    from sdk.planner.plan import Plan
    from sdk.prepare.moofa.nn.measure import Bench
    from targets.device import Device

#: At most so many pictures, and a fifth of them, give statistics where none are given for it.
STATISTICS = 2000


@dataclass(frozen=True)
class Effort:
    """How much is measured. measure: subnets the predictor is made of, `share` of them spread over the space, the others picked in `rounds`.

    finalists: the best by prediction that are measured last. front: budgets besides the given one whose best subnets are measured. pool: found
    subnets that picks are made from. optimism: standard deviations that a pick's uncertainty is worth.
    """

    measure: int = 150
    share: float = 0.6
    rounds: int = 3
    finalists: int = 5
    front: int = 8
    pool: int = 300
    optimism: float = 2.0
    draws: int = DRAWS
    evolution: Evolution = field(default_factory=Evolution)

    def __post_init__(self) -> None:
        if self.measure < predictor.FEWEST or self.rounds < 1 or self.finalists < 1 or self.front < 0 or not 0 < self.share <= 1:
            asked = f"{self.measure} subnets, {self.share:g} of them spread, {self.rounds} rounds, {self.finalists} finalists and a front of {self.front}"
            raise UsageError(f"a search of {asked} is not possible; take {predictor.FEWEST}, a share in (0, 1], 1, 1 and 0 or more")

    @property
    def spread(self) -> int:
        """Subnets that are measured before anything is predicted."""
        return max(predictor.FEWEST, round(self.share * self.measure))


@dataclass(frozen=True)
class Machines:
    """Where subnets are measured, and where results are kept: as for `jobs.run`."""

    workers: int = 1
    dask: str | None = None
    cache: str | Path | None = None


@dataclass(frozen=True)
class Progress:
    """Where a search stands. stage: why subnets are measured now; done and total: of all subnets of the search."""

    stage: str
    done: int
    total: int
    best: float  #: accuracy of the best within the budget so far; nan before there is one
    seconds_left: float  #: nan before anything was measured

    def __str__(self) -> str:
        best = "" if self.best != self.best else f", best {100 * self.best:.2f} %"
        left = "" if self.seconds_left != self.seconds_left or self.done == self.total else f", {jobs.in_words(self.seconds_left)} left"
        return f"{self.stage}: {self.done} of {self.total} measured{best}{left}"


Report = Callable[[Progress], None]


def divided(data: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pictures for statistics, pictures that judge, their labels) of (x, y), or of (x, y, held-out x, held-out y).

    Of two, a fifth gives statistics and the rest judges; of four, the first two give statistics. Raises DataError for anything else.
    """
    if not isinstance(data, tuple | list) or len(data) not in (2, 4):
        raise DataError("a search needs data=(pictures, labels), or (pictures, labels, held-out pictures, held-out labels)")
    arrays = [np.asarray(part) for part in data]
    if len(data) == 4:
        return arrays[0], arrays[2], arrays[3].reshape(-1)
    x, y = arrays[0], arrays[1].reshape(-1)
    if x.ndim < 1 or len(x) != len(y) or len(x) < 10:
        raise DataError(f"{len(x) if x.ndim else 0} pictures and {len(y)} labels are not enough or do not belong together; give ten or more of each")
    rows = np.linspace(0, len(x) - 1, min(STATISTICS, len(x) // 5)).round().astype(int)
    rest = np.setdiff1d(np.arange(len(x)), rows)
    return x[rows], x[rest], y[rest]


@dataclass
class _Search:
    """One search as it goes on."""

    bench: Bench
    costs: Costs
    budget: Budget
    effort: Effort
    machines: Machines
    report: Report | None
    lean: Subnet  #: the one that takes the least of the budget
    over: str  #: the cost that fronts are drawn over
    known: dict[Any, Measured] = field(default_factory=dict)
    begin: float = field(default_factory=time.monotonic)
    fresh: int = 0  #: of the known, those that were measured in this run

    @property
    def ladder(self) -> Ladder:
        return self.bench.supernet.ladder

    def best(self) -> list[Measured]:
        """What was measured within the budget, best first; of equally good ones the one that leaves most of the budget."""
        return sorted((m for m in self.known.values() if self.budget.allows(m.cost)), key=lambda m: (-m.accuracy, max(self.budget.ratios(m.cost))))

    def fitted(self) -> predictor.Predictor:
        nets, measured = [m.subnet for m in self.known.values()], [m.accuracy for m in self.known.values()]
        return predictor.fit(self.ladder, nets, measured)

    def new(self, nets: Sequence[Subnet]) -> list[Subnet]:
        """Those not measured yet, each network once."""
        keyed = {net.key(self.ladder): net for net in nets}
        return [net for key, net in keyed.items() if key not in self.known]

    def measure(self, nets: Sequence[Subnet], stage: str, expects: predictor.Predictor | None = None) -> None:
        """Measure those that are new, and remember what was expected of them."""
        from sdk.prepare.moofa.nn.measure import measure

        if not (new := self.new(nets)):
            return
        told = zip(*(a.tolist() for a in expects.predict(new)), strict=True) if expects else ((None, None) for _ in new)
        machines = self.machines
        results = jobs.run(
            measure, self.bench, self.bench.jobs(new), workers=machines.workers, dask=machines.dask, cache=machines.cache,
            report=lambda progress: self._tell(stage, progress),
        )  # fmt: skip
        for net, result, (predicted, deviation) in zip(new, results, told, strict=True):
            self.known[net.key(self.ladder)] = Measured(net, result["accuracy"], self.costs(net), stage, predicted, deviation)

    def _tell(self, stage: str, progress: jobs.Progress) -> None:
        done = len(self.known) + progress.done
        self.fresh += 1
        if self.report:
            total = max(self.effort.measure + self.effort.front + self.effort.finalists, done)
            best = self.best()
            each = (time.monotonic() - self.begin) / self.fresh
            self.report(Progress(stage, done, total, best[0].accuracy if best else float("nan"), each * (total - done)))

    def spread(self) -> None:
        """Measure subnets over the whole space: on one device the same for every budget, so that another search finds them measured."""
        effort, name = self.effort, "arena_bytes" if self.costs(self.lean).arena_bytes else "macs"
        self.measure(balanced(self.ladder, self.costs, effort.spread, name, effort.evolution.seed, effort.draws), "spread")

    def pick(self) -> None:
        """Rounds of: predict, search within the budget, measure what promises most or is least known."""
        effort = self.effort
        for left in range(effort.rounds, 0, -1):
            count = -(-(effort.measure - len(self.known)) // left)
            if count < 1:
                return
            expects = self.fitted()
            pool = self.new([found.subnet for found in self.evolved(expects, effort.pool)])
            self.measure(expects.pick(pool, count, effort.optimism), "picked", expects)

    def evolved(self, expects: predictor.Predictor, count: int) -> list[Found]:
        start = [m.subnet for m in self.best()[:5]]
        return evolve(self.ladder, expects.score, self.costs, self.budget, self.effort.evolution, start, count)

    def front(self) -> None:
        """Measure the best for budgets from the least to the most of the first limited cost."""
        if self.effort.front:
            others: dict[str, Any] = {name: limit for name, limit in self.budget.limits.items() if name != self.over}
            expects = self.fitted()
            traced = trace(self.ladder, expects, self.costs, self.over, self.effort.front, Budget(**others) if others else None)
            self.measure([point.subnet for point in traced], "front", expects)

    def finish(self) -> None:
        """Measure the best by prediction that were not measured yet."""
        expects = self.fitted()
        best = self.new([found.subnet for found in self.evolved(expects, self.effort.pool)])
        self.measure(best[: self.effort.finalists], "finalist", expects)

    def planned(self) -> tuple[Measured, Plan | None]:
        """The best measured one whose whole plan keeps the budget too, with the plan. Raises DoesNotFit where none does."""
        whole = getattr(self.costs, "plan", None)
        for measured in self.best():
            plan = whole(measured.subnet) if whole else None
            if plan is None or (plan.fits and sum(plan.arena_bytes) <= self.budget.limits.get("arena_bytes", float("inf"))):
                return measured, plan
        raise DoesNotFit(f"no measured subnet of {self.ladder.name} keeps {self.budget} when it is planned whole; give a wider budget or measure more")


def find(
    bench: Bench, device: Device, costs: Costs, budget: Budget, effort: Effort, machines: Machines, report: Report | None = None,
    channels_last: bool = True, over: str = "",
) -> SearchResult:  # fmt: skip
    """The best subnet within the budget, by measurement. See `sdk.moofa.search`, which makes what this needs.

    over: the cost that fronts are drawn over; by default the first that the budget limits.
    """
    over = over or next(iter(budget.limits))
    search = _Search(bench, costs, budget, effort, machines, report, first_fit(bench.supernet.ladder, costs, budget), over)
    for stage in (search.spread, search.pick, search.front, search.finish):
        stage()
    chosen, plan = search.planned()
    expects = search.fitted()
    told, deviation = expects.predict([chosen.subnet])
    accuracy = [m.accuracy for m in search.known.values()]
    quality = Quality(predictor.kendall_tau(expects.left_out, accuracy), predictor.rmse(expects.left_out, accuracy), expects.count)
    return SearchResult(
        search.ladder.name, device.name, budget, chosen, float(told[0]), float(deviation[0]), tuple(search.known.values()), quality,
        time.monotonic() - search.begin, bench.module(chosen.subnet), over, plan, channels_last,
    )  # fmt: skip
