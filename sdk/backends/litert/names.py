"""Outputs under the names of the source model, after passes that renamed or replaced them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sdk.graph.ir import Graph, Node, Tensor


def keep_names(graph: Graph, wanted: Sequence[str]) -> Graph:
    """`graph` with its outputs called `wanted`; a tensor that has such a name gets its data type's behind it.

    An output that is an input, a constant or another output as well is copied, so that it can have its own name.
    """
    renamed: dict[str, str] = {}
    copies: list[tuple[str, str]] = []
    produced = graph.producers
    for have, want in zip(graph.outputs, wanted, strict=True):
        if have == want or renamed.get(have) == want:
            continue
        if want in graph.tensors and want not in renamed:
            renamed[want] = _free(graph, f"{want}.{graph[want].dtype}", wanted)
        if have in produced and have not in renamed and have not in wanted:
            renamed[have] = want
        else:
            copies.append((have, want))
    if not renamed and not copies:
        return graph
    return _apply(graph, renamed, copies, wanted)


def _free(graph: Graph, name: str, wanted: Sequence[str]) -> str:
    while name in graph.tensors or name in wanted:
        name += "_"
    return name


def _apply(graph: Graph, renamed: dict[str, str], copies: list[tuple[str, str]], wanted: Sequence[str]) -> Graph:
    def new(name: str) -> str:
        return renamed.get(name, name)

    tensors: dict[str, Tensor] = {new(k): replace(t, name=new(k)) for k, t in graph.tensors.items()}
    nodes = [replace(n, inputs=tuple(map(new, n.inputs)), outputs=tuple(map(new, n.outputs))) for n in graph.nodes]
    for have, want in copies:
        source = graph[have]
        tensors[want] = Tensor(want, source.shape, source.dtype, source.quant)
        nodes.append(Node(f"{want}.copy", "reshape", (new(have),), (want,), {"shape": source.shape}, "copy under its own name"))
    return graph.with_nodes(nodes, tensors, inputs=tuple(map(new, graph.inputs)), outputs=tuple(wanted))
