"""Which layers learn, and how: an exact programme over Pareto fronts, on bytes.

A training step goes forward through the layers and back again. While it stands at layer l (either way) it holds what layers start..l
keep for their backward, and what is alive at l itself. What layers behind l keep is not there yet, or gone again. So

    peak = fixed + sum of persistent bytes + max(prefix, max over l of (saved of start..l + transient of l))

and, seen from the last layer, the bracket is M(l) = saved(l) + max(transient(l), M(l + 1)): the programme walks from the last layer to
the first and keeps, of all partial selections, those that no other beats in persistent bytes, M and value at once. Nothing is rounded.
Where the trained part starts is one more loop over the same fronts: the first trained layer needs no input gradient, layers in front
of it keep nothing. Two bounds keep the fronts short without losing the best: a quick selection found on thinned fronts (below), and the
linear relaxation of what the layers in front could still add (above); a partial selection that cannot reach the first is dropped.
Sinha and Zoltners (1979) give the relaxation, Nemhauser and Ullmann (1969) the fronts; here a third coordinate, M, is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sdk.planner.training.fronts import Bounds, Front, Option, thinned, undominated

#: States kept by the quick selection.
_THIN = 512
#: Values that differ by less, relatively, count as equal when a bound is compared: sums of floats in another order.
_EPSILON = 1e-9


@dataclass(frozen=True)
class Chosen:
    """The best selection under a budget: an option for each layer (`options`, forward order), `start` the first that trains."""

    options: tuple[Option, ...]
    start: int
    value: float
    peak_bytes: int
    step_s: float


def choose(
    layers: Sequence[Sequence[Option]], budget_bytes: int, fixed_bytes: int = 0, prefix_bytes: Sequence[int] = (), after_bytes: int = 0, quick: bool = False
) -> Chosen | None:
    """The selection of largest value whose peak is at most `budget_bytes`; None where not even one layer can train.

    layers: the options of each layer, forward order. The first option of a layer freezes it; a layer without one must train, and so
    none behind it may be where training starts. fixed_bytes: weights and runtime, always there. prefix_bytes: for each layer, the
    largest live bytes of the forward pass in front of it; nothing is 0. after_bytes: live behind the last layer (logits, loss).
    quick: on thinned fronts only: a real selection within the budget, tenths of a percent from the best.
    Where two selections are equal in value and memory, the one with the shorter step wins.
    """
    _check(layers)
    prefix = tuple(prefix_bytes) or (0,) * len(layers)
    room = budget_bytes - fixed_bytes
    best = _search(layers, room, prefix, after_bytes, -np.inf, _THIN)
    if not quick:
        best = _search(layers, room, prefix, after_bytes, -np.inf if best is None else best.value, None)
    return None if best is None else replace(best, peak_bytes=best.peak_bytes + fixed_bytes)


def smallest(layers: Sequence[Sequence[Option]], fixed_bytes: int = 0, prefix_bytes: Sequence[int] = (), after_bytes: int = 0) -> Chosen:
    """The selection that trains something in the least memory: its `peak_bytes` is the smallest feasible budget.

    Raises ValueError where no layer has an option that trains.
    """
    _check(layers)
    prefix = tuple(prefix_bytes) or (0,) * len(layers)
    equal = [[replace(o, value=0.0) for o in options] for options in layers]
    room = 2**62
    found = _search(equal, room, prefix, after_bytes, -np.inf, None, least=True)
    if found is None:
        raise ValueError("no layer has an option that trains")
    back = tuple(layers[i][_position(equal[i], o)] for i, o in enumerate(found.options))
    return replace(found, options=back, value=sum(o.value for o in back), peak_bytes=found.peak_bytes + fixed_bytes)


def peak_of(options: Sequence[Option], fixed_bytes: int = 0, prefix_bytes: Sequence[int] = (), after_bytes: int = 0) -> int:
    """The peak of a given selection, by walking through the step; what `choose` promises is this number."""
    start = next((i for i, o in enumerate(options) if o.trains), len(options))
    held, high = 0, prefix_bytes[min(start, len(options) - 1)] if prefix_bytes else 0
    for i in range(start, len(options)):
        held += options[i].saved_bytes
        high = max(high, held + (options[i].first_transient_bytes if i == start else options[i].transient_bytes))
    return fixed_bytes + sum(o.persistent_bytes for o in options[start:]) + max(high, held + after_bytes)


def curve(
    layers: Sequence[Sequence[Option]], budgets: Sequence[int], fixed_bytes: int = 0, prefix_bytes: Sequence[int] = (), after_bytes: int = 0
) -> tuple[Chosen, ...]:
    """A good selection at each budget (`choose` with `quick`), without those in which nothing trains and those that gain nothing more."""
    found: list[Chosen] = []
    for budget in sorted(budgets):
        chosen = choose(layers, budget, fixed_bytes, prefix_bytes, after_bytes, quick=True)
        if chosen is not None and (not found or chosen.value > found[-1].value):
            found.append(chosen)
    return tuple(found)


def _position(options: Sequence[Option], wanted: Option) -> int:
    return next(i for i, o in enumerate(options) if o is wanted)


def _check(layers: Sequence[Sequence[Option]]) -> None:
    if not layers or any(not options or any(not o.trains for o in options[1:]) for options in layers):
        raise ValueError("every layer needs options, and at most the first of them freezes it")


def _search(
    layers: Sequence[Sequence[Option]], room: int, prefix: Sequence[int], after: int, at_least: float, thin: int | None, least: bool = False
) -> Chosen | None:
    """From the last layer to the first: extend the front, and try each layer as the first that trains.

    at_least: a value known to be reached; thin: states to keep at most; least: look for the smallest peak in place of the largest value.
    """
    bounds = Bounds(layers, room)
    latest = next((i for i, options in enumerate(layers) if options[0].trains), len(layers))
    zero = np.zeros(1, np.int64)
    fronts = [Front(zero, np.full(1, after, np.int64), np.zeros(1), np.zeros(1), zero, zero)]
    best: tuple[tuple[float, ...], int, int, int] | None = None  # (rank, start, option, row of the front behind)
    for s in range(len(layers) - 1, -1, -1):
        found = _best_start(fronts[-1], layers[s], room, prefix[s], least) if s <= latest else None
        if found is not None and (best is None or found[0] > best[0]):
            best = (found[0], s, found[1], found[2])
        if s and best is not None and not least:
            at_least = max(at_least, best[0][0])
        if s:
            fronts.append(_extend(fronts[-1], layers, s, room, bounds, at_least, thin, least))
    return None if best is None else _trace(layers, fronts, best[1], best[2], best[3], prefix)


def _best_start(front: Front, options: Sequence[Option], room: int, prefix: int, least: bool) -> tuple[tuple[float, ...], int, int] | None:
    """(rank, option, row) of the best selection that starts to train with one of these options; None where none fits."""
    best: tuple[tuple[float, ...], int, int] | None = None
    for k, o in enumerate(options):
        if not o.trains or not len(front):
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


def _extend(front: Front, layers: Sequence[Sequence[Option]], layer: int, room: int, bounds: Bounds, at_least: float, thin: int | None, least: bool) -> Front:
    """Every state with every option of one more layer in front, without what is too large, cannot win, or is beaten."""
    options, count = layers[layer], len(front)
    add = np.array([[o.persistent_bytes, o.saved_bytes, o.transient_bytes] for o in options], np.int64)
    gain = np.array([[o.value, o.step_s] for o in options])
    persistent = (add[:, :1] + front.persistent).ravel()
    high = (add[:, 1:2] + np.maximum(add[:, 2:], front.high)).ravel()
    value, seconds = (gain[:, :1] + front.value).ravel(), (gain[:, 1:] + front.seconds).ravel()
    parent, option = np.tile(np.arange(count), len(options)), np.repeat(np.arange(len(options)), count)
    made = Front(persistent, high, value, seconds, parent, option)
    made = made.keep(np.flatnonzero(persistent + high <= room))
    if not least and len(made):
        reach = made.value + bounds.of(layer, made.persistent, made.high)
        made = made.keep(np.flatnonzero(reach >= at_least - _EPSILON * (1 + abs(at_least))))
    made = made.keep(undominated(made.persistent, made.high, made.value, made.seconds))
    return made if thin is None or len(made) <= thin else made.keep(thinned(made, thin))


def _trace(layers: Sequence[Sequence[Option]], fronts: Sequence[Front], start: int, option: int, row: int, prefix: Sequence[int]) -> Chosen:
    """The selection behind a row: frozen up to `start`, then back through the fronts."""
    picked = [options[0] for options in layers[:start]] + [layers[start][option]]
    for i in range(start + 1, len(layers)):
        front = fronts[len(layers) - i]
        picked.append(layers[i][int(front.option[row])])
        row = int(front.parent[row])
    options = tuple(picked)
    seconds = layers[start][option].first_step_s + sum(o.step_s for o in options[start + 1 :])
    return Chosen(options, start, sum(o.value for o in options), peak_of(options, 0, prefix, int(fronts[0].high[0])), seconds)
