"""What `choose` walks over: the options of a layer, fronts of partial selections, and the most that layers may still add."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from sdk.planner.training.records import Choice


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


def thinned(front: Front, count: int) -> np.ndarray:
    """`count` rows, evenly over the total bytes, the most valuable of each stretch."""
    total = front.persistent + front.high
    order = np.argsort(total, kind="stable")
    return np.array([part[np.argmax(front.value[part])] for part in np.array_split(order, count)], np.int64)


class Bounds:
    """The most value that the layers in front of one may still add: a linear relaxation of bytes, which also sees the transients.

    A layer can only be reached where its own least need fits beside what is persistent already; what lies in front of one that
    cannot be reached adds nothing.
    """

    def __init__(self, layers: Sequence[Sequence[Option]], room: int, joints: Sequence[Joint] = ()) -> None:
        self._room = room
        sizes: list[list[tuple[float, float]]] = [[(o.persistent_bytes + o.saved_bytes, o.value) for o in options] for options in layers]
        needs = [min(o.persistent_bytes + o.saved_bytes + o.transient_bytes for o in options) for options in layers]
        for joint in joints:
            least = joint.whole.persistent_bytes + joint.whole.saved_bytes + min(joint.whole.transient_bytes, joint.whole.first_transient_bytes)
            for i, share in enumerate(joint.shares(), joint.first):
                sizes[i].append(share)
                needs[i] = min(needs[i], least)
        self._pieces = [_hull([point for point in points if point[0] <= room]) for points in sizes]
        self._inner = needs
        self._made: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def of(self, layer: int, persistent: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Upper bound of what the layers in front of `layer` add to each state, [n]."""
        start = self._earliest(layer, persistent)
        bound = np.zeros(len(persistent))
        for first in np.unique(start):
            rows = start == first
            cost, value = self._line(int(first), layer)
            bound[rows] = np.interp(self._room - persistent[rows] - high[rows], cost, value)
        return bound

    def _earliest(self, layer: int, persistent: np.ndarray) -> np.ndarray:
        """For each state the first layer that training could start at: all between it and `layer` must pass their gradient on."""
        needs = np.maximum.accumulate(np.array([0, *self._inner[1:layer][::-1]], np.int64))  # of passing layer - 1, layer - 2, ..
        passed = np.searchsorted(needs, self._room - persistent, side="right")  # how many of them, one more than the inner ones
        return np.maximum(layer - np.maximum(passed, 1), 0)

    def _line(self, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """(bytes, value) corners of the concave line of layers first..end - 1."""
        if (first, end) not in self._made:
            pieces = [p for each in self._pieces[first:end] for p in each]
            sloped = sorted((p for p in pieces if p[0] > 0), key=lambda p: -p[1] / p[0])
            free = sum(p[1] for p in pieces if p[0] == 0)
            self._made[first, end] = np.cumsum([0.0, *(p[0] for p in sloped)]), np.cumsum([free, *(p[1] for p in sloped)])
        return self._made[first, end]


def _hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The pieces (bytes, value) of the upper concave hull from (0, 0) through the points."""
    hull: list[tuple[float, float]] = [(0.0, max([0.0, *(v for c, v in points if c <= 0)]))]
    for cost, value in sorted(points, key=lambda p: (p[0], -p[1])):
        if value <= hull[-1][1] or cost <= 0:
            continue
        while len(hull) > 1 and (value - hull[-1][1]) * (hull[-1][0] - hull[-2][0]) >= (hull[-1][1] - hull[-2][1]) * (cost - hull[-1][0]):
            hull.pop()
        hull.append((cost, value))
    base = [(0.0, hull[0][1])] if hull[0][1] else []
    return base + [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(hull)]
