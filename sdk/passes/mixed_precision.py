"""Choose by itself which layers get a higher precision: the fewest bytes for the noise they take away.

    mixed = auto_mixed(graph, images, target_db=30)
    mixed.graph, mixed.options.int16, mixed.options.keep_float, mixed.steps
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sdk.errors import UsageError
from sdk.graph.interpreter import run
from sdk.graph.ir import Graph, Node
from sdk.graph.ops import OPS
from sdk.passes.quant_report import Simulation, output_sqnr
from sdk.passes.quant_rules import INT16, MOVES
from sdk.passes.quantise import Prepared, QuantOptions, convert, prepare

Measure = Callable[[Graph], float]  # the accuracy of a float or quantised graph, say
#: Nodes with less of the noise than this are not worth trying.
_LEAST_SHARE = 0.02
_TRIED = 3


@dataclass(frozen=True)
class Step:
    """One choice: the nodes that were raised, to what, the bytes it costs, and the outputs' SQNR from there on."""

    nodes: tuple[str, ...]
    kind: str  # "int16" or "float32"
    cost_bytes: int
    output_db: float


@dataclass(frozen=True)
class Mixed:
    """The chosen graph, the options that make it again, and how it came about (`steps[0]` is int8 throughout)."""

    graph: Graph
    options: QuantOptions
    steps: tuple[Step, ...]
    reached: bool  # False when the aim was not met with the layers allowed

    def __str__(self) -> str:
        lines = [f"{s.output_db:6.1f} dB  {s.kind} {'for ' + ', '.join(s.nodes) if s.nodes else 'throughout'}" for s in self.steps]
        return "\n".join([*lines, "reached" if self.reached else "not reached: allow more layers, or train with quantisation"])


def auto_mixed(
    graph: Graph,
    calibration: Any,
    target_db: float | None = None,
    max_drop: float | None = None,
    evaluate: Measure | None = None,
    options: QuantOptions | None = None,
    kinds: tuple[str, ...] = ("int16", "float32"),
    max_layers: int = 8,
) -> Mixed:
    """Raise the precision of layers, the best noise per byte first, until the aim is met or `max_layers` are raised.

    The aim is `target_db`, the SQNR of the outputs (before a closing softmax) on calibration data, or `max_drop`, how much
    less than the float graph's `evaluate(graph)` (an accuracy, say) may be lost. Raises UsageError unless exactly one is given.
    """
    aim = _aim(graph, target_db, max_drop, evaluate)
    unknown = set(kinds) - {"int16", "float32"}
    if unknown or not kinds:
        raise UsageError(f"kinds is {kinds}; give 'int16', 'float32' or both")
    options = options or QuantOptions()
    prepared = prepare(graph, calibration, options)
    batch = next(prepared.samples.spread(32).batches(32))
    made = convert(prepared, options)
    steps = [Step((), "int8", 0, output_sqnr(prepared.graph, made, batch))]
    while not aim(made, steps[-1].output_db):
        raised = set(options.int16) | set(options.keep_float)
        best = _best(prepared, made, options, kinds, batch, steps[-1].output_db, max_layers - len(raised))
        if best is None:
            return Mixed(made, options, tuple(steps), False)
        made, options, step = best
        steps.append(step)
    return Mixed(made, options, tuple(steps), True)


def _aim(graph: Graph, target_db: float | None, max_drop: float | None, evaluate: Measure | None) -> Callable[[Graph, float], bool]:
    if (target_db is None) == (max_drop is None):
        raise UsageError("auto_mixed needs one aim; give target_db, or max_drop with evaluate")
    if target_db is not None:
        return lambda made, sqnr_db: sqnr_db >= target_db
    if evaluate is None or max_drop is None:
        raise UsageError("auto_mixed with max_drop measures the model; give evaluate, a function of a graph that returns its accuracy")
    floor = evaluate(graph) - max_drop
    return lambda made, sqnr_db: evaluate(made) >= floor


def _best(prepared: Prepared, made: Graph, options: QuantOptions, kinds: tuple[str, ...], batch: Any, now_db: float, room: int) -> Any:
    """The candidate with the most noise taken away per byte: (graph, options, Step); None when none helps."""
    graph = prepared.graph
    shares = {name: alone for name, (alone, _) in Simulation(graph, made, run(graph, batch, keep=True)).shares().items()}
    total = sum(shares.values())
    ranked = [n for n in sorted(shares, key=lambda n: -shares[n]) if shares[n] >= _LEAST_SHARE * total][:_TRIED]
    best, merit = None, 0.0
    for nodes, kind in _candidates(graph, ranked, {n for n in shares if shares[n] > 0}, kinds):
        raised = {*options.int16, *options.keep_float}
        if len(set(nodes) - raised) > room or (kind == "int16" and raised.intersection(nodes)):
            continue
        tried = _raised(options, nodes, kind)
        result = convert(prepared, tried)
        reached_db = output_sqnr(graph, result, batch)
        cost = sum(_cost_bytes(graph, graph_node, kind) for graph_node in graph.nodes if graph_node.name in nodes)
        gain = (10 ** (-now_db / 10) - 10 ** (-reached_db / 10)) / max(cost, 1)
        if reached_db > now_db + 0.1 and gain > merit:
            best, merit = (result, tried, Step(nodes, kind, cost, reached_db)), gain
    return best


def _raised(options: QuantOptions, nodes: tuple[str, ...], kind: str) -> QuantOptions:
    """The options with `nodes` raised; a 16-bit node may become a float one."""
    if kind == "int16":
        return replace(options, int16=(*options.int16, *nodes))
    return replace(options, keep_float=(*options.keep_float, *nodes), int16=tuple(n for n in options.int16 if n not in nodes))


def _candidates(graph: Graph, ranked: list[str], noisy: set[str], kinds: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
    """For each node: itself, and itself with its readers that are still int8 (a result keeps its precision only if they take it so)."""
    nodes = {n.name: n for n in graph.nodes}
    found: list[tuple[tuple[str, ...], str]] = []
    for name in ranked:
        readers = [r for r in _readers(graph, nodes[name]) if r in noisy and r != name]
        for chosen in dict.fromkeys([(name,), (name, *readers)]):
            found += [(chosen, kind) for kind in kinds if kind == "float32" or all(_has_int16(nodes[n]) for n in chosen)]
    return found


def _has_int16(node: Node) -> bool:
    return node.op in INT16 and "int16" in OPS[node.op].dtypes


def _readers(graph: Graph, node: Node) -> list[str]:
    """Names of the nodes that read this one's result, looking through ops that only move values."""
    found: list[str] = []
    for reader in graph.consumers[node.outputs[0]]:
        found += _readers(graph, reader) if reader.op in MOVES else [reader.name]
    return list(dict.fromkeys(found))


def _cost_bytes(graph: Graph, node: Node, kind: str) -> int:
    """Bytes more than int8: each activation value one (int16) or three (float32), each weight none or three."""
    more = 1 if kind == "int16" else 3
    values = sum(graph[n].size for n in (*node.inputs, *node.outputs) if n and not graph[n].is_const)
    weights = sum(graph[n].size for n in node.inputs if n and graph[n].is_const)
    return more * values + (3 * weights if kind == "float32" else 0)
