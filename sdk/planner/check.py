"""An independent check of a plan's memory: the inference is played through on a map of which byte belongs to whom.

Nothing here is shared with the code that made the plan: it reads only the graph, what each kernel asks for, and where each
tensor was put. Every plan passes through it before anyone sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from sdk.errors import EmbarqError
from sdk.graph.ir import Graph, Node

_SCRATCH = "\x00scratch"


class Placed(Protocol):
    """A run of bytes: `kind` is "scratch" (then `tensor` names the node) or something else (then a tensor)."""

    @property
    def tensor(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def region(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...


class Asked(Protocol):
    """What a kernel asks for."""

    @property
    def scratch_bytes(self) -> int: ...
    @property
    def overlap(self) -> Mapping[int, int]: ...


class PlacementError(EmbarqError):
    """A plan in which two live buffers share bytes: a defect of the planner, never the user's mistake."""


def check_placement(
    graph: Graph, calls: Mapping[str, Asked | None], placed: Iterable[Placed], arena_bytes: Sequence[int], *, keep_input: bool = False
) -> None:
    """Play `graph.nodes` in order over the placement; raise `PlacementError` at the first byte used twice.

    calls: node -> what it asks for; None where the node's output is its input's bytes (a reshape).
    arena_bytes: size of each region; every buffer must lie inside.
    """
    _Player(graph, calls, list(placed), arena_bytes, keep_input).play()


class _Bytes:
    """Who owns each byte of one region, as runs (start, end, owner) in order."""

    def __init__(self, size: int) -> None:
        self.runs: list[tuple[int, int, str]] = [(0, size, "")]

    def owners(self, start: int, end: int) -> list[tuple[int, str]]:
        """(first byte, owner) of every run that [start, end) touches."""
        return [(max(a, start), owner) for a, b, owner in self.runs if a < end and start < b]

    def give(self, start: int, end: int, owner: str) -> None:
        """[start, end) belongs to `owner` from now on."""
        if start == end:
            return
        before = [(a, min(b, start), o) for a, b, o in self.runs if a < start]
        after = [(max(a, end), b, o) for a, b, o in self.runs if b > end]
        self.runs = [*before, (start, end, owner), *after]


class _Player:
    def __init__(
        self, graph: Graph, calls: Mapping[str, Asked | None], placed: list[Placed], arena_bytes: Sequence[int], keep: bool
    ) -> None:
        self.graph, self.calls = graph, calls
        self.memory = [_Bytes(size) for size in arena_bytes]
        self.where = {p.tensor: p for p in placed if p.kind != "scratch"}
        self.scratch = {p.tensor: p for p in placed if p.kind == "scratch"}
        states = {t.name for t in graph.tensors.values() if t.variable}
        self.before = (*graph.inputs, *sorted(states - set(graph.inputs)))
        self.after = set(graph.outputs) | states | (set(graph.inputs) if keep else set())
        self.same = self._same_bytes()
        self.wanted = self._last_reads()
        for p in placed:
            end = p.offset + p.size_bytes
            if p.offset < 0 or end > arena_bytes[p.region]:
                raise PlacementError(f"{p.tensor} ends at byte {end} of region {p.region}, whose arena has {arena_bytes[p.region]}")

    def _same_bytes(self) -> dict[str, str]:
        """Tensor -> the first tensor whose bytes it is, following reshapes back."""
        same = {name: name for name in self.graph.tensors}
        for node in self.graph.nodes:
            if self.calls[node.name] is None:
                same[node.outputs[0]] = same[node.inputs[0]]
        return same

    def _last_reads(self) -> dict[str, int]:
        """First tensor of each run of bytes -> index of the last kernel that reads it; past the end for what must stay."""
        wanted: dict[str, int] = {}
        for i, node in enumerate(self.graph.nodes):
            if self.calls[node.name] is not None:
                wanted.update({self.same[name]: i for name in node.inputs if name})
        wanted.update({self.same[name]: len(self.graph.nodes) for name in self.after})
        return wanted

    def play(self) -> None:
        """Write the inputs, run every node, read the outputs."""
        for name in self.before:
            self._no_lost(name, -1, "the caller")
        for i, node in enumerate(self.graph.nodes):
            if self.calls[node.name] is None:
                self._alias(node)
            else:
                self._run(i, node)
        for name in sorted(self.after):
            self._intact(name, "the caller")

    def _place(self, name: str, user: str) -> Placed:
        if name not in self.where:
            raise PlacementError(f"{user} uses {name}, which has no place")
        return self.where[name]

    def _intact(self, name: str, reader: str) -> None:
        """Every byte of `name` must still be the one that was written."""
        p = self._place(name, reader)
        if p.size_bytes != self.graph[name].size_bytes:
            raise PlacementError(f"{name} takes {self.graph[name].size_bytes} bytes and was given {p.size_bytes}")
        for at, owner in self.memory[p.region].owners(p.offset, p.offset + p.size_bytes):
            if owner != self.same[name]:
                raise PlacementError(f"{reader} reads {name}, whose byte {at - p.offset} belongs to {owner or 'nobody'} by then")

    def _no_lost(self, name: str, step: int, writer: str) -> None:
        """`name` is written at `step`: refuse to take bytes from a tensor that is wanted later, else they are its own."""
        p = self._place(name, writer)
        for _, owner in self.memory[p.region].owners(p.offset, p.offset + p.size_bytes):
            if owner != self.same[name] and self.wanted.get(owner, -1) > step:
                raise PlacementError(f"{writer} writes {name} over {owner}, which is read later")
        self.memory[p.region].give(p.offset, p.offset + p.size_bytes, self.same[name])

    def _alias(self, node: Node) -> None:
        """A reshape: the same bytes under another name."""
        source, made = self._place(node.inputs[0], node.name), self._place(node.outputs[0], node.name)
        if (source.region, source.offset, source.size_bytes) != (made.region, made.offset, made.size_bytes):
            raise PlacementError(f"{node.name} is no kernel call, so {made.tensor} must lie where {source.tensor} lies")

    def _run(self, step: int, node: Node) -> None:
        call = self.calls[node.name]
        assert call is not None
        reads = [(i, name) for i, name in enumerate(node.inputs) if name and not self.graph[name].is_const]
        for _, name in reads:
            self._intact(name, node.name)
        own: list[Placed] = [*self._lend(step, node, call)]
        for out in node.outputs:
            made = self._place(out, node.name)
            for other in own:
                if _share(made, other):
                    raise PlacementError(f"{node.name} writes {out} over its own {other.kind} {other.tensor}")
            self._sharing(step, node, call, reads, made)
            own.append(made)
        for out in node.outputs:
            self._no_lost(out, step, node.name)

    def _lend(self, step: int, node: Node, call: Asked) -> list[Placed]:
        """Give the kernel its scratch: bytes that no live tensor owns. Empty when it asks for none."""
        if call.scratch_bytes <= 0:
            return []
        p = self.scratch.get(node.name)
        if p is None or p.size_bytes < call.scratch_bytes:
            raise PlacementError(f"{node.name} asks for {call.scratch_bytes} bytes of scratch and was given {p.size_bytes if p else 0}")
        for _, owner in self.memory[p.region].owners(p.offset, p.offset + p.size_bytes):
            if self.wanted.get(owner, -1) >= step:
                raise PlacementError(f"the scratch of {node.name} lies on {owner}, which is still needed")
        self.memory[p.region].give(p.offset, p.offset + p.size_bytes, _SCRATCH)
        return [p]

    def _sharing(self, step: int, node: Node, call: Asked, reads: list[tuple[int, str]], made: Placed) -> None:
        """The output may share bytes only with inputs that die here, at the distance the kernel allows."""
        for i, name in reads:
            given = self.where[name]
            if self.same[name] == self.same[made.tensor] or not _share(made, given):
                continue
            if self.wanted.get(self.same[name], -1) > step:
                raise PlacementError(f"{node.name} writes {made.tensor} over its input {name}, which is read later")
            if len(node.outputs) > 1 or i not in call.overlap or given.offset - made.offset < call.overlap[i]:
                raise PlacementError(f"{node.name} cannot write {made.tensor} at {made.offset} while it reads {name} at {given.offset}")


def _share(a: Placed, b: Placed) -> bool:
    """True when two runs have a byte in common."""
    return a.region == b.region and max(a.offset, b.offset) < min(a.offset + a.size_bytes, b.offset + b.size_bytes)
