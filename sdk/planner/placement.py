"""Offsets for every buffer in one or several memory regions.

Two buffers alive at the same step must not share a byte, unless one is a dying input of the step that makes the other and the
kernel allows it at their distance. Every such rule forbids one open interval of offsets once the other buffer is placed, so a
buffer goes to the lowest offset outside a few intervals. Which buffer goes first is what is searched: a handful of greedy
orders, then deterministic local search that moves the buffers holding up the peak, until the lower bound is met or the work
budget (counted in rules looked at, never in time) is spent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdk.planner.bounds import lower_bound, round_up
from sdk.planner.lifetimes import Span, lifetimes, overlaps
from sdk.planner.problem import Problem

#: Rules (pairs of buffers) the local search may look at; some tenths of a microsecond each.
WORK = 800_000

#: (neighbour, low, high): not strictly between `offset(neighbour) + low` and `offset(neighbour) + high`.
Rule = tuple[int, int, int]


@dataclass(frozen=True)
class Region:
    """Memory the arena may use: `size_bytes` of it, from an address aligned to 16. Regions are given most liked first."""

    name: str
    size_bytes: int


@dataclass(frozen=True)
class Spot:
    """Where a buffer lies: region index and byte offset in it."""

    region: int
    offset: int


@dataclass(frozen=True)
class Layout:
    """Spots by buffer (scratch under its span's name), bytes used of each region, and what does not fit."""

    spots: Mapping[str, Spot]
    arena_bytes: tuple[int, ...]
    lower_bound_bytes: int
    overflow_bytes: int
    optimal: bool  # one region, and its size is the lower bound


@dataclass(frozen=True)
class Rules:
    """Buffers by index, and for each the rules against its neighbours.

    `against[x]` holds (y, low, high): x may not lie strictly between `offset(y) + low` and `offset(y) + high`.
    """

    spans: tuple[Span, ...]
    against: tuple[tuple[Rule, ...], ...]
    heat: tuple[int, ...]  # bytes moved in and out of the buffer during one inference
    alignment: int

    @property
    def weight(self) -> int:
        """Work of placing every buffer once."""
        return len(self.spans) + sum(len(rules) for rules in self.against)


def make_rules(problem: Problem, alignment: int = 4) -> Rules:
    """The placement rules of a problem in its order of steps; offsets are multiples of `alignment`."""
    by_name = lifetimes(problem)
    pairs = overlaps(problem, by_name)
    spans = tuple(by_name.values())
    against: list[list[Rule]] = [[] for _ in spans]
    current: list[int] = []  # buffers still alive, in the order they come alive
    for x in sorted((x for x, span in enumerate(spans) if span.size_bytes), key=lambda x: (spans[x].first, x)):
        current = [y for y in current if spans[y].last >= spans[x].first]
        for y in current:
            _forbid(against, x, y, spans[x], spans[y], pairs, alignment)
        current.append(x)
    touches: dict[str, int] = {}
    for step in problem.steps:
        for name in (*step.reads, *step.writes):
            touches[name] = touches.get(name, 0) + 1
    heat = tuple(s.size_bytes * touches.get(s.name, 2) for s in spans)
    return Rules(spans, tuple(tuple(rules) for rules in against), heat, alignment)


def _forbid(against: list[list[Rule]], x: int, y: int, a: Span, b: Span, pairs: Mapping[tuple[str, str], int], alignment: int) -> None:
    """Write down what x and y forbid each other; x comes alive after y, or with it. Offsets are multiples of the alignment."""
    below, above = -round_up(a.size_bytes, alignment), round_up(b.size_bytes, alignment)  # x ends before y; x starts behind y
    if (b.name, a.name) in pairs:  # x is the output: it may also start `distance` or more before the input y
        below = max(below, -round_up(pairs[b.name, a.name], alignment))
    if above > below:
        against[x].append((y, below, above))
        against[y].append((x, -above, -below))


def lowest_fit(against: Sequence[Rule], offsets: Sequence[int]) -> int:
    """The lowest offset that no placed neighbour forbids; unplaced ones have offset -1."""
    taken = []
    for y, low, high in against:
        base = offsets[y]
        if base >= 0 and base + high > 0:
            taken.append((base + low, base + high))
    taken.sort()
    at = 0
    for low, high in taken:
        if low >= at:
            break
        if high > at:
            at = high
    return at


def stack_up(rules: Rules, order: Sequence[int]) -> tuple[list[int], int]:
    """Offsets in one endless region when buffers are placed in `order`, each as low as it goes, and the bytes used."""
    offsets = [-1] * len(rules.spans)
    top = 0
    for x in order:
        at = lowest_fit(rules.against[x], offsets)
        offsets[x] = at
        top = max(top, at + rules.spans[x].size_bytes)
    return offsets, top


def greedy_orders(rules: Rules) -> list[list[int]]:
    """Orders worth trying first: by size, by area, by lifetime, by time backwards (outputs below inputs), step by step, backwards with scratch last."""
    spans = rules.spans
    indices = list(range(len(spans)))
    length = [s.last - s.first + 1 for s in spans]
    keys = [
        lambda x: (-spans[x].size_bytes, -length[x], x),
        lambda x: (-spans[x].size_bytes * length[x], x),
        lambda x: (-length[x], -spans[x].size_bytes, x),
        lambda x: (-spans[x].size_bytes, -spans[x].first, x),
        lambda x: (-spans[x].last, -spans[x].first, x),
        lambda x: (spans[x].first, spans[x].last, x),
    ]
    backwards = sorted(indices, key=lambda x: (-spans[x].last, -spans[x].size_bytes, x))
    return [sorted(indices, key=key) for key in keys] + _by_crowded_step(rules) + [backwards]


def _by_crowded_step(rules: Rules) -> list[list[int]]:
    """The fullest step first, and in it the newest buffer, or the largest, at the bottom."""
    end = max((s.last for s in rules.spans), default=0)
    alive: list[list[int]] = [[] for _ in range(end + 1)]
    for x, span in enumerate(rules.spans):
        for n in range(span.first, span.last + 1):
            alive[n].append(x)
    steps = sorted(range(end + 1), key=lambda n: (-sum(rules.spans[x].size_bytes for x in alive[n]), n))
    orders = []
    for newest in (True, False):
        order: dict[int, None] = {}
        for n in steps:
            alive[n].sort(key=lambda x: (-rules.spans[x].first if newest else 0, -rules.spans[x].size_bytes, x))
            order.update(dict.fromkeys(alive[n]))
        orders.append(list(order))
    return orders


class _Dice:
    """A small linear congruential generator: the same numbers on every machine."""

    def __init__(self) -> None:
        self.state = 0x2545F491

    def below(self, limit: int) -> int:
        """A number in [0, limit)."""
        self.state = (self.state * 1103515245 + 12345) & 0x7FFFFFFF
        return (self.state >> 8) % limit


def pillar(rules: Rules, offsets: Sequence[int], top: int) -> list[int]:
    """Buffers that hold up the peak: the top one, what it stands on, what that stands on, down to offset 0."""
    found = [x for x, span in enumerate(rules.spans) if offsets[x] + span.size_bytes == top]
    seen = set(found)
    for x in found:  # grows while it is walked
        for y, _, high in rules.against[x]:
            if y not in seen and offsets[y] + high == offsets[x]:
                seen.add(y)
                found.append(y)
    return found


def pack_one(rules: Rules, floor: int, work: int = WORK) -> tuple[list[int], int]:
    """Offsets in one region and its size, as near to `floor` as the work allows.

    Pinned buffers meet every other one and share bytes with none, so wherever they lie they cost what they take: they go to the
    bottom, and the others are packed above them as if they were alone.
    """
    pinned = [x for x, span in enumerate(rules.spans) if span.pinned]
    if not pinned:
        return _pack(rules, floor, work)
    offsets, base = [-1] * len(rules.spans), 0
    for x in pinned:
        offsets[x], base = base, base + round_up(rules.spans[x].size_bytes, rules.alignment)
    others = [x for x in range(len(rules.spans)) if offsets[x] < 0]
    if not others:
        return offsets, offsets[pinned[-1]] + rules.spans[pinned[-1]].size_bytes
    found, top = _pack(_among(rules, others), floor - base, work)
    for x, at in zip(others, found, strict=True):
        offsets[x] = base + at
    return offsets, base + top


def _among(rules: Rules, kept: Sequence[int]) -> Rules:
    """The rules of the buffers `kept` among themselves."""
    number = {x: n for n, x in enumerate(kept)}
    against = tuple(tuple((number[y], low, high) for y, low, high in rules.against[x] if y in number) for x in kept)
    return Rules(tuple(rules.spans[x] for x in kept), against, tuple(rules.heat[x] for x in kept), rules.alignment)


def _pack(rules: Rules, floor: int, work: int) -> tuple[list[int], int]:
    """`pack_one` of buffers of which none is pinned."""
    if not rules.spans:
        return [], 0
    tried = []
    for order in greedy_orders(rules):
        offsets, top = stack_up(rules, order)
        tried.append((top, order, offsets))
        if top <= floor:
            return offsets, top
    tried.sort(key=lambda item: item[0])
    best_top, order, best = tried[0]
    rounds = max(1, work // rules.weight)
    starts = tried[:3]
    for top, order, offsets in starts:
        offsets, top = _improve(rules, order, offsets, top, floor, rounds // len(starts))
        if top < best_top:
            best, best_top = offsets, top
        if best_top <= floor:
            break
    return best, best_top


def _improve(rules: Rules, order: list[int], offsets: list[int], top: int, floor: int, rounds: int) -> tuple[list[int], int]:
    """Local search from one order: put a buffer of the peak's pillar somewhere earlier, or swap it; keep what is not worse."""
    dice = _Dice()
    order, best, best_top = list(order), offsets, top
    current, current_top = offsets, top
    critical = pillar(rules, current, current_top)
    for _ in range(rounds):
        candidate = _moved(order, critical, dice)
        placed, height = stack_up(rules, candidate)
        if height <= current_top or (dice.below(64) == 0 and height <= best_top + best_top // 16):
            order, current, current_top = candidate, placed, height
            critical = pillar(rules, current, current_top)
            if height < best_top:
                best, best_top = placed, height
                if best_top <= floor:
                    break
    return best, best_top


def _moved(order: list[int], critical: list[int], dice: _Dice) -> list[int]:
    """A neighbour of `order`: one critical buffer put elsewhere, mostly earlier, or exchanged with another buffer."""
    out = list(order)
    x = critical[dice.below(len(critical))]
    at = out.index(x)
    if dice.below(3) == 0:
        other = dice.below(len(out))
        out[at], out[other] = out[other], out[at]
        return out
    out.pop(at)
    out.insert(dice.below(max(1, at)) if dice.below(4) else dice.below(len(out) + 1), x)
    return out


def place(problem: Problem, regions: Sequence[Region], *, alignment: int = 4, work: int = WORK) -> Layout:
    """Spots for every buffer of `problem`, its steps in their order.

    Everything goes to the most liked region if it fits there. Otherwise every single region that holds it and every split
    (`spread`) are compared: first what overflows, then the bytes moved through less liked memory, then the bytes used.
    Nothing is refused: what does not fit lies beyond the end of the largest region and is counted in `overflow_bytes`.
    """
    from sdk.planner.spread import spread  # it builds on this file

    rules = make_rules(problem, alignment)
    floor = lower_bound(problem, alignment)
    offsets, top = pack_one(rules, floor, work)
    names = [span.name for span in rules.spans]
    if len(regions) == 1 or top <= regions[0].size_bytes:
        return _layout(names, [Spot(0, at) for at in offsets], _used(0, top, len(regions)), floor, regions)
    best: tuple[tuple[int, int, int], list[Spot], tuple[int, ...]] | None = None
    whole = [([Spot(r, at) for at in offsets], _used(r, top, len(regions))) for r in range(len(regions))]
    for spots, used in [*whole, *spread(rules, regions, work)]:
        cost = _cost(rules, spots, used, regions)
        if best is None or cost < best[0]:
            best = (cost, spots, used)
    assert best is not None
    return _layout(names, best[1], best[2], floor, regions)


def _used(region: int, top: int, count: int) -> tuple[int, ...]:
    return tuple(top if r == region else 0 for r in range(count))


def overflow(used: Sequence[int], regions: Sequence[Region]) -> int:
    """Bytes used beyond the end of the regions."""
    return sum(max(0, u - r.size_bytes) for u, r in zip(used, regions, strict=True))


def _cost(rules: Rules, spots: Sequence[Spot], used: Sequence[int], regions: Sequence[Region]) -> tuple[int, int, int]:
    slow = sum(heat * spot.region for heat, spot in zip(rules.heat, spots, strict=True))
    return overflow(used, regions), slow, sum(used)


def _layout(names: Sequence[str], spots: Sequence[Spot], used: tuple[int, ...], floor: int, regions: Sequence[Region]) -> Layout:
    over = overflow(used, regions)
    return Layout(dict(zip(names, spots, strict=True)), used, floor, over, sum(1 for u in used if u) <= 1 and sum(used) == floor)
