"""Which layers collapse: the least loss of accuracy that meets a budget of latency, of peak RAM, or of depth, on the device at hand.

Two stages, as in Kim et al., "Efficient Latency-Aware CNN Depth Compression via Two-Stage Dynamic Programming", ICML 2023 (arXiv 2301.12187).
First, for every stretch of the network, the ways to have it that no other way of the same stretch beats. Then, which stretches: a dynamic
programme over where one ends and the next begins. Theirs rounds latencies to a grid; ours keeps the front of (loss, latency), so that the
answer is exact. Latency is a sum over stretches, peak RAM a maximum: a stretch above the budget of RAM is simply not to be had.
`crossing_set` is the greedy rule of "Till the Layers Collapse" (arXiv 2412.15077), for comparison.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sdk.errors import DoesNotFit, UsageError

#: States kept at a place before latencies are rounded up to a grid. Real networks have some hundred.
MOST_STATES = 4000


@dataclass(frozen=True)
class Option:
    """One way to have the stretch of positions [first, last): what it removes, what that is expected to cost, what it takes on the device.

    `loss`: what it is expected to cost in accuracy, in any one unit, 0 for the stretch as it is. `peak_bytes` of activations while the stretch
    runs. `merged`: the key of the merge by which its linear operations become one, "" where they stay. `keep`: where it is not 0, only so many
    channels pass what is removed, and the layers on both sides get narrower.
    """

    first: int
    last: int
    latency_s: float
    peak_bytes: int
    loss: float = 0.0
    removes: tuple[str, ...] = ()
    merged: str = ""
    keep: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last:
            raise UsageError(f"a stretch from {self.first} to {self.last} holds nothing; it must end after it begins")
        if self.latency_s < 0 or self.peak_bytes < 0:
            raise UsageError(f"a stretch that takes {self.latency_s} s and {self.peak_bytes} bytes is not possible; costs are 0 or more")


@dataclass(frozen=True)
class Selection:
    """Options that follow one another from the first position to the last, and what they come to."""

    options: tuple[Option, ...] = field(repr=False)
    loss: float
    latency_s: float
    peak_bytes: int

    @property
    def removes(self) -> tuple[str, ...]:
        """All activations that go, in the network's order."""
        return tuple(site for option in self.options for site in option.removes)


@dataclass(frozen=True)
class _State:
    """Options up to a position, as a linked list: `before` holds the earlier ones."""

    loss: float
    latency_s: float
    removed: int
    option: Option | None = None
    before: _State | None = None


def best_ways(options: Iterable[Option]) -> dict[tuple[int, int], tuple[Option, ...]]:
    """Stage one: for each stretch (first, last) the options that no other of the same stretch equals or beats in loss, latency, peak and
    removed activations."""
    found: dict[tuple[int, int], list[Option]] = {}
    for option in sorted(options, key=lambda o: (o.loss, o.latency_s, o.peak_bytes, -len(o.removes), o.removes)):
        kept = found.setdefault((option.first, option.last), [])
        if not any(_beats(other, option) for other in kept):
            kept.append(option)
    return {stretch: tuple(kept) for stretch, kept in found.items()}


def _beats(a: Option, b: Option) -> bool:
    return a.loss <= b.loss and a.latency_s <= b.latency_s and a.peak_bytes <= b.peak_bytes and len(a.removes) >= len(b.removes)


def choose(
    options: Iterable[Option], latency_s: float | None = None, peak_bytes: int | None = None, removed: int | None = None,
) -> Selection:  # fmt: skip
    """Stage two: the options, end to end from position 0 to the last, of the least loss within the budgets; of equals the fastest.

    latency_s: the sum's budget; peak_bytes: the maximum's; removed: at least so many activations go. None: no bound.
    Raises DoesNotFit, with the best that could be had, where nothing meets the budgets; UsageError where the options leave a gap.
    """
    ways = best_ways(options)
    end = max((last for _, last in ways), default=0)
    allowed = {stretch: [o for o in kept if peak_bytes is None or o.peak_bytes <= peak_bytes] for stretch, kept in ways.items()}
    final = _fronts(allowed, end, latency_s, removed or 0)[end]
    fitting = [s for s in final if s.removed >= (removed or 0) and (latency_s is None or s.latency_s <= latency_s * (1 + 1e-12))]
    if not fitting:
        raise _refusal(ways, end, latency_s, peak_bytes, removed)
    return _selection(min(fitting, key=lambda s: (s.loss, s.latency_s)))


def _fronts(ways: Mapping[tuple[int, int], Sequence[Option]], end: int, latency_s: float | None, removed: int) -> list[list[_State]]:
    """The states at every position that none other beats; those that already exceed the budget of latency are left out."""
    fronts: list[list[_State]] = [[_State(0.0, 0.0, 0)]] + [[] for _ in range(end)]
    ending: dict[int, list[Option]] = {}
    for (_, last), kept in ways.items():
        ending.setdefault(last, []).extend(kept)
    for place in range(1, end + 1):
        grown = [_after(state, option, removed) for option in ending.get(place, ()) for state in fronts[option.first]]
        inside = [s for s in grown if latency_s is None or s.latency_s <= latency_s * (1 + 1e-12)]
        fronts[place] = _thinned(_front(inside, removed), removed)
    return fronts


def _after(state: _State, option: Option, removed: int) -> _State:
    """Counting stops at `removed`: more than asked for is not another state."""
    return _State(state.loss + option.loss, state.latency_s + option.latency_s, min(removed, state.removed + len(option.removes)), option, state)


def _front(states: Sequence[_State], removed: int) -> list[_State]:
    """Those that no other beats in loss, latency and count. By loss, then latency: an earlier one beats a later one that is not faster."""
    fastest = [float("inf")] * (removed + 1)  # [count]: of all states so far that remove at least so many
    kept = []
    for state in sorted(states, key=lambda s: (s.loss, s.latency_s, -s.removed)):
        if state.latency_s < fastest[state.removed]:
            kept.append(state)
            for count in range(state.removed + 1):
                fastest[count] = min(fastest[count], state.latency_s)
    return kept


def _thinned(front: list[_State], removed: int) -> list[_State]:
    """At most about MOST_STATES: of states of one count within one cell of latency, that of the least loss."""
    if len(front) <= MOST_STATES:
        return front
    low, high = min(s.latency_s for s in front), max(s.latency_s for s in front)
    edges = [low + (high - low) * i * (removed + 1) / MOST_STATES for i in range(MOST_STATES // (removed + 1))]
    cells: dict[tuple[int, int], _State] = {}
    for state in front:  # by loss: the first of a cell is its best
        cells.setdefault((bisect_right(edges, state.latency_s), state.removed), state)
    return list(cells.values())


def _selection(state: _State) -> Selection:
    options: list[Option] = []
    link: _State | None = state
    while link is not None and link.option is not None:
        options.append(link.option)
        link = link.before
    options.reverse()
    return Selection(tuple(options), sum(o.loss for o in options), sum(o.latency_s for o in options), max(o.peak_bytes for o in options))


def _refusal(
    ways: Mapping[tuple[int, int], Sequence[Option]], end: int, latency_s: float | None, peak_bytes: int | None, removed: int | None,
) -> DoesNotFit | UsageError:  # fmt: skip
    """Why nothing could be chosen, with the best that could."""
    whole = _fronts(ways, end, None, 0)[end] if end else []
    if not whole:
        return UsageError(f"the stretches given do not join from 0 to {end}; give one for every position")
    smallest = _smallest_peak(ways, end)
    if peak_bytes is not None and smallest > peak_bytes:
        return DoesNotFit(f"no choice of layers comes down to {peak_bytes:,} bytes of peak RAM; the smallest needs {smallest:,}, so give at least that")
    inside = {stretch: [o for o in kept if peak_bytes is None or o.peak_bytes <= peak_bytes] for stretch, kept in ways.items()}
    fastest = min(s.latency_s for s in _fronts(inside, end, None, 0)[end])
    if latency_s is not None and fastest > latency_s:
        return DoesNotFit(f"no choice of layers takes {1e3 * latency_s:.3g} ms; the fastest takes {1e3 * fastest:.4g} ms, so give at least that")
    return DoesNotFit(f"no choice of layers removes {removed} activations within the budget; ask for fewer, or give a larger budget")


def _smallest_peak(ways: Mapping[tuple[int, int], Sequence[Option]], end: int) -> int:
    """The least maximum over all ways from 0 to `end`."""
    best: list[float] = [0.0] + [float("inf")] * end
    for (first, last), kept in sorted(ways.items(), key=lambda item: item[0][1]):
        best[last] = min(best[last], max(best[first], min(o.peak_bytes for o in kept)))
    return int(best[end])


def crossing_set(gaps: Mapping[str, float], joint_gap: Callable[[Sequence[str]], float]) -> tuple[str, ...]:
    """The activations one round of the paper's greedy loop removes.

    gaps: rise of the loss when one activation alone goes. Where none lowers the loss: the least harmful one. Otherwise the n least harmful
    together, n = 2, 3, ..: the first set whose `joint_gap` is above 0 (it contains the one that made it cross); none crosses: the best alone.
    Raises UsageError where there is nothing to remove.
    """
    if not gaps:
        raise UsageError("no activation is left to remove; keep the network as it is")
    order = sorted(gaps, key=lambda site: (gaps[site], site))
    if gaps[order[0]] < 0:
        for count in range(2, len(order) + 1):
            if joint_gap(order[:count]) > 0:
                return tuple(order[:count])
    return (order[0],)
