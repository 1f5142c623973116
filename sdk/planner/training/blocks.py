"""Blocks that keep their input alone and are computed once more when the gradient arrives: where they begin and end.

A program is cut where one value is alive and smaller than those at the cuts beside it: there keeping it costs least. For MobileNetV2 the
parts are its inverted residuals, for ResNet its residual blocks. (Chen and others 2016, "Training deep nets with sublinear memory cost".)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sdk.planner.training.live import needing
from sdk.planner.training.walk import Walk


@dataclass(frozen=True)
class Block:
    """Operations between two cuts. at: their positions in the walk. inputs: values read from outside. layers: indices of those in it."""

    at: tuple[int, ...]
    inputs: tuple[str, ...]
    layers: tuple[int, ...]
    output: str


@dataclass(frozen=True)
class Offered:
    """A block of layers next to each other that the planner may recompute.

    first: as it is where training starts in it; None where it is cut otherwise then. inner: as it is where training starts in front of it.
    """

    layers: range
    first: Block | None
    inner: Block | None


def ends(names: Sequence[str], reads: Sequence[Iterable[str]], sizes: Sequence[int], batched: Sequence[bool]) -> tuple[int, ...]:
    """How many operations lie in front of the end of each block. reads: names each reads; sizes: values of a sample's result."""
    last = dict.fromkeys(names, -1)
    for i, refs in enumerate(reads):
        last.update((ref, i) for ref in refs if ref in last)
    lonely, reach = [], -1  # reach: the last reader of everything made so far
    for i, name in enumerate(names[:-1]):
        if batched[i] and last[name] > i and reach <= i:
            lonely.append(i)
        reach = max(reach, last[name])
    cuts = [i for n, i in enumerate(lonely) if _is_narrow(sizes, lonely, n)]
    return (*(i + 1 for i in cuts), len(names))


def _is_narrow(sizes: Sequence[int], lonely: Sequence[int], n: int) -> bool:
    """No larger than the lonely values beside it, and with something larger in front of the next one."""
    here, size = lonely[n], sizes[lonely[n]]
    if n and sizes[lonely[n - 1]] < size:
        return False
    if n + 1 == len(lonely):
        return True
    following = lonely[n + 1]
    return sizes[following] >= size and any(other > size for other in sizes[here + 1 : following + 1])


def live_blocks(walk: Walk, reached: frozenset[str]) -> tuple[Block, ...]:
    """The blocks of the operations that a gradient reaches."""
    at = [i for i, op in enumerate(walk.ops) if op.name in reached]
    ops = [walk.ops[i] for i in at]
    found, begin = [], 0
    for end in ends([op.name for op in ops], [op.reads for op in ops], [op.size for op in ops], [op.batched for op in ops]):
        part = ops[begin:end]
        own = {op.name for op in part}
        inputs = tuple(dict.fromkeys(name for op in part for name in op.reads if name not in own))
        layers = tuple(dict.fromkeys(op.layer for op in part if op.layer >= 0))
        found.append(Block(tuple(at[begin:end]), inputs, layers, part[-1].name))
        begin = end
    return tuple(found)


def offered(walk: Walk) -> tuple[Offered, ...]:
    """Blocks that are the same wherever training starts in front of them, and whatever else learns.

    Where training starts decides what a gradient reaches, and so where the program is cut. Left out are blocks with a layer that runs
    more than once, blocks that begin with an operation that would work in place, and all where the walk does not hold every operation.
    """
    if not walk.complete:
        return ()
    starts = {s: _seen(walk, s) for s in walk.layer_at}
    found = []
    for layers in dict.fromkeys(block.layers for block in starts[0][0]):
        if not layers or layers != tuple(range(layers[0], layers[-1] + 1)):
            continue
        inner = {_of(blocks, layers) for s in range(layers[0]) for blocks in starts[s]}
        alone = {_of(live_blocks(walk, needing(walk, [walk.layer_at[i] for i in layers])), layers), _of(starts[layers[0]][1], layers)}
        made = Offered(range(layers[0], layers[-1] + 1), _only(walk, alone), _only(walk, inner))
        found += [made] if made.first or made.inner else []
    return tuple(found)


def _seen(walk: Walk, start: int) -> tuple[tuple[Block, ...], ...]:
    """The blocks where layer `start` learns first: alone, and with all behind it."""
    roots = [at for layer, at in walk.layer_at.items() if layer >= start]
    return live_blocks(walk, needing(walk, [walk.layer_at[start]])), live_blocks(walk, needing(walk, roots))


def _of(blocks: Sequence[Block], layers: tuple[int, ...]) -> Block | None:
    return next((block for block in blocks if block.layers == layers), None)


def _only(walk: Walk, found: set[Block | None]) -> Block | None:
    """The one block of the set, where there is one and it can be priced."""
    if len(found) != 1:
        return None
    block = next(iter(found))
    return block if block is not None and _is_plain(walk, block) else None


def _is_plain(walk: Walk, block: Block) -> bool:
    ops = [walk.ops[i] for i in block.at]
    layers = [op.layer for op in ops if op.layer >= 0]
    everywhere = sum(op.layer in block.layers for op in walk.ops)
    given = {walk.storage[name] for name in block.inputs}
    in_place = any(op.kind not in ("identity", "view") and walk.storage[op.name] in given for op in ops)
    return len(layers) == len(set(layers)) == everywhere and not in_place


def positions(blocks: Iterable[Offered]) -> dict[int, int]:
    """Position of an operation -> first layer of the block offered for it."""
    return {at: o.layers[0] for o in blocks for block in (o.first, o.inner) if block for at in block.at}

