"""Which of two calls a node gets, where its kernel offers another that is slower and closer to its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from sdk.graph.ir import Graph
from sdk.planner.arrange import Arrangement

if TYPE_CHECKING:
    from sdk.kernels.base import Call

Calls: TypeAlias = "Mapping[str, Call | None]"


@dataclass(frozen=True)
class Choice:
    """The calls, where everything lies with them, which nodes got their `other` call, and the bytes of arena that saves."""

    calls: Mapping[str, Call | None]
    arrangement: Arrangement
    others: tuple[str, ...] = ()
    saved_bytes: int = 0


def best_calls(graph: Graph, calls: Calls, arranged: Callable[[Calls], Arrangement]) -> Choice:
    """The calls with the smallest arrangement; as few `other` calls as that takes, for they cost time.

    All others are taken at first, since a chain of layers shifts its image once for each of them; where that helps, each is
    given back, the largest image first, unless the arena grows.
    """
    plain = arranged(calls)
    taken = {name: call.other for name, call in calls.items() if call is not None and call.other is not None}
    best = _arranged_with(calls, taken, arranged) if taken else plain
    if _size(plain) <= _size(best):
        return Choice(_chosen(calls, {}), plain)
    for name in sorted(taken, key=lambda n: -_input_bytes(graph, n)):
        fewer = {other: call for other, call in taken.items() if other != name}
        tried = _arranged_with(calls, fewer, arranged)
        if _size(tried) <= _size(best):
            best, taken = tried, fewer
    return Choice(_chosen(calls, taken), best, tuple(taken), _size(plain)[1] - _size(best)[1])


def _chosen(calls: Calls, taken: Calls) -> dict[str, Call | None]:
    return {name: taken.get(name, call and replace(call, other=None)) for name, call in calls.items()}


def _arranged_with(calls: Calls, others: Calls, arranged: Callable[[Calls], Arrangement]) -> Arrangement:
    return arranged({**calls, **others})


def _size(arrangement: Arrangement) -> tuple[int, int]:
    return arrangement.layout.overflow_bytes, sum(arrangement.layout.arena_bytes)


def _input_bytes(graph: Graph, name: str) -> int:
    node = next(n for n in graph.nodes if n.name == name)
    return graph[node.inputs[0]].size_bytes
