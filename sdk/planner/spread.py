"""Placement when one region is not enough: which buffers go to which memory."""

from __future__ import annotations

from collections.abc import Sequence

from sdk.planner.placement import Region, Rules, Spot, _Dice, greedy_orders, lowest_fit, overflow

Solution = tuple[list[Spot], tuple[int, ...]]


def spread(rules: Rules, regions: Sequence[Region], work: int) -> list[Solution]:
    """The best split found: hot buffers in the most liked region while they fit, the others in the next.

    Buffers are taken in an order; each goes to its first region, in the order of liking, where it fits. Orders: hottest per
    byte first, then `placement.greedy_orders`; then local search that moves buffers to the front while something overflows
    or less liked memory is used.
    """
    indices = list(range(len(rules.spans)))
    density = [rules.heat[x] / max(1, rules.spans[x].size_bytes) for x in indices]
    hottest = sorted(indices, key=lambda x: (-density[x], -rules.spans[x].size_bytes, x))
    orders = [hottest, sorted(indices, key=lambda x: (-density[x], rules.spans[x].size_bytes, x)), *greedy_orders(rules)]
    tried = sorted(((_score(rules, fill(rules, regions, o), regions), n, o) for n, o in enumerate(orders)))
    score, _, order = tried[0]
    order = list(order)
    dice = _Dice()
    for _ in range(max(1, work // (len(regions) * rules.weight))):
        if score[0] == 0 and score[1] == 0:
            break
        candidate = list(order)
        x = candidate.pop(dice.below(len(candidate)))
        candidate.insert(dice.below(len(candidate) + 1), x)
        found = _score(rules, fill(rules, regions, candidate), regions)
        if found <= score:
            order, score = candidate, found
    return [fill(rules, regions, order)]


def fill(rules: Rules, regions: Sequence[Region], order: Sequence[int]) -> Solution:
    """Place the buffers in `order`, each in the first region it fits; one that fits nowhere goes where it sticks out least."""
    offsets = [[-1] * len(rules.spans) for _ in regions]
    spots = [Spot(0, 0)] * len(rules.spans)
    used = [0] * len(regions)
    for x in order:
        size = rules.spans[x].size_bytes
        options = []
        for r, region in enumerate(regions):
            at = lowest_fit(rules.against[x], offsets[r])
            over = max(0, at + size - region.size_bytes)
            options.append((over, r, at))
            if over == 0:
                break
        _, r, at = min(options)
        offsets[r][x] = at
        spots[x] = Spot(r, at)
        used[r] = max(used[r], at + size)
    return spots, tuple(used)


def _score(rules: Rules, solution: Solution, regions: Sequence[Region]) -> tuple[int, int, int]:
    spots, used = solution
    slow = sum(heat * spot.region for heat, spot in zip(rules.heat, spots, strict=True))
    return overflow(used, regions), slow, sum(used)
