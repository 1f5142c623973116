"""The order of steps with the lowest peak.

A set of steps already run decides what is alive, whatever order they ran in; so the search walks over those sets ("downsets")
and keeps the best peak for each: exact, and short, because a network's branches meet again. Steps that everything else comes
before or after cut the graph into parts, each searched alone. Within a part the search is best-first on the peak; a part with
more sets than the work bound is finished by a beam over the same states, so the work never grows without bound.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from sdk.planner.bounds import saving
from sdk.planner.problem import Problem

#: Sets of steps that the exact search may look at, in one part of the graph, before the beam takes over.
MOST_STATES = 20_000
#: States the beam keeps at each depth, and how many it may look at in all: a longer part gets a narrower beam.
BEAM = 48
BEAM_STATES = 12_000


@dataclass(frozen=True)
class Schedule:
    """`order[k]` is the index, in the problem given, of the step to run k-th; `peak_bytes` is its measure (no fragmentation)."""

    order: tuple[int, ...]
    peak_bytes: int
    given_peak_bytes: int
    exact: bool


class _Costs:
    """Live bytes and step costs of sets of steps, as bit masks over the problem's steps."""

    def __init__(self, problem: Problem) -> None:
        self.steps = problem.steps
        self.sizes = problem.sizes
        self.count = len(problem.steps)
        self.before = _predecessors(problem)
        self.behind = _successors(self.before)
        self.users: dict[str, int] = dict.fromkeys(problem.sizes, 0)
        self.makers: dict[str, int] = dict.fromkeys(problem.sizes, 0)
        for n, step in enumerate(problem.steps):
            for name in step.reads:
                self.users[name] |= 1 << n
            for name in step.writes:
                self.makers[name] |= 1 << n
        self.forever = set(problem.outputs) | problem.pinned
        self.present = set(problem.inputs) | problem.pinned
        self.unread = sum(self.sizes[n] for n in self.present if not self.users[n] and n not in self.forever)

    def live(self, done: int) -> int:
        """Bytes alive when exactly the steps in `done` have run."""
        return sum(size for name, size in self.sizes.items() if self._alive(name, done))

    def _alive(self, name: str, done: int) -> bool:
        if name not in self.present and not self.makers[name] & done:
            return False
        if name in self.present and not self.users[name] and not done:
            return True  # the caller writes it before step 0, though nothing reads it
        return name in self.forever or bool(self.users[name] & ~done)

    def run(self, done: int, live: int, n: int) -> tuple[int, int]:
        """(bytes needed while step `n` runs, bytes alive after it), starting from `done` with `live` bytes alive."""
        step, after = self.steps[n], done | 1 << n
        made, dead = 0, 0 if done else self.unread
        shared = []
        for name in step.writes:
            if name not in self.present and not self.makers[name] & done:
                made += self.sizes[name]
                if not self._alive(name, after):
                    dead += self.sizes[name]
        for name in step.reads:
            if not self._alive(name, after):
                dead += self.sizes[name]
                if name in step.overlap:
                    shared.append((self.sizes[name], step.overlap[name]))
        less = saving(self.sizes[step.writes[0]], shared) if shared else 0
        return live + made + step.scratch_bytes - less, live + made - dead

    def ready(self, done: int, among: Sequence[int]) -> tuple[int, ...]:
        """Steps of `among` that can run next."""
        return tuple(n for n in among if not done >> n & 1 and not self.before[n] & ~done)

    def ready_after(self, ready: tuple[int, ...], n: int, after: int) -> tuple[int, ...]:
        """What can run when `n`, one of `ready`, has run too; `after` is everything that has."""
        return (*(m for m in ready if m != n), *(m for m in self.behind[n] if not self.before[m] & ~after))


def _predecessors(problem: Problem) -> list[int]:
    """For each step, the mask of steps that must have run: those that write what it reads.

    A buffer written by several steps (a state) keeps its readers and writers in the order given.
    """
    before = [0] * len(problem.steps)
    writers: dict[str, int] = {}
    touched: dict[str, int] = {}
    for n, step in enumerate(problem.steps):
        for name in step.reads:
            before[n] |= writers.get(name, 0)
            touched[name] = touched.get(name, 0) | 1 << n
        for name in step.writes:
            if name in problem.pinned:
                before[n] |= touched.get(name, 0)
            before[n] |= writers.get(name, 0)
            writers[name] = writers.get(name, 0) | 1 << n
            touched[name] = touched.get(name, 0) | 1 << n
        before[n] &= ~(1 << n)  # a step may read what it updates
    return before


def _successors(before: Sequence[int]) -> list[list[int]]:
    """For each step, the steps that wait for it directly."""
    behind: list[list[int]] = [[] for _ in before]
    for n, mask in enumerate(before):
        while mask:
            low = mask & -mask
            behind[low.bit_length() - 1].append(n)
            mask ^= low
    return behind


def _parts(before: Sequence[int]) -> list[list[int]]:
    """The steps cut where one step is comparable with all others: it stands at the same place in every order."""
    count = len(before)
    ancestors = [0] * count
    descendants = [0] * count
    for n in range(count):  # the order given is an order that can be executed
        mask, rest = before[n], before[n]
        while rest:
            low = rest & -rest
            mask |= ancestors[low.bit_length() - 1]
            rest ^= low
        ancestors[n] = mask
    for n in range(count):
        for m in range(n):
            if ancestors[n] >> m & 1:
                descendants[m] |= 1 << n
    parts: list[list[int]] = []
    current: list[int] = []
    fixed = [(ancestors[n] | descendants[n]).bit_count() == count - 1 for n in range(count)]
    rank = [ancestors[n].bit_count() for n in range(count)]
    for n in sorted(range(count), key=lambda n: (rank[n] if fixed[n] else _span_rank(n, fixed, ancestors), n)):
        if fixed[n]:
            parts += [current] if current else []
            parts.append([n])
            current = []
        else:
            current.append(n)
    return parts + ([current] if current else [])


def _span_rank(n: int, fixed: Sequence[bool], ancestors: Sequence[int]) -> float:
    """Where a step that is not fixed sorts: just behind the last fixed step that comes before it."""
    behind = [ancestors[m].bit_count() for m in range(len(fixed)) if fixed[m] and ancestors[n] >> m & 1]
    return max(behind) + 0.5 if behind else -0.5


def best_order(problem: Problem, *, most_states: int = MOST_STATES, beam: int = BEAM) -> Schedule:
    """The order with the lowest peak; the given one when no other is lower.

    The peak counts sharing of bytes between a step's dying inputs and its output as far as the kernel allows it.
    """
    costs = _Costs(problem)
    order: list[int] = []
    done, peak, exact = 0, 0, True
    given_peak = _peak_of(costs, range(costs.count))
    for part in _parts(costs.before):
        live = costs.live(done)
        if len(part) == 1:
            found, top, sure = part, costs.run(done, live, part[0])[0], True
        else:
            found, top, sure = _search(costs, done, live, sorted(part), most_states, beam)
        order += found
        peak, exact = max(peak, top), exact and sure
        for n in part:
            done |= 1 << n
    if peak >= given_peak:
        return Schedule(tuple(range(costs.count)), given_peak, given_peak, exact)
    return Schedule(tuple(order), peak, given_peak, exact)


def _peak_of(costs: _Costs, order: Sequence[int], done: int = 0) -> int:
    """Peak of the steps in `order`, run after those in `done`."""
    live, peak = costs.live(done), 0
    for n in order:
        need, live = costs.run(done, live, n)
        peak, done = max(peak, need), done | 1 << n
    return peak


def _search(costs: _Costs, start: int, live: int, part: Sequence[int], most_states: int, beam: int) -> tuple[list[int], int, bool]:
    """(order, peak, exact) of one part: best-first over downsets, at most `most_states` of them, else the beam."""
    given = _peak_of(costs, part, start)
    goal = start
    for n in part:
        goal |= 1 << n
    best = {start: 0}
    came: dict[int, tuple[int, int]] = {}
    alive = {start: live}
    ready = {start: costs.ready(start, part)}
    inside = set(part)
    queue: list[tuple[int, int, int]] = [(0, 0, start)]  # peak so far, steps still to go, set: deeper first among equals
    while queue:
        peak, _, done = heapq.heappop(queue)
        if peak > best[done]:
            continue
        if done == goal:
            return _walk_back(came, start, goal), peak, True
        if len(best) > most_states:
            return _beam(costs, start, live, part, beam, given)
        for n in ready[done]:
            need, left = costs.run(done, alive[done], n)
            top, after = max(peak, need), done | 1 << n
            if top <= given and top < best.get(after, given + 1):
                best[after], came[after], alive[after] = top, (done, n), left
                ready[after] = tuple(m for m in costs.ready_after(ready[done], n, after) if m in inside)
                heapq.heappush(queue, (top, len(part) - (after ^ start).bit_count(), after))
    return list(part), given, True


def _walk_back(came: dict[int, tuple[int, int]], start: int, goal: int) -> list[int]:
    order = []
    while goal != start:
        goal, n = came[goal]
        order.append(n)
    return order[::-1]


@dataclass(frozen=True)
class _State:
    """A set of steps that have run, as the beam reaches it."""

    peak: int
    live: int
    ready: tuple[int, ...]
    last: int = -1
    parent: _State | None = None

    def path(self) -> list[int]:
        """The steps in the order they ran."""
        steps: list[int] = []
        state: _State | None = self
        while state is not None and state.last >= 0:
            steps.append(state.last)
            state = state.parent
        return steps[::-1]


def _beam(costs: _Costs, start: int, live: int, part: Sequence[int], width: int, given: int) -> tuple[list[int], int, bool]:
    """The best of the order given and a beam that keeps, at each depth, the sets with the lowest (peak, alive)."""
    width = max(2, min(width, BEAM_STATES // len(part)))
    inside = set(part)
    layer = {start: _State(0, live, costs.ready(start, part))}
    for _ in part:
        reached: dict[int, tuple[int, int, int, int]] = {}  # set -> (peak, alive, step that led there, from where)
        for done, state in layer.items():
            for n in state.ready:
                need, left = costs.run(done, state.live, n)
                after, found = done | 1 << n, (max(state.peak, need), left, n, done)
                if after not in reached or found < reached[after]:
                    reached[after] = found
        following = {}
        for after, (peak, left, n, done) in sorted(reached.items(), key=lambda item: item[1])[:width]:
            ready = tuple(m for m in costs.ready_after(layer[done].ready, n, after) if m in inside)
            following[after] = _State(peak, left, ready, n, layer[done])
        layer = following
    best = next(iter(layer.values()))
    return (best.path(), best.peak, False) if best.peak < given else (list(part), given, False)
