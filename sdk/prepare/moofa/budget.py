"""`Budget`: what a subnet may cost on its device, several limits at once, and the smallest that any subnet meets.

Costs are what the planner computes (`sdk.prepare.moofa.cost`); this file and the search only need the few fields that `Cost` names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

from sdk.errors import DoesNotFit, UsageError
from sdk.planner.training.spec import size_bytes
from sdk.prepare.moofa.space import Ladder, Subnet, neighbours, smallest


class Cost(Protocol):
    """What one subnet costs. Some costs have `training_bytes` too; what a device has no figure for is None or 0."""

    @property
    def arena_bytes(self) -> int: ...
    @property
    def flash_bytes(self) -> int: ...
    @property
    def macs(self) -> int: ...
    @property
    def latency_ms(self) -> float: ...


#: Tells a subnet's cost; asked thousands of times in a search, so it remembers the blocks it has planned.
Costs = Callable[[Subnet], Cost]

#: How a cost is called in a sentence, and its unit.
WORDS = {
    "arena_bytes": ("arena", "bytes"), "flash_bytes": ("flash", "bytes"), "training_bytes": ("memory for training", "bytes"),
    "macs": ("work", "MACs"), "latency_ms": ("latency", "ms"),
}  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """The most that each may be; None for no limit. At least one is needed. Bytes may be text: "64KiB", "0.5 MiB".

    arena_bytes: RAM of the inference's buffers. flash_bytes: weights and code. training_bytes: RAM while the subnet learns on the device.
    macs: multiply-accumulates of one inference. latency_ms: of one inference, as the planner estimates it.
    Raises UsageError where nothing is limited and for limits that are not positive.

    >>> Budget(arena_bytes="64KiB", latency_ms=50).limits
    {'arena_bytes': 65536, 'latency_ms': 50}
    """

    arena_bytes: int | str | None = None
    flash_bytes: int | str | None = None
    training_bytes: int | str | None = None
    macs: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("arena_bytes", "flash_bytes", "training_bytes"):
            object.__setattr__(self, name, size_bytes(getattr(self, name)))
        if not self.limits:
            raise UsageError(f"a budget limits nothing; give at least one of {', '.join(WORDS)}")
        for name, limit in self.limits.items():
            if not isinstance(limit, int | float) or not limit > 0:
                raise UsageError(f"a budget of {name}={limit!r} is not possible; give a number above 0")

    @property
    def limits(self) -> dict[str, float]:
        """{name: limit} of what is limited."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def ratios(self, cost: Cost) -> list[float]:
        """Each limited cost as a share of its limit. Raises UsageError for a cost that was not computed."""
        return [amount(cost, name) / limit for name, limit in self.limits.items()]

    def allows(self, cost: Cost) -> bool:
        """Whether every limit is kept."""
        return max(self.ratios(cost)) <= 1

    def __str__(self) -> str:
        return ", ".join(said(name, limit) for name, limit in self.limits.items())


def as_budget(value: Budget | Mapping[str, Any] | int | str) -> Budget:
    """The budget from itself, from its fields as a mapping, or from bytes of arena alone (65536 or "64KiB").

    Raises UsageError for a limit that there is not.
    """
    if isinstance(value, Budget):
        return value
    if not isinstance(value, Mapping):
        return Budget(arena_bytes=value)
    if unknown := [name for name in value if name not in WORDS]:
        raise UsageError(f"a budget has no limit {unknown[0]!r}; choose from {', '.join(WORDS)}")
    return Budget(**value)


def amount(cost: Cost, name: str) -> float:
    """One cost by its name. Raises UsageError where it was not computed."""
    value: float | None = getattr(cost, name, None)
    if not value:
        raise UsageError(f"the budget limits {name}, which was not computed for this device; leave it out, or ask for costs that have it")
    return value


def said(name: str, value: float) -> str:
    """"arena 65,536 bytes", "latency 49.5 ms"."""
    word, unit = WORDS[name]
    return f"{word} {value:,.2f} {unit}" if unit == "ms" else f"{word} {round(value):,} {unit}"


def first_fit(ladder: Ladder, costs: Costs, budget: Budget) -> Subnet:
    """The subnet that takes the smallest share of the budget: a search starts from it.

    Raises DoesNotFit where it takes more than all, so no subnet is within the budget; the sentence has the smallest budget of this
    shape that there is a subnet for.
    """
    subnet = leanest(ladder, costs, budget)
    cost = costs(subnet)
    if budget.allows(cost):
        return subnet
    needs = {name: amount(cost, name) for name in budget.limits}
    over = [said(name, limit) for name, limit in budget.limits.items() if needs[name] > limit]
    raise DoesNotFit(
        f"no subnet of {ladder.name} fits {', '.join(over)}: the smallest needs {', '.join(said(name, value) for name, value in needs.items())}; "
        f"give a budget of at least {', '.join(f'{name}={_upwards(value)}' for name, value in needs.items())}, or another supernet"
    )


def smallest_budget(ladder: Ladder, costs: Costs, budget: Budget) -> Budget:
    """`budget`, or where no subnet meets it the smallest of the same limits that one does."""
    cost = costs(leanest(ladder, costs, budget))
    least: dict[str, Any] = {name: max(limit, _upwards(amount(cost, name))) for name, limit in budget.limits.items()}
    return Budget(**least)


def _upwards(value: float) -> float:
    """Rounded up to what a user types: whole numbers, or hundredths."""
    return value if isinstance(value, int) else -(-value * 100 // 1) / 100


def leanest(ladder: Ladder, costs: Costs, budget: Budget) -> Subnet:
    """The subnet whose dearest limit has the most room: down from the smallest one, by single choices, as far as that goes.

    The smallest subnet is it where every cost grows with every choice. A plan is not bound to that (a layer of other size may
    be planned another way), so its neighbours are looked at too, and theirs.
    """

    def dear(subnet: Subnet) -> tuple[float, float]:
        shares = budget.ratios(costs(subnet))
        return max(shares), sum(shares)

    best = min((replace(smallest(ladder), resolution=side) for side in ladder.resolutions), key=dear)
    while dear(other := min(neighbours(ladder, best), key=dear, default=best)) < dear(best):
        best = other
    return best
