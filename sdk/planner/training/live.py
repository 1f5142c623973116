"""What is alive while a training step walks through the program: values forward, gradients back, and what each operation keeps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from sdk.planner.training.walk import ALIASES, Op, Walk

#: Bits an operation keeps for its backward for each value of its result: masks, slopes, indices of maxima.
RESULT_BITS: Mapping[str, int] = {"relu": 1, "relu6": 1, "hardsigmoid": 1, "hardswish": 16, "gelu": 16, "silu": 16, "max_pool2d": 8}
#: Operations that keep their own result, or what they read.
KEEPS_RESULT = ("sigmoid", "tanh", "softmax")
KEEPS_INPUT = ("layer_norm", "mul", "attention")
#: Kinds whose backward hands the gradient on as it is.
_PASSES_ON = (*ALIASES, "add")


def last_readers(walk: Walk, storage: Mapping[str, str]) -> dict[str, int]:
    """Storage -> position of the last operation that reads or writes it."""
    last: dict[str, int] = {walk.input: -1}
    for at, op in enumerate(walk.ops):
        for name in (op.name, *op.reads):
            last[storage[name]] = at
    return last


def forward_live(walk: Walk, frozen: bool = False) -> list[frozenset[str]]:
    """For each operation, the storages that are alive while it runs: written before or by it, read by it or later.

    The program's input belongs to the caller and is not among them. frozen: as the part runs that needs no gradients.
    """
    storage = walk.frozen_storage if frozen else walk.storage
    last = last_readers(walk, storage)
    alive: set[str] = set()
    found = []
    for at, op in enumerate(walk.ops):
        alive.add(storage[op.name])
        alive.discard(walk.input)
        found.append(frozenset(alive))
        alive = {name for name in alive if last[name] > at}
    return found


def kept_storages(walk: Walk, op: Op) -> tuple[str, ...]:
    """Storages of activations that an operation keeps for its backward, other than a layer's own input."""
    if op.kind in KEEPS_RESULT:
        return (walk.storage[op.name],)
    if op.kind in KEEPS_INPUT:
        return tuple(dict.fromkeys(walk.storage[name] for name in op.reads))
    return ()


def kept_beside(walk: Walk, op: Op, batch: int) -> int:
    """Bytes an operation keeps beside whole tensors: bit masks, slopes, indices of maxima, a norm's mean and deviation of each row."""
    if op.kind == "layer_norm":
        return 8 * op.values(batch) // max(op.features, 1)
    return -(-op.values(batch) * RESULT_BITS.get(op.kind, 0) // 8)


@dataclass
class Gradients:
    """The gradients alive while backward walks from the last operation to the first. `needs`: values whose gradient is wanted."""

    walk: Walk
    batch: int
    needs: frozenset[str]
    _owner: dict[str, str] = field(default_factory=dict)  # value -> the gradient buffer it has

    def bytes(self) -> int:
        """All buffers that some value's gradient lies in."""
        return sum(self._size(buffer) for buffer in set(self._owner.values()))

    def begin(self, name: str) -> None:
        """The gradient of the output arrives."""
        self._owner[name] = name

    def step(self, op: Op) -> int:
        """Go back through one operation; the bytes of gradients alive at its worst moment."""
        high = self.bytes()
        if op.name not in self._owner:
            return high
        for name in op.reads:
            if name in self.needs:
                high = max(high, self._give(op, name))
        del self._owner[op.name]
        return high

    def _give(self, op: Op, name: str) -> int:
        """The gradient of one value that `op` reads; the bytes alive meanwhile. A second part is added to the first in its place."""
        passes, had = op.kind in _PASSES_ON, name in self._owner
        if passes and not had:
            self._owner[name] = self._owner[op.name]
            return self.bytes()
        before = self.bytes()
        self._owner[name] = name
        if not had:
            return self.bytes()
        return before + self._size(name)

    def _size(self, name: str) -> int:
        return self.walk.size_of(name, self.batch)


def backward_live(walk: Walk, batch: int, roots: Collection[int]) -> list[int]:
    """For each operation, bytes of gradients alive while backward passes it. roots: positions of the operations that learn."""
    first, grads = min(roots), Gradients(walk, batch, needing(walk, roots))
    found = [0] * len(walk.ops)
    grads.begin(walk.ops[-1].name)
    for at in range(len(walk.ops) - 1, first - 1, -1):
        found[at] = grads.step(walk.ops[at])
    return found


def needing(walk: Walk, roots: Collection[int]) -> frozenset[str]:
    """Values whose gradient is needed where the operations at `roots` learn: their results, and all computed from them."""
    reached = {walk.ops[at].name for at in roots}
    for op in walk.ops:
        if any(name in reached for name in op.reads):
            reached.add(op.name)
    return frozenset(reached)


def spans(walk: Walk) -> dict[int, range]:
    """Layer index -> the positions of its operation and of all behind it, up to the next layer; -1: those in front of the first layer."""
    edges = [*sorted((at, layer) for layer, at in walk.layer_at.items()), (len(walk.ops), -2)]
    return {-1: range(edges[0][0]), **{layer: range(at, end) for (at, layer), (end, _) in pairwise(edges)}}
