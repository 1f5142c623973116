"""Which layers learn, and how: an exact programme over Pareto fronts, on bytes.

A training step goes forward through the layers and back again. While it stands at layer l (either way) it holds what layers start..l
keep for their backward, and what is alive at l itself. What layers behind l keep is not there yet, or gone again. So

    peak = fixed + sum of persistent bytes + max(prefix, max over l of (saved of start..l + transient of l))

and, seen from the last layer, the bracket is M(l) = saved(l) + max(transient(l), M(l + 1)): the programme walks from the last layer to
the first and keeps, of all partial selections, those that no other beats in persistent bytes, M and value at once. Nothing is rounded.
Where the trained part starts is one more loop over the same fronts: the first trained layer needs no input gradient, layers in front
of it keep nothing. Two bounds keep the fronts short without losing the best: a quick selection found on thinned fronts (below), and the
linear relaxation of what the layers in front could still add (above); a partial selection that cannot reach the first is dropped.
Layers that are chosen together (a block that is recomputed) are one step of the walk, from the front behind the last of them.
Where a front grows past `STATES` all the same, of values next to each other only one stays (`merged`), then of states of nearly the same
bytes (`thinned`): sizes are never rounded, so no selection is ever over the budget. What can be lost by the first is added up, what
could have come of those that the second drops is bounded, and so the result tells how far from the best it can be.
Sinha and Zoltners (1979) give the relaxation, Nemhauser and Ullmann (1969) the fronts; here a third coordinate, M, is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sdk.planner.training.fronts import Bounds, Front, Joint, Option, merged, thinned, undominated

#: States of a front above which those of nearly the same value are merged.
STATES = 3072
#: Values that may be taken for the same, as shares of the value at hand: the first that is tried, and the largest.
_COARSE, _COARSEST = 1e-7, 3e-5
#: States kept by the quick selection.
_THIN = 512
#: Values that differ by less, relatively, count as equal when a bound is compared: sums of floats in another order.
_EPSILON = 1e-9


@dataclass(frozen=True)
class Chosen:
    """The best selection under a budget: an option for each layer (`options`, forward order), `start` the first that trains.

    most: no selection within the budget has a value above this; it is `value` itself where the choice is exact.
    states: partial selections that were looked at.
    """

    options: tuple[Option, ...]
    start: int
    value: float
    peak_bytes: int
    step_s: float
    most: float = np.inf
    states: int = 0

    @property
    def exact(self) -> bool:
        """True where it is proved that no selection is worth more."""
        return self.most <= self.value + _EPSILON * (1 + abs(self.value))

    @property
    def gap(self) -> float:
        """The share of the largest value possible that this one may be short of, at most."""
        return 0.0 if self.exact else 1 - self.value / self.most


def choose(
    layers: Sequence[Sequence[Option]], budget_bytes: int, fixed_bytes: int = 0, prefix_bytes: Sequence[int] = (), after_bytes: int = 0, quick: bool = False,
    joints: Sequence[Joint] = (),
) -> Chosen | None:  # fmt: skip
    """The selection of largest value whose peak is at most `budget_bytes`; None where not even one layer can train.

    layers: the options of each layer, forward order. The first option of a layer freezes it; a layer without one must train, and so
    none behind it may be where training starts. fixed_bytes: weights and runtime, always there. prefix_bytes: for each layer, the
    largest live bytes of the forward pass in front of it; nothing is 0. after_bytes: live behind the last layer (logits, loss).
    joints: options of layers next to each other that are chosen together, beside those of each layer alone.
    quick: on thinned fronts only: a real selection within the budget, tenths of a percent from the best.
    A choice among millions of partial selections need not be exact: `most` and `gap` of the result tell what is known.
    Where two selections are equal in value and memory, the one with the shorter step wins.
    """
    _check(layers, joints)
    prefix = tuple(prefix_bytes) or (0,) * len(layers)
    problem = _Problem(layers, joints, budget_bytes - fixed_bytes, prefix, after_bytes)
    best = _search(problem, thin=_THIN)
    if not quick:
        thorough = _search(problem, at_least=-np.inf if best is None else best.value)
        best = thorough if best is None else _better(best, thorough)
    return None if best is None else replace(best, peak_bytes=best.peak_bytes + fixed_bytes)


def _better(quick: Chosen, found: Chosen | None) -> Chosen:
    """The better of two selections for the same wish, with the least that is known to be the most; of equal value the second, which is thorough."""
    best = quick if found is None or found.value < quick.value else found
    most = quick.most if found is None else min(quick.most, found.most)
    return replace(best, most=max(most, best.value), states=quick.states + (0 if found is None else found.states))


def smallest(
    layers: Sequence[Sequence[Option]], fixed_bytes: int = 0, prefix_bytes: Sequence[int] = (), after_bytes: int = 0, joints: Sequence[Joint] = ()
) -> Chosen:
    """The selection that trains something in the least memory: its `peak_bytes` is the smallest feasible budget.

    Raises ValueError where no layer has an option that trains.
    """
    _check(layers, joints)
    prefix = tuple(prefix_bytes) or (0,) * len(layers)
    origin: dict[int, Option] = {}
    equal = [[_worthless(o, origin) for o in options] for options in layers]
    together = [replace(joint, options=tuple(_worthless(o, origin) for o in joint.options)) for joint in joints]
    found = _search(_Problem(equal, together, 2**62, prefix, after_bytes), least=True)
    if found is None:
        raise ValueError("no layer has an option that trains")
    back = tuple(origin[id(o)] for o in found.options)
    return replace(found, options=back, value=sum(o.value for o in back), peak_bytes=found.peak_bytes + fixed_bytes, most=np.inf)


def peak_of(options: Sequence[Option], fixed_bytes: int = 0, prefix_bytes: Sequence[int] = (), after_bytes: int = 0) -> int:
    """The peak of a given selection, by walking through the step; what `choose` promises is this number."""
    start = next((i for i, o in enumerate(options) if o.trains), len(options))
    held, high = 0, prefix_bytes[min(start, len(options) - 1)] if prefix_bytes else 0
    for i in range(start, len(options)):
        held += options[i].saved_bytes
        high = max(high, held + (options[i].first_transient_bytes if i == start else options[i].transient_bytes))
    return fixed_bytes + sum(o.persistent_bytes for o in options[start:]) + max(high, held + after_bytes)


def curve(
    layers: Sequence[Sequence[Option]], budgets: Sequence[int], fixed_bytes: int = 0, prefix_bytes: Sequence[int] = (), after_bytes: int = 0,
    joints: Sequence[Joint] = (),
) -> tuple[Chosen, ...]:  # fmt: skip
    """A good selection at each budget (`choose` with `quick`), without those in which nothing trains and those that gain nothing more."""
    found: list[Chosen] = []
    for budget in sorted(budgets):
        chosen = choose(layers, budget, fixed_bytes, prefix_bytes, after_bytes, True, joints)
        if chosen is not None and (not found or chosen.value > found[-1].value):
            found.append(chosen)
    return tuple(found)


def _worthless(option: Option, origin: dict[int, Option]) -> Option:
    """The option without its value; `origin` remembers what it was made from."""
    made = replace(option, value=0.0)
    origin[id(made)] = option
    return made


def _check(layers: Sequence[Sequence[Option]], joints: Sequence[Joint]) -> None:
    if not layers or any(not options or any(not o.trains for o in options[1:]) for options in layers):
        raise ValueError("every layer needs options, and at most the first of them freezes it")
    if any(joint.first < 0 or joint.end > len(layers) or not joint.options or not all(o.trains for o in joint.options) for joint in joints):
        raise ValueError("options that are chosen together need layers next to each other, all of which train")


@dataclass(frozen=True)
class _Problem:
    """What is chosen from, as `choose` has it. room: bytes beside the fixed ones."""

    layers: Sequence[Sequence[Option]]
    joints: Sequence[Joint]
    room: int
    prefix: Sequence[int]
    after: int


def _search(problem: _Problem, at_least: float = -np.inf, thin: int | None = None, least: bool = False) -> Chosen | None:
    """From the last layer to the first: extend the front, and try each layer as the first that trains.

    at_least: a value known to be reached; thin: states to keep at most; least: look for the smallest peak in place of the largest value.
    """
    layers, room = problem.layers, problem.room
    walk = _Extension(Bounds(layers, room, problem.joints), room, thin, least)
    latest = next((i for i, options in enumerate(layers) if options[0].trains), len(layers))
    zero, after = np.zeros(1, np.int64), np.full(1, problem.after, np.int64)
    fronts = [Front(zero, after, np.zeros(1), np.zeros(1), zero, zero)]
    best: tuple[tuple[float, ...], int, int, int] | None = None  # (rank, start, way, row of the front behind)
    for s in range(len(layers) - 1, -1, -1):
        ways = _ways(layers, problem.joints, s)
        found = _best_start(fronts, ways, room, problem.prefix[s], least) if s <= latest else None
        if found is not None and (best is None or found[0] > best[0]):
            best = (found[0], s, found[1], found[2])
        if s and best is not None and not least:
            at_least = max(at_least, best[0][0])
        if best is not None and least:
            walk.room = int(-best[0][0])
        if s:
            fronts.append(walk.extended(fronts, ways, s, at_least))
    if best is None:
        return None
    chosen = _trace(problem, fronts, best[1], best[2], best[3])
    whole = float(walk.bounds.of(len(layers), zero, after)[0])
    return replace(chosen, most=max(chosen.value, min(whole, walk.most(max(at_least, chosen.value)))), states=walk.states)


@dataclass(frozen=True)
class _Way:
    """One way to treat the next layers in front: `picked` are their options, one each, and `option` is all of these."""

    option: Option
    picked: tuple[Option, ...]
    starts: bool = True
    inner: bool = True


def _ways(layers: Sequence[Sequence[Option]], joints: Sequence[Joint], s: int) -> list[_Way]:
    """The layer's own options, then those that it is chosen by together with layers behind it."""
    own = [_Way(o, (o,), o.trains) for o in layers[s]]
    return own + [_Way(joint.whole, joint.options, joint.starts, joint.inner) for joint in joints if joint.first == s]


def _best_start(fronts: Sequence[Front], ways: Sequence[_Way], room: int, prefix: int, least: bool) -> tuple[tuple[float, ...], int, int] | None:
    """(rank, way, row) of the best selection that starts to train in one of these ways; None where none fits. The last front is the next layer's."""
    best: tuple[tuple[float, ...], int, int] | None = None
    for k, way in enumerate(ways):
        o, front = way.option, fronts[len(fronts) - len(way.picked)]
        if not way.starts or not len(front):
            continue
        high = o.saved_bytes + np.maximum(front.high, o.first_transient_bytes)
        peak = front.persistent + o.persistent_bytes + np.maximum(high, prefix)
        fits = np.flatnonzero(peak <= room)
        if not len(fits):
            continue
        value, seconds = front.value[fits] + o.value, front.seconds[fits] + o.first_step_s
        keys = (seconds, peak[fits]) if least else (peak[fits], seconds, -value)
        row = int(fits[np.lexsort(keys)[0]])
        at = (-float(peak[row]),) if least else (float(front.value[row] + o.value), -float(front.seconds[row] + o.first_step_s), -float(peak[row]))
        if best is None or at > best[0]:
            best = (at, k, row)
    return best


class _Extension:
    """Extends fronts, and adds up what may be lost where they are cut short.

    dropped: the most value that any partial selection dropped by thinning could have come to; lost: what merging may have cost, in all.
    """

    def __init__(self, bounds: Bounds, room: int, thin: int | None, least: bool) -> None:
        self.bounds, self.room, self._thin, self._least = bounds, room, thin, least
        self.dropped, self.lost, self.states = -np.inf, 0.0, 0

    def most(self, reached: float) -> float:
        """No selection is worth more than this, where `reached` is the largest value known to be possible."""
        return max(self.dropped, reached) + self.lost

    def extended(self, fronts: Sequence[Front], ways: Sequence[_Way], layer: int, at_least: float) -> Front:
        """Every state with every way to go on in front of it, without what is too large, cannot win, or is beaten."""
        parts = [_with(fronts[len(fronts) - len(way.picked)], way.option, k) for k, way in enumerate(ways) if way.inner]
        made = Front(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        self.states += len(made)
        made = made.keep(np.flatnonzero(made.persistent + made.high <= self.room))
        if not self._least and len(made):
            made = made.keep(np.flatnonzero(self._reach(layer, made) >= at_least - _EPSILON * (1 + abs(at_least))))
        made = made.keep(undominated(made.persistent, made.high, made.value, made.seconds))
        return made if self._least else self._short(made, layer, at_least)

    def _reach(self, layer: int, front: Front) -> np.ndarray:
        return front.value + self.bounds.of(layer, front.persistent, front.high)

    def _short(self, front: Front, layer: int, at_least: float) -> Front:
        """The front itself, or so many of its states as are let be."""
        count = STATES if self._thin is None else self._thin
        if self._thin is None and len(front) > count:
            known = max(at_least, float(front.value.max()))
            rows, step = merged(front, count, _COARSE * known, _COARSEST * known)
            self.lost += step
            front = front.keep(rows)
        if len(front) > count:
            reach = self._reach(layer, front)
            rows = thinned(front, count, reach)
            self.dropped = max(self.dropped, float(np.delete(reach, rows).max()))
            front = front.keep(rows)
        return front


def _with(front: Front, o: Option, way: int) -> tuple[np.ndarray, ...]:
    """The columns of a front behind one more option."""
    high = o.saved_bytes + np.maximum(o.transient_bytes, front.high)
    rows = np.arange(len(front))
    return front.persistent + o.persistent_bytes, high, front.value + o.value, front.seconds + o.step_s, rows, np.full(len(front), way)


def _trace(problem: _Problem, fronts: Sequence[Front], start: int, way: int, row: int) -> Chosen:
    """The selection behind a row: frozen up to `start`, then back through the fronts."""
    layers = problem.layers
    picked = [options[0] for options in layers[:start]]
    while True:
        picked += _ways(layers, problem.joints, len(picked))[way].picked
        if len(picked) == len(layers):
            break
        front = fronts[len(layers) - len(picked)]
        way, row = int(front.option[row]), int(front.parent[row])
    options = tuple(picked)
    seconds = options[start].first_step_s + sum(o.step_s for o in options[start + 1 :])
    return Chosen(options, start, sum(o.value for o in options), peak_of(options, 0, problem.prefix, problem.after), seconds)
