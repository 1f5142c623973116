"""What the source model takes and gives, after importers and passes that changed it: float32 at the edges, outputs' names."""

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


def float_edges(graph: Graph) -> Graph:
    """Integer inputs and outputs as the real numbers they stand for, under the same names: quantised and dequantised inside."""
    ports = dict.fromkeys(name for name in (*graph.inputs, *graph.outputs) if _is_scaled(graph[name]))
    if not ports:
        return graph
    inner = {name: _free(graph, f"{name}.{graph[name].dtype}", graph.outputs) for name in ports}
    moved = _apply(graph, inner, [], [inner.get(n, n) for n in graph.outputs])
    tensors = dict(moved.tensors) | {name: Tensor(name, graph[name].shape, "float32") for name in ports}
    before = [Node(f"{name}.quantize", "quantize", (name,), (inner[name],), source=f"input {name}") for name in graph.inputs if name in ports]
    after = [Node(f"{name}.dequantize", "dequantize", (inner[name],), (name,), source=f"output {name}")
             for name in dict.fromkeys(graph.outputs) if name in ports and name not in graph.inputs]  # fmt: skip
    return moved.with_nodes([*before, *moved.nodes, *after], tensors, inputs=graph.inputs, outputs=graph.outputs)


def _is_scaled(tensor: Tensor) -> bool:
    return tensor.dtype in ("int8", "int16") and tensor.quant is not None and tensor.data is None


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
