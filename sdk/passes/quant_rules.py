"""Which op may be computed in which integer type, and what LiteRT's rules say about its scales.

    SAME_SCALE   input and output share one scale and zero point (values are only moved or compared)
    FIXED        the output's scale is given by the op's range, whatever the data were
    WEIGHTED     input 1 is a weight: int8, symmetric, one scale per output channel along the given axis
everything else has a scale of its own, from calibration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from sdk.errors import UnsupportedOp, UsageError
from sdk.graph.ir import Graph, Node, Quant
from sdk.graph.ops import OPS
from sdk.passes.calibrate import WEIGHT_AXIS

SAME_SCALE = frozenset(
    {"reshape", "transpose", "pad", "concat", "slice", "gather", "tile", "max_pool2d", "avg_pool2d", "maximum", "minimum",
     "reduce_max", "resize_nearest", "resize_bilinear"}
)  # fmt: skip
#: SAME_SCALE ops that only move values: they take whatever type their neighbours have.
MOVES = frozenset({"reshape", "transpose", "pad", "concat", "slice", "gather", "tile"})

_UNIT = Quant((1 / 256,), (-128,))
_UNIT16 = Quant((1 / 32768,), (0,))
FIXED: Mapping[tuple[str, str], Quant] = MappingProxyType(
    {
        ("softmax", "int8"): _UNIT,
        ("sigmoid", "int8"): _UNIT,
        ("hard_sigmoid", "int8"): _UNIT,
        ("tanh", "int8"): Quant((1 / 128,), (0,)),
        ("log_softmax", "int8"): Quant((16 / 256,), (127,)),
        ("softmax", "int16"): _UNIT16,
        ("sigmoid", "int16"): _UNIT16,
        ("tanh", "int16"): _UNIT16,
    }
)
WEIGHTED = WEIGHT_AXIS
#: Ops that gain from 16-bit activations and whose sums cannot overflow there.
INT16 = frozenset({"add", "sub", "mul", "softmax", "sigmoid", "tanh", "relu", "relu6", "leaky_relu", "mean", *WEIGHTED, *SAME_SCALE})
#: Inputs (by index) that stay real numbers in an integer node: the op's own definition wants them so.
FLOAT_INPUTS: Mapping[str, tuple[int, ...]] = MappingProxyType({"layer_norm": (1, 2), "batch_norm": (1, 2, 3, 4)})


def precisions(graph: Graph, keep_float: Iterable[str], int16: Iterable[str]) -> dict[str, str]:
    """Node name -> "int8", "int16", "float32", or "plain" (no real numbers involved: left alone).

    Raises UsageError for a name that is no node, UnsupportedOp for a node that has no 16-bit form.
    """
    keep_float, int16 = tuple(keep_float), tuple(int16)
    _known(graph, keep_float, "keep_float")
    _known(graph, int16, "int16")
    chosen: dict[str, str] = {}
    for node in graph.nodes:
        chosen[node.name] = _precision(graph, node, keep_float, int16)
    _follow(graph, chosen, {*keep_float, *int16})
    return chosen


def _known(graph: Graph, names: tuple[str, ...], option: str) -> None:
    for name in names:
        if name not in {n.name for n in graph.nodes}:
            near = ", ".join(n.name for n in graph.nodes[:5])
            raise UsageError(f"{option} names node {name!r}, which the model does not have; its nodes begin {near}")


def _precision(graph: Graph, node: Node, keep_float: tuple[str, ...], int16: tuple[str, ...]) -> str:
    if not any(graph[name].dtype == "float32" for name in (*node.inputs, *node.outputs) if name):
        return "plain"
    if node.name in keep_float:
        return "float32"
    if node.name in int16:
        if node.op not in INT16 or "int16" not in OPS[node.op].dtypes:
            raise UnsupportedOp(f"node {node.name} ({node.op}) has no 16-bit form; name it in keep_float instead of int16")
        return "int16"
    return "int8" if _has_int8(graph, node) else "float32"


def _has_int8(graph: Graph, node: Node) -> bool:
    """False for what has to stay in float: no int8 meaning, a weight that is computed, a softmax along an inner axis."""
    if node.op not in OPS or "int8" not in OPS[node.op].dtypes:
        return False
    if node.op == "argmax":
        return True
    if any(graph[name].dtype != "float32" for name in node.outputs) or graph[node.inputs[0]].dtype != "float32":
        return False
    if node.op in WEIGHTED:
        return all(graph[name].is_const for name in node.inputs[1:] if name)
    if node.op in ("softmax", "log_softmax"):
        return node.attrs.get("axis", -1) in (-1, len(graph[node.inputs[0]].shape) - 1)
    return True


def _follow(graph: Graph, chosen: dict[str, str], named: set[str]) -> None:
    """Moving ops between nodes of one higher precision take it too; else every reshape would cost two conversions."""
    producers, consumers = graph.producers, graph.consumers
    for node in graph.nodes:
        if node.op not in MOVES or node.name in named or chosen[node.name] != "int8":
            continue
        before = {chosen[producers[n].name] if n in producers else "int8" for n in node.inputs if n and not graph[n].is_const}
        after = {chosen[c.name] for c in _readers(node, consumers)}
        if len(before) == 1 and before <= {"float32", "int16"} and (after == before or not after):
            chosen[node.name] = before.pop()


def _readers(node: Node, consumers: Mapping[str, tuple[Node, ...]]) -> list[Node]:
    """The nodes that read this one's value, looking through further moving ops."""
    found: list[Node] = []
    for reader in consumers[node.outputs[0]]:
        found += (_readers(reader, consumers) or [reader]) if reader.op in MOVES else [reader]
    return found


class Ties:
    """Union-find over tensor names: those joined have one quantisation. A group may have it fixed by an op's range."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._fixed: dict[str, Quant] = {}

    def root(self, name: str) -> str:
        """The name that stands for the group of `name`."""
        while self._parent.get(name, name) != name:
            name = self._parent[name]
        return name

    def fix(self, name: str, quant: Quant) -> None:
        """Give the group of `name` its quantisation."""
        self._fixed[self.root(name)] = quant

    def fixed(self, name: str) -> Quant | None:
        """The quantisation an op has fixed for the group, if any."""
        return self._fixed.get(self.root(name))

    def join(self, a: str, b: str) -> None:
        """One group out of two."""
        first, second = self.root(a), self.root(b)
        if first == second:
            return
        quant = self._fixed.get(first) or self._fixed.get(second)
        self._parent[second] = first
        if quant is not None:
            self._fixed[first] = quant


def ties(graph: Graph, precision: Mapping[str, str], dtype: str) -> Ties:
    """The groups of tensors that share a scale where the graph is computed in `dtype` ("int8" or "int16")."""
    groups = Ties()
    for node in graph.nodes:
        if precision[node.name] != dtype:
            continue
        out = node.outputs[0]
        if (node.op, dtype) in FIXED:
            groups.fix(out, FIXED[node.op, dtype])
        if node.op not in SAME_SCALE:
            continue
        inputs = [n for n in node.inputs if n and not graph[n].is_const and graph[n].dtype == "float32"]
        fixed = {groups.fixed(n) for n in inputs}
        for name in inputs:
            # of several inputs, one with a scale of its own (a sigmoid's) is converted, and does not impose it on the others
            if len(fixed) == 1 or groups.fixed(name) is None:
                groups.join(name, out)
    return groups
