"""The choice that is made when nobody makes one: what of the last layers learns, in the memory there is.

The classifier comes first: all its weights, or where they do not fit an adapter. What is left goes to adapters on the layers in front of
it, each rank worth the energy of its layer's input that it captures: ranks are added by energy for a byte (a knapsack's linear
relaxation). Memory is counted on the graph of the step itself, not guessed; only where buffers lie is left to the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from sdk.errors import UnsupportedOp
from sdk.graph.ir import Graph
from sdk.planner.latency import node_macs
from sdk.planner.training.records import Choice
from sdk.training.mcu.bases import rank_for
from sdk.training.mcu.layers import Layer, find_layers

if TYPE_CHECKING:
    from sdk.training.mcu.plan import Learner

#: Shares of energy whose ranks are tried.
ENERGIES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
#: The classifier's adapter keeps more: the mean of its input holds most of the energy and tells no class from another.
CLASSIFIER_ENERGY = 0.99
#: Trained layers hold at most this share of the model's multiply-accumulates, so that a step takes at most about two inferences.
MOST_WORK = 0.3
#: Layers with adapters that are tried, counted from the last.
DEPTHS = (1, 2, 3, 4, 6, 8, 11, 15, 20, 30)
_ROUNDS = 5


@dataclass(frozen=True)
class _Rank:
    """An adapter's rank on one layer: bytes of variables, and the share of energy it captures."""

    layer: str
    rank: int
    bytes: int
    value: float


def smallest_choice(graph: Graph) -> list[Choice]:
    """The least that can learn: the bias of the last layer, or its weights where it has none."""
    last = find_layers(graph)[-1]
    return [Choice(last.name, "bias" if last.bias is not None else "exact")]


def auto_choices(learner: Learner) -> list[Choice]:
    """The classifier and adapters that fit the device and the budget; the least there is where nothing more fits."""
    layers = find_layers(learner.graph)
    room = learner.arena_room()
    for head in _classifiers(learner, layers[-1]):
        if learner.quick_bytes([head]) <= room:
            behind = _reachable(learner, [layer for layer in layers[:-1] if layer.name in learner.spectra])
            return _filled(learner, head, behind, room)
    return smallest_choice(learner.graph)


def _classifiers(learner: Learner, last: Layer) -> list[Choice]:
    """Ways to train the last layer, the richest first. A method that was asked for is kept to."""
    method = learner.training.method
    rank = rank_for(learner.spectra[last.name], CLASSIFIER_ENERGY) if last.name in learner.spectra else 0
    adapter = [Choice(last.name, "adapter", ranks=(0, 0, rank))] if rank else []
    match method:
        case "auto":
            return [Choice(last.name, "exact"), *adapter]
        case "adapter":
            return adapter
    return [Choice(last.name, method)]


def _reachable(learner: Learner, layers: Sequence[Layer]) -> list[Layer]:
    """The last of `layers` that a gradient reaches at a price: ops behind them have one, and they are not most of the model's work."""
    if learner.training.method not in ("auto", "adapter"):
        return []
    graph = learner.graph
    work = {node.name: node_macs(graph, node) for node in graph.nodes}
    total, order = sum(work.values()), [node.name for node in graph.nodes]
    found: list[Layer] = []
    for layer in reversed(layers):
        behind = sum(work[name] for name in order[order.index(layer.node.name) :])
        if behind > MOST_WORK * total or not _possible(learner, layer):
            break
        found.insert(0, layer)
    return found


def _possible(learner: Learner, layer: Layer) -> bool:
    try:
        learner.step([Choice(layer.name, "bias")])
    except UnsupportedOp:
        return False
    return True


def _ranks(learner: Learner, layer: Layer) -> list[_Rank]:
    """Ranks worth trying on a layer, by rising size: the upper hull of energy over bytes. The first direction, mostly the mean, counts
    for nothing: what varies is what can be learnt from."""
    spectrum = learner.spectra[layer.name]
    copies = 2 if learner.training.optimiser == "momentum" else 1
    share = (np.cumsum(spectrum) - spectrum[0]) / max(float(spectrum[1:].sum()), 1e-30)
    rows = [_Rank(layer.name, 0, 0, 0.0)]
    for energy in (*ENERGIES, learner.training.eps):
        rank = rank_for(spectrum, energy)
        weights = layer.weight.size // layer.weight.shape[-1] * rank + layer.channels * (layer.bias is not None)
        if energy <= learner.training.eps:
            rows.append(_Rank(layer.name, rank, 4 * copies * weights, float(share[rank - 1])))
    return _hull(sorted(rows, key=lambda r: (r.bytes, -r.value)))


def _hull(rows: Sequence[_Rank]) -> list[_Rank]:
    """Of rows by rising bytes, those on the upper concave hull."""
    hull: list[_Rank] = []
    for row in rows:
        if hull and row.value <= hull[-1].value:
            continue
        while len(hull) > 1 and _slope(hull[-2], row) >= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(row)
    return hull


def _slope(a: _Rank, b: _Rank) -> float:
    return (b.value - a.value) / max(b.bytes - a.bytes, 1)


def _filled(learner: Learner, head: Choice, layers: Sequence[Layer], room: int) -> list[Choice]:
    """`head`, and adapters in front of it: of several depths the one whose adapters capture most in the room that its depth leaves."""
    hulls = [_ranks(learner, layer) for layer in layers]
    best, most = [head], 0.0
    for depth in (d for d in DEPTHS if d <= len(hulls)):
        reached = hulls[-depth:]
        taken = _within(learner, head, reached, room)
        value = sum(row.value for row in taken)
        if value > most:
            best, most = [*_adapters(taken), head], value
    return best


def _within(learner: Learner, head: Choice, hulls: Sequence[Sequence[_Rank]], room: int) -> list[_Rank]:
    """The ranks on these layers that fit beside `head`; none where not even the smallest do."""
    least = [hull[1] for hull in hulls if len(hull) > 1]
    spare = room - learner.quick_bytes([*_adapters(least), head]) + sum(row.bytes for row in least)
    for _ in range(_ROUNDS):  # what is saved for the way back grows with the ranks, too
        taken = _spent(hulls, spare)
        over = learner.quick_bytes([*_adapters(taken), head]) - room if taken else 0
        if over <= 0:
            return taken
        spare -= over
    return []


def _adapters(rows: Sequence[_Rank]) -> list[Choice]:
    return [Choice(row.layer, "adapter", ranks=(0, 0, row.rank)) for row in rows]


def _spent(hulls: Sequence[Sequence[_Rank]], spare: int) -> list[_Rank]:
    """Ranks worth most energy for at most `spare` bytes: steps along the hulls, the steepest first."""
    steps = sorted(((_slope(a, b), n, b.bytes - a.bytes, b) for n, hull in enumerate(hulls) for a, b in pairwise(hull)), key=lambda s: -s[0])
    taken: dict[int, _Rank] = {}
    blocked: set[int] = set()
    for _, n, size, row in steps:
        if n in blocked or size > spare:
            blocked.add(n)  # a hull is climbed step by step
            continue
        taken[n], spare = row, spare - size
    return [taken[n] for n in sorted(taken)]
