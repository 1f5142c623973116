"""What `choose` walks over: the options of a layer, fronts of partial selections, and the most that layers may still add."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from sdk.planner.training.records import Choice

#: Narrow places that bounds look at, beside the end of the forward pass.
_PLACES = 4
#: Bytes that nothing has.
_NEVER = 2**62


@dataclass(frozen=True)
class Option:
    """One way to treat one layer, and what it takes; all bytes for the (micro-)batch that is planned.

    saved_bytes: kept from the forward pass until this layer's backward, masks included. constant_bytes: bases, which do not grow with
    the batch. weight_bytes: what training adds to the model's own weights (adapter, momentum, accumulated gradients).
    transient_bytes: live tensors and workspace at this layer's worst moment, beyond what is saved. step_s: seconds per step.
    first_transient_bytes, first_step_s: the same when this is the first trained layer, which needs no input gradient.
    value: expected decrease of the loss, in any unit. trains: false where nothing of the layer learns.
    """

    choice: Choice
    value: float = 0.0
    saved_bytes: int = 0
    constant_bytes: int = 0
    weight_bytes: int = 0
    transient_bytes: int = 0
    step_s: float = 0.0
    first_transient_bytes: int = 0
    first_step_s: float = 0.0

    @property
    def trains(self) -> bool:
        """True when something of the layer learns."""
        return self.choice.method != "freeze"

    @property
    def persistent_bytes(self) -> int:
        """Held through the whole of training."""
        return self.constant_bytes + self.weight_bytes


@dataclass(frozen=True)
class Joint:
    """Options of layers next to each other that are chosen all together or not at all, as in a block that is recomputed.

    first: index of the first layer. options: one for each, all of which train. starts, inner: whether training may start with it, and whether
    it may lie behind where training starts.
    """

    first: int
    options: tuple[Option, ...]
    starts: bool = True
    inner: bool = True

    @property
    def end(self) -> int:
        """Index of the first layer behind."""
        return self.first + len(self.options)

    @cached_property
    def whole(self) -> Option:
        """All of them as one layer's option: its transients are those of its worst moment, beyond what all of them keep."""
        held, high, first = 0, [], []
        for i, o in enumerate(self.options):
            held += o.saved_bytes
            high.append(held + o.transient_bytes)
            first.append(held + (o.transient_bytes if i else o.first_transient_bytes))
        seconds = sum(o.step_s for o in self.options)
        return Option(
            self.options[0].choice, sum(o.value for o in self.options), held, sum(o.constant_bytes for o in self.options),
            sum(o.weight_bytes for o in self.options), max(high) - held, seconds,
            max(first) - held, seconds - self.options[0].step_s + self.options[0].first_step_s,
        )  # fmt: skip

    def shares(self) -> list[tuple[float, float]]:
        """(bytes, value) of each layer, what they keep spread as their values are: for a bound, any spreading will do."""
        whole = self.whole
        return [
            (o.persistent_bytes + whole.saved_bytes * (o.value / whole.value if whole.value else 1 / len(self.options)), o.value) for o in self.options
        ]


@dataclass(frozen=True)
class Front:
    """Partial selections of layers s..: persistent bytes, M, value, seconds, [n] each, with the state they came from and the option."""

    persistent: np.ndarray
    high: np.ndarray
    value: np.ndarray
    seconds: np.ndarray
    parent: np.ndarray
    option: np.ndarray

    def __len__(self) -> int:
        return len(self.value)

    def keep(self, rows: np.ndarray) -> Front:
        """The front of these rows."""
        return Front(*(a[rows] for a in (self.persistent, self.high, self.value, self.seconds, self.parent, self.option)))


def undominated(persistent: np.ndarray, high: np.ndarray, value: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Rows that no other row beats or equals in persistent bytes, M and value; of equal rows the one with the fewest seconds.

    Rows are taken by falling value; those seen so far stand as a staircase (persistent up, M down), and a row under it is beaten.
    """
    order = np.lexsort((seconds, high, persistent, -value))
    xs: list[int] = []
    ys: list[int] = []
    kept: list[int] = []
    for row, x, y in zip(order.tolist(), persistent[order].tolist(), high[order].tolist(), strict=True):
        at = bisect_right(xs, x)
        if at and ys[at - 1] <= y:
            continue
        kept.append(row)
        at = bisect_left(xs, x)
        end = at
        while end < len(xs) and ys[end] >= y:
            end += 1
        xs[at:end], ys[at:end] = [x], [y]
    return np.array(kept, np.int64)


def thinned(front: Front, count: int, reach: np.ndarray) -> np.ndarray:
    """At most `count` rows: of stretches of equal length by the persistent bytes, and by the total, those that may come to most. reach: [n]."""
    found = []
    for sizes in (front.persistent, front.persistent + front.high):
        order = np.lexsort((front.value, sizes))
        found += [part[np.argmax(reach[part])] for part in np.array_split(order, count // 2)]
    return np.unique(np.array(found, np.int64))


def merged(front: Front, count: int, coarse: float, coarsest: float) -> tuple[np.ndarray, float]:
    """(rows that are left, the most value that is lost by taking them for all): of values within a step of each other, one counts.

    coarse: the first step that is tried; four times as much while more than `count` rows are left, up to `coarsest`. A row that goes has
    one that stays which takes no more persistent bytes and no more M, and whose value is less by under the last step: steps of powers
    of two are nested. Sizes are never rounded.
    """
    rows, step = np.arange(len(front)), coarse / 4
    while len(rows) > count and 4 * step <= coarsest:
        step *= 4
        left = front.keep(rows)
        rows = rows[undominated(left.persistent, left.high, np.floor(left.value / step), -left.value)]
    return rows, step


class Bounds:
    """The most value that the layers in front of one may still add: linear relaxations of bytes, the smallest of several.

    A layer can only be reached where its own least need fits beside what is persistent already; what lies in front of one that
    cannot be reached adds nothing. One relaxation looks at the end of the forward pass; others at a narrow place, a layer whose
    transients are large: what layers behind it keep is not there at that moment, so only their persistent bytes count.
    """

    def __init__(self, layers: Sequence[Sequence[Option]], room: int, joints: Sequence[Joint] = ()) -> None:
        self._room = room
        prices = [[_price(o) for o in options] for options in layers]
        for joint in joints:
            whole = _price(joint.whole)
            if min(whole.peak, whole.first) <= room:
                for i, share in enumerate(joint.shares()):
                    prices[joint.first + i].append(_part(whole, joint.options[i], share, i == 0))
        self._inner = np.array([min(p.whole for p in row) for row in prices], np.int64)
        self._start = np.array([min(p.whole_first for p in row) for row in prices], np.int64)
        self._least = [(min(p.peak for p in row), min(p.first for p in row)) for row in prices]
        fit = [[p for p in row if min(p.peak, p.first) <= room] for row in prices]
        self._light = [_hull([(p.persistent, p.value) for p in row]) for row in fit]
        self._kept = [_hull([(p.kept, p.value) for p in row]) for row in fit]
        self._peak = [(_hull([(p.peak - inner, p.value) for p in row if p.peak <= room]), _hull([(p.first - first, p.value) for p in row if p.first <= room]))
                      for row, (inner, first) in zip(fit, self._least, strict=True)]  # fmt: skip
        self._made: dict[tuple[int, int, int, bool], tuple[np.ndarray, np.ndarray]] = {}

    def of(self, layer: int, persistent: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Upper bound of what the layers in front of `layer` add to each state, [n]."""
        start = self._earliest(layer, persistent)
        bound = np.zeros(len(persistent))
        for first in np.unique(start):
            rows = start == first
            bound[rows] = self._bound(int(first), layer, self._room - persistent[rows], high[rows])
        return bound

    def _bound(self, first: int, layer: int, left: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The same for states from which training may start at `first` or behind it. left: bytes beside what is persistent.

        Where training starts in front of a narrow place, that place counts; so the starts between two of them are looked at together.
        """
        places = self._narrow(first, layer)
        best = np.zeros(len(left))
        for k, begin in enumerate([first, *(at + 1 for at in places)]):
            behind = [self._add(at, begin, layer, left) for at in places[k:] if begin < at]
            if begin < (places[k] if k < len(places) else layer):
                best = np.maximum(best, np.minimum.reduce([self._add(layer, begin, layer, left - high), *behind]))
            if k < len(places):
                at = places[k]
                later = [self._add(other, at, layer, left) for other in places[k + 1 :]]
                best = np.maximum(best, np.minimum.reduce([self._add(layer, at, layer, left - high), self._add(at, at, layer, left, True), *later]))
        return best

    def _narrow(self, first: int, layer: int) -> list[int]:
        """The layers in first..layer - 1 that need most beside what is kept, each with those behind it left."""
        found: list[int] = []
        while first < layer and len(found) < _PLACES:
            found.append(first + int(np.argmax([inner for inner, _ in self._least[first:layer]])))
            first = found[-1] + 1
        return found

    def _earliest(self, layer: int, persistent: np.ndarray) -> np.ndarray:
        """For each state the first layer that training could start at, `layer` for none: all between it and `layer` must pass their gradient on."""
        left = self._room - persistent
        needs = np.maximum.accumulate(np.array([0, *self._inner[1:layer][::-1]], np.int64))  # of passing layer - 1, layer - 2, ..
        passed = np.searchsorted(needs, left, side="right")  # how many of them, one more than the inner ones
        reached = np.maximum(layer - np.maximum(passed, 1), 0)
        for first in np.unique(reached):
            rows = reached == first
            least = np.minimum.accumulate(self._start[first:layer])
            reached[rows] = first + np.searchsorted(-least, -left[rows], side="left")
        return reached

    def _add(self, at: int, first: int, layer: int, left: np.ndarray, starts: bool = False) -> np.ndarray:
        """The most that layers first..layer - 1 add within `left` bytes at the moment of layer `at` (`layer`: when forward has ended).

        starts: training starts at `at`.
        """
        key = (at, first, layer, starts)
        if key not in self._made:
            pieces = [*self._kept[first:at], *(kinds[starts] for kinds in self._peak[at : min(at + 1, layer)]), *self._light[at + 1 : layer]]
            sizes, values = np.concatenate(pieces).T
            order = np.argsort(-values / np.maximum(sizes, 1e-9), kind="stable")
            self._made[key] = np.cumsum([0.0, *sizes[order]]), np.cumsum([0.0, *values[order]])
        cost, value = self._made[key]
        beside = left - self._least[at][starts] if at < layer else left
        return np.where(beside >= 0, np.interp(beside, cost, value), -np.inf)


@dataclass(frozen=True)
class _Price:
    """Least bytes of an option: held through training (persistent), with what it keeps, and with transients, inner or where training starts.

    whole, whole_first: the same of all layers that are chosen with it.
    """

    persistent: int
    kept: float
    peak: float
    first: float
    value: float
    whole: float
    whole_first: float


def _price(o: Option) -> _Price:
    kept = o.persistent_bytes + o.saved_bytes
    peak, first = kept + o.transient_bytes, kept + o.first_transient_bytes if o.trains else _NEVER
    return _Price(o.persistent_bytes, kept, peak, first, o.value, peak, first)


def _part(whole: _Price, o: Option, share: tuple[float, float], leads: bool) -> _Price:
    """One layer's part of what is chosen together; where training starts with it, that is seen in all its layers."""
    least = min(whole.peak, whole.first)
    peak = share[0] + (whole.peak if leads else least) - whole.kept
    first = share[0] + whole.first - whole.kept if leads else _NEVER
    return _Price(o.persistent_bytes, share[0], peak, first, share[1], least, whole.first if leads else _NEVER)


def _hull(points: Sequence[tuple[float, float]]) -> np.ndarray:
    """The pieces [n, 2] (bytes, value) of the upper concave hull from (0, 0) through the points."""
    hull: list[tuple[float, float]] = [(0.0, max([0.0, *(v for c, v in points if c <= 0)]))]
    for cost, value in sorted(points, key=lambda p: (p[0], -p[1])):
        if value <= hull[-1][1] or cost <= 0:
            continue
        while len(hull) > 1 and (value - hull[-1][1]) * (hull[-1][0] - hull[-2][0]) >= (hull[-1][1] - hull[-2][1]) * (cost - hull[-1][0]):
            hull.pop()
        hull.append((cost, value))
    base = [(0.0, hull[0][1])] if hull[0][1] else []
    return np.array(base + [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(hull)], np.float64).reshape(-1, 2)
