"""Subnets to measure first: spread evenly over what they cost. Uniform draws would nearly all be large, and say little of tight budgets."""

from __future__ import annotations

from random import Random
from typing import Any

from sdk.errors import UsageError
from sdk.prepare.moofa.budget import Costs, amount
from sdk.prepare.moofa.space import Ladder, Subnet, largest, smallest

#: Ranges of cost that get equally many subnets, as in the published code.
BINS = 15
#: Draws among which the subnets are chosen.
DRAWS = 3000


def balanced(ladder: Ladder, costs: Costs, count: int, name: str = "arena_bytes", seed: int = 0, draws: int = DRAWS) -> list[Subnet]:
    """`count` different networks, the smallest and the largest first, spread evenly over cost `name`; fewer where the space has not as many.

    The same seed draws the same ones, and the first of many are those of few, so that results which were kept serve again.
    """
    if count < 1:
        raise UsageError(f"{count} subnets cannot be drawn; ask for 1 or more")
    random = Random(seed)
    nets = [smallest(ladder), largest(ladder), *(leaning(ladder, random) for _ in range(draws))]
    known = {net.key(ladder): net for net in nets}
    values = {key: amount(costs(net), name) for key, net in known.items()}
    low, high = min(values.values()), max(values.values())
    bins: list[list[Subnet]] = [[] for _ in range(BINS)]
    for key, net in list(known.items())[2:]:
        bins[min(BINS - 1, int((values[key] - low) / (high - low or 1) * BINS))].append(net)
    chosen = [smallest(ladder), largest(ladder)]
    for turn in range(max(map(len, bins))):
        chosen += [members[turn] for members in bins if turn < len(members)]
    return chosen[:count]


def leaning(ladder: Ladder, random: Random) -> Subnet:
    """A subnet whose choices lean to the small or the large side together, by a degree that is drawn first: so all sizes come up."""
    lean = random.uniform(-1, 1)

    def drawn(values: tuple[Any, ...]) -> Any:
        return (values[-1] if lean > 0 else values[0]) if random.random() < abs(lean) else random.choice(values)

    kernels = tuple(drawn(ladder.kernels) for _ in range(ladder.slots))
    expansions = tuple(drawn(ladder.expansions) for _ in range(ladder.slots))
    return Subnet(kernels, expansions, tuple(drawn(ladder.depths) for _ in ladder.stages), drawn(ladder.resolutions))
