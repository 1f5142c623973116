"""Where a planned graph is cut for training: integer nodes in front, behind them everything a trained layer's values reach."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sdk.errors import UnsupportedOp, UsageError
from sdk.graph.ir import Graph, Node

#: Ops behind the logits: the loss works on the logits themselves.
_BEHIND_LOGITS = ("softmax", "log_softmax", "dequantize", "quantize", "requantize")
#: Ops that change how a real number is stored, not the number.
STORAGE = ("dequantize", "quantize", "requantize")


@dataclass(frozen=True)
class Split:
    """`prefix`: nodes that run as they are. `live`: nodes recomputed in float32, in order. `boundary`: tensors made in front and read behind.

    `logits` is the tensor [1, classes] that the loss reads; `needs_gradient` the live tensors whose gradient is wanted: all but boundary ones.
    """

    graph: Graph
    prefix: tuple[Node, ...]
    live: tuple[Node, ...]
    boundary: tuple[str, ...]
    logits: str

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.graph[self.logits].shape[-1]

    def is_live(self, name: str) -> bool:
        """True for a tensor that a live node writes: it has a gradient."""
        return any(name in node.outputs for node in self.live)


def logits_of(graph: Graph) -> str:
    """The tensor in front of a final softmax or conversion. Raises UsageError where the model is no classifier."""
    if len(graph.outputs) != 1 or len(graph.inputs) != 1:
        found = f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
        raise UsageError(f"{graph.name} has {found}; training on a board takes one picture or signal and gives one vector of class scores")
    name = graph.outputs[0]
    while (node := graph.producer(name)) is not None and node.op in _BEHIND_LOGITS:
        name = node.inputs[0]
    shape = graph[name].shape
    if len(shape) != 2 or shape[0] != 1:
        raise UsageError(f"{graph.name} gives {list(shape)}; training on a board takes one score for each class, [1, classes]")
    return name


def split(graph: Graph, trained: Iterable[str]) -> Split:
    """Cut `graph` in front of the nodes named in `trained`. Raises UnsupportedOp for something live that no gradient is known of."""
    logits, wanted = logits_of(graph), set(trained)
    needed = _ancestors(graph, logits)
    reached: set[str] = set()
    prefix, live = [], []
    for node in graph.nodes:
        if not needed.intersection(node.outputs):
            continue
        if node.name in wanted or reached.intersection(node.inputs):
            live.append(node)
            reached.update(node.outputs)
        else:
            prefix.append(node)
    if not live:
        raise UsageError(f"nothing of {graph.name} is to be trained; choose at least one layer")
    read = dict.fromkeys(n for node in live for n in node.inputs if n and n not in reached and not graph[n].is_const)
    return Split(graph, tuple(prefix), tuple(live), tuple(read), logits)


def _ancestors(graph: Graph, name: str) -> set[str]:
    """`name` and every tensor it is computed from."""
    found = {name}
    for node in reversed(graph.nodes):
        if found.intersection(node.outputs):
            found.update(n for n in node.inputs if n)
    return found


def refuse(node: Node) -> UnsupportedOp:
    """The error for a live node whose gradient no kernel computes."""
    where = f" from {node.source}" if node.source else ""
    return UnsupportedOp(f"node {node.name} ({node.op}){where} cannot be trained through on a microcontroller; train only layers behind it")
