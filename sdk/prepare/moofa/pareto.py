"""Pareto front of subnets: accuracy against what the device has to give, as points and JSON; `pareto_html` draws it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sdk.errors import UsageError
from sdk.prepare.moofa.budget import WORDS, Budget, Cost, Costs, amount, leanest
from sdk.prepare.moofa.predictor import Predictor
from sdk.prepare.moofa.search import Evolution, evolve
from sdk.prepare.moofa.space import Ladder, Subnet, largest

#: Enough for a front of many budgets, each of which begins with the subnets of the one before.
BRIEF = Evolution(population=24, rounds=8, exchanges=4)


@dataclass(frozen=True)
class Point:
    """A subnet with its accuracy, a share in [0, 1], and its cost. deviation: of a predicted accuracy; 0 for a measured one."""

    subnet: Subnet
    accuracy: float
    cost: Cost
    measured: bool = True
    deviation: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """For JSON: the costs that there are beside the rest."""
        costs = {name: value for name in WORDS if (value := getattr(self.cost, name, None))}
        sure = {"measured": True} if self.measured else {"measured": False, "deviation": self.deviation}
        return {"accuracy": self.accuracy, **sure, **costs, "subnet": self.subnet.to_json()}


def front(points: Iterable[Point], name: str = "arena_bytes") -> tuple[Point, ...]:
    """The points that no other one beats in accuracy at the same or a smaller cost `name`, cheapest first.

    Raises UsageError for a cost that there is not.
    """
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (_amount(p, name), -p.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return tuple(best)


def trace(
    ladder: Ladder, predictor: Predictor, costs: Costs, name: str = "arena_bytes", steps: int = 8, within: Budget | None = None, settings: Evolution = BRIEF
) -> tuple[Point, ...]:  # fmt: skip
    """The best subnet by prediction for each of `steps` limits of cost `name`, from the least that any needs up to the largest's.

    within: limits that hold besides. Limits grow by equal factors, and each begins with what the tighter ones found, so the scores never
    fall. Predictions stay within what was measured, so the top of this is flat until it is measured too.
    """
    least = leanest(ladder, costs, replace(within, **{name: 1}) if within else Budget(**{name: 1}))
    ends = amount(costs(least), name), amount(costs(largest(ladder)), name)
    found: list[Subnet] = []
    points = []
    for limit in np.geomspace(ends[0], max(ends), steps):
        limit = max(float(limit), ends[0])  # the power of a root may come out a hair too small
        here: dict[str, Any] = {**(within.limits if within else {}), name: int(limit) if name.endswith("bytes") else limit}
        best = evolve(ladder, predictor.score, costs, Budget(**here), settings, start=[least, *found[-3:]], count=1)[0]
        found.append(best.subnet)
        accuracy, deviation = predictor.predict([best.subnet])
        points.append(Point(best.subnet, float(accuracy[0]), best.cost, False, float(deviation[0])))
    return tuple({point.subnet.key(ladder): point for point in points}.values())


def to_json(points: Sequence[Point], name: str = "arena_bytes") -> dict[str, Any]:
    """The front over cost `name`, and all points that it was made of."""
    return {"cost": name, "front": [point.to_json() for point in front(points, name)], "points": [point.to_json() for point in points]}


def _amount(point: Point, name: str) -> float:
    if name not in WORDS:
        raise UsageError(f"a front over {name!r} is not possible; choose a cost: {', '.join(WORDS)}")
    return amount(point.cost, name)
