"""What memory planning sees of a model: buffers with sizes, and steps that read, write and borrow them.

A *buffer* is a run of bytes in the arena. Tensors that share one buffer (a reshape and its input) are one buffer here, named
after the first of them. A *step* is one kernel call. Nothing below this file knows ops, shapes or devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

from sdk.errors import UnsupportedOp
from sdk.graph.ir import Graph, Node
from sdk.graph.ops import written

#: Ops whose output is their input's buffer, seen through another shape.
ALIASES = frozenset({"reshape"})


class Asks(Protocol):
    """What a kernel asks of the planner; `sdk.kernels.Call` is one."""

    @property
    def scratch_bytes(self) -> int:
        """Bytes lent to the kernel while it runs."""

    @property
    def overlap(self) -> Mapping[int, int]:
        """Input index -> least `address(input) - address(output)` at which the two may share bytes."""


@dataclass(frozen=True)
class NoAsks:
    """A kernel that needs no scratch and no byte of whose output may be an input's."""

    scratch_bytes: int = 0
    overlap: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One kernel call: `reads` and `writes` are buffer names, `overlap` maps a read buffer to its least distance from `writes[0]`.

    A variable that the call updates is read and written; it stands behind the outputs.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    scratch_bytes: int = 0
    overlap: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Steps in an order that can be executed, and the size of every buffer.

    `inputs` hold their values before step 0, `outputs` keep theirs after the last step, `pinned` buffers (an input that the
    user keeps, the state of a streaming model) are never reused. Example, two steps on 8 bytes each:

        Problem((Step("a", ("x",), ("y",)), Step("b", ("y",), ("z",))), {"x": 8, "y": 8, "z": 8}, ("x",), ("z",))
    """

    steps: tuple[Step, ...]
    sizes: Mapping[str, int]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    pinned: frozenset[str] = frozenset()
    root: Mapping[str, str] = field(default_factory=dict)  # tensor -> the buffer it lives in

    def reordered(self, order: Sequence[int]) -> Problem:
        """The same steps in another order."""
        return replace(self, steps=tuple(self.steps[i] for i in order))


def buffer_roots(graph: Graph, calls: Mapping[str, Asks | None]) -> dict[str, str]:
    """Tensor -> buffer for every activation and state; nodes whose call is None give their output the input's buffer.

    Raises UnsupportedOp when such a node reads a constant: its output would have no bytes in the arena.
    """
    root = {t.name: t.name for t in graph.activations()}
    root.update({t.name: t.name for t in graph.tensors.values() if t.variable})
    for node in graph.nodes:
        if calls[node.name] is None:
            source = node.inputs[0]
            if source not in root:
                raise UnsupportedOp(f"{node.name} ({node.op}) reshapes the constant {source!r}; run the pass fold_constants first")
            root[node.outputs[0]] = root[source]
    return root


def default_calls(graph: Graph) -> dict[str, Asks | None]:
    """Calls for a backend that says nothing about its kernels: no scratch, nothing overlaps, reshapes are free."""
    constant = {t.name for t in graph.tensors.values() if t.is_const}
    return {n.name: None if n.op in ALIASES and n.inputs[0] not in constant else NoAsks() for n in graph.nodes}


def from_graph(graph: Graph, calls: Mapping[str, Asks | None], *, keep_input: bool = False) -> Problem:
    """The planning problem of `graph` when node `n` runs as `calls[n.name]` (None: an alias, no step)."""
    root = buffer_roots(graph, calls)
    states = {root[t.name] for t in graph.tensors.values() if t.variable}
    inputs = tuple(dict.fromkeys(root[name] for name in graph.inputs if name in root))
    outputs = tuple(dict.fromkeys(root[name] for name in graph.outputs if name in root))
    steps = []
    for node in graph.nodes:
        call = calls[node.name]
        if call is not None:
            steps.append(_step(node, call, root))
    pinned = frozenset(states | (set(inputs) if keep_input else set()))
    sizes = {buffer: graph[buffer].size_bytes for buffer in dict.fromkeys(root.values())}
    return Problem(tuple(steps), MappingProxyType(sizes), inputs, outputs, pinned, MappingProxyType(root))


def _step(node: Node, call: Asks, root: Mapping[str, str]) -> Step:
    """The step of one node. A buffer read through several inputs may overlap only as far as every one of them allows."""
    reads = tuple(dict.fromkeys(root[name] for name in node.inputs if name in root))
    writes = tuple(dict.fromkeys(root[name] for name in written(node)))
    overlap: dict[str, int] = {}
    if len(node.outputs) == 1:
        for buffer in reads:
            indices = [i for i, name in enumerate(node.inputs) if root.get(name) == buffer]
            if all(i in call.overlap for i in indices):
                overlap[buffer] = max(call.overlap[i] for i in indices)
    return Step(node.name, reads, writes, int(call.scratch_bytes), MappingProxyType(overlap))
