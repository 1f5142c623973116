"""What a search hands back: the subnet, how it was come by, everything that was measured; as text, JSON and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdk.errors import UsageError
from sdk.prepare.moofa.budget import WORDS, Budget, Cost, said
from sdk.prepare.moofa.jobs import write_whole
from sdk.prepare.moofa.pareto import Point, front
from sdk.prepare.moofa.pareto_html import front_html
from sdk.prepare.moofa.space import Subnet

if TYPE_CHECKING:
    from sdk.model import Model
    from sdk.planner.plan import Plan
    from sdk.prepare.moofa.nn.plain import SubnetModule

#: Why subnets are measured, in this order: spread over the space, picked as promising or uncertain, best for other budgets, best for this one.
STAGES = ("spread", "picked", "front", "finalist")


@dataclass(frozen=True)
class Measured:
    """One subnet that was measured. predicted and deviation: what was expected of it before; None for the first ones."""

    subnet: Subnet
    accuracy: float  #: share of right answers
    cost: Cost
    stage: str
    predicted: float | None = None
    deviation: float | None = None

    @property
    def point(self) -> Point:
        """For a front."""
        return Point(self.subnet, self.accuracy, self.cost)

    def to_json(self) -> dict[str, Any]:
        """For JSON."""
        before = {} if self.predicted is None else {"predicted": self.predicted, "deviation": self.deviation}
        return {"stage": self.stage, **before, **self.point.to_json()}


@dataclass(frozen=True)
class Quality:
    """How good the predictor is, by predicting each measurement from all the others: Kendall's tau, root of the mean square error."""

    tau: float
    rmse: float
    count: int


@dataclass(frozen=True)
class SearchResult:
    """A subnet within the budget, and all that was learned on the way.

    `module` is an ordinary torch module with weights and batch-norm statistics of its own: it goes into `sdk.load`, and `model()` does that.
    """

    ladder: str
    device: str
    budget: Budget
    chosen: Measured
    predicted: float  #: accuracy of the chosen one by all measurements
    deviation: float  #: standard deviation of that
    measured: tuple[Measured, ...] = field(repr=False)
    quality: Quality
    seconds: float
    module: SubnetModule = field(repr=False)
    over: str  #: the cost that the front is drawn over
    plan: Plan | None = field(default=None, repr=False)  #: of the whole net with made-up weights; None on a computer
    channels_last: bool = True  #: whether the costs are for pictures [1, R, R, 3]

    @property
    def subnet(self) -> Subnet:
        """What was chosen."""
        return self.chosen.subnet

    @property
    def accuracy(self) -> float:
        """Share of right answers of the float network on the pictures that judged."""
        return self.chosen.accuracy

    @property
    def cost(self) -> Cost:
        """What the planner computes for it."""
        return self.chosen.cost

    @property
    def front(self) -> tuple[Point, ...]:
        """Measured subnets that none beats in accuracy at the same or smaller cost."""
        return front([m.point for m in self.measured], self.over)

    def model(self, name: str | None = None) -> Model:
        """The subnet as `sdk.load` reads it, with the layout of pictures that its costs are for; ready for `sdk.plan`."""
        import torch

        from sdk.model import load

        side = self.subnet.resolution
        return load(self.module, torch.zeros(1, 3, side, side), name=name or self.ladder, input_layout="nhwc" if self.channels_last else None)

    def to_json(self) -> dict[str, Any]:
        """For JSON: the choice, the predictor's quality, the front, every measurement."""
        chosen = {**self.chosen.to_json(), "predicted": self.predicted, "deviation": self.deviation}
        return {
            "ladder": self.ladder, "device": self.device, "budget": self.budget.limits, "seconds": self.seconds, "chosen": chosen,
            "predictor": {"tau": self.quality.tau, "rmse": self.quality.rmse, "measurements": self.quality.count},
            "front": {"over": self.over, "points": [point.to_json() for point in self.front]}, "measured": [m.to_json() for m in self.measured],
        }  # fmt: skip

    def save(self, folder: str | Path) -> None:
        """Write `search.json` and `front.html`, each whole or not at all. Raises UsageError where the folder cannot be written."""
        folder = Path(folder)
        title = f"{self.ladder} on {self.device}"
        page = front_html(title, [m.point for m in self.measured], self.over, self.budget, self.chosen.point)
        ready(folder)
        try:
            write_whole(folder / "search.json", json.dumps(self.to_json(), indent=1) + "\n")
            write_whole(folder / "front.html", page)
        except OSError as error:
            raise _unwritable(folder, error) from error

    def __str__(self) -> str:
        net, cost = self.subnet, self.cost
        costs = ", ".join(said(name, value) for name in WORDS if (value := getattr(cost, name, None)))
        q = self.quality
        return "\n".join((
            f"{self.ladder} on {self.device}, budget: {self.budget}",
            f"  {net.resolution} pixels, depths {'-'.join(map(str, net.depths))}: {costs}",
            f"  accuracy {100 * self.accuracy:.2f} % measured, {100 * self.predicted:.2f} +- {100 * self.deviation:.2f} predicted",
            f"  {len(self.measured)} subnets measured ({_counts(self.measured)}); left out, each is predicted to {100 * q.rmse:.2f} points, tau {q.tau:.3f}",
        ))  # fmt: skip


def ready(folder: str | Path) -> None:
    """Make the folder, before minutes are spent on what is to be written there. Raises UsageError where that fails."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: str | Path, error: OSError) -> UsageError:
    return UsageError(f"the search cannot be written to {folder} ({error.strerror}); name a folder that can be")


def _counts(measured: Sequence[Measured]) -> str:
    counted = {stage: sum(m.stage == stage for m in measured) for stage in STAGES}
    return ", ".join(f"{count} {stage}" for stage, count in counted.items() if count)
