"""What a training step holds, walked through operation by operation for choices that are made: bytes kept for backward, and the peak.

`choose` adds up prices that are right for each layer alone. Here every storage counts once, also where two layers keep the same input,
and copies for undoing a step appear when they are made. So the prediction is never above the price.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sdk.planner.training import kept
from sdk.planner.training.blocks import Block, live_blocks
from sdk.planner.training.live import backward_live, kept_beside, kept_storages, needing
from sdk.planner.training.options import Setting
from sdk.planner.training.records import Choice, LayerRecord
from sdk.planner.training.walk import Op, Walk
from sdk.planner.training.workspace import backward_workspace, forward_workspace


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one step beyond what is held all the time.

    saved_bytes: kept for backward when forward ends. peak_bytes: at the highest moment, of which kept_bytes for backward, undo_bytes for
    taking the step back and for gradients that are added up; the rest is alive at that moment only. at: the operation, and which way.
    """

    saved_bytes: int
    peak_bytes: int
    kept_bytes: int
    undo_bytes: int
    at: str

    @property
    def transient_bytes(self) -> int:
        """Live tensors, gradients and workspace at the highest moment."""
        return self.peak_bytes - self.kept_bytes - self.undo_bytes


def predict_saved_bytes(walk: Walk, records: Sequence[LayerRecord], choices: Iterable[Choice], batch: int, factors: str = "") -> int:
    """Bytes of unique storages held for backward when the forward pass ends: exact where ranks are given, else as the spectra expect.

    Weights and shared bases are not among them. factors: how compressed inputs are held, in place of what the choices say.
    """
    return _held(_kept(walk, records, _by_layer(walk, records, choices, factors), batch)) + loss_bytes(walk, batch)


def loss_bytes(walk: Walk, batch: int) -> int:
    """What cross-entropy keeps: the logarithm of the softmax, int64 labels, and the sum of the classes' weights."""
    return 4 * batch * walk.classes + 8 * batch + 4


def predict_step(setting: Setting, choices: Iterable[Choice]) -> StepMemory:
    """The step walked through, forward and back, at the setting's batch."""
    walk, records = setting.walk, setting.records
    by_layer = _by_layer(walk, records, choices, "")
    first = _first(walk, by_layer)
    items = _kept(walk, records, by_layer, setting.batch)
    moments = [_prefix(setting, first), *_forward(setting, by_layer, first, items), *_backward(setting, by_layer, first, items)]
    peak = max(moments, key=lambda m: m[0])
    return StepMemory(_held(items) + loss_bytes(walk, setting.batch), *peak)


def predict_peak_bytes(setting: Setting, choices: Iterable[Choice]) -> int:
    """By how much a step raises the resident memory of a process that holds the model, what learns, and the bases already."""
    return predict_step(setting, choices).peak_bytes


_Moment = tuple[int, int, int, str]  # bytes, of which kept, of which for undoing, where
_Item = tuple[int, str, int]  # position of the operation that keeps it, storage (or "@" and the operation, for what is its own), bytes


def _by_layer(walk: Walk, records: Sequence[LayerRecord], choices: Iterable[Choice], factors: str) -> dict[int, Choice]:
    """Layer index -> choice of those that learn."""
    index = {record.name: i for i, record in enumerate(records)}
    made = tuple(c for c in choices if c.method != "freeze")
    run = [as_run(records[index[c.layer]], c) for c in (kept.with_factors(made, factors) if factors else made)]
    return {index[c.layer]: c for c in run}


def as_run(record: LayerRecord, choice: Choice) -> Choice:
    """The choice as the trainer takes it: where every channel has weights of its own, all of them learn."""
    return replace(choice, method="exact", fraction=1.0) if choice.method == "channels" and record.groups > 1 else choice


def _roots(walk: Walk, by_layer: Mapping[int, Choice]) -> tuple[int, ...]:
    """Positions of all operations that learn; the last operation where none does."""
    return tuple(at for at, op in enumerate(walk.ops) if op.layer in by_layer) or (len(walk.ops) - 1,)


def again(walk: Walk, by_layer: Mapping[int, Choice]) -> tuple[Block, ...]:
    """The blocks that are recomputed: those in which any layer was chosen to be."""
    chosen = {i for i, choice in by_layer.items() if choice.method == "recompute"}
    return tuple(block for block in live_blocks(walk, needing(walk, _roots(walk, by_layer))) if chosen.intersection(block.layers)) if chosen else ()


def _first(walk: Walk, by_layer: Mapping[int, Choice]) -> int:
    """Position of the first operation that learns."""
    return min((walk.layer_at[i] for i in by_layer), default=len(walk.ops) - 1)


def _held(items: Iterable[_Item], at: int = 1 << 62) -> int:
    """Bytes of what operations up to position `at` keep, every storage once."""
    return sum({key: size for position, key, size in items if position <= at}.values())


def _kept(walk: Walk, records: Sequence[LayerRecord], by_layer: Mapping[int, Choice], batch: int) -> list[_Item]:
    """What each operation that a gradient reaches keeps; a block that is recomputed keeps what it reads."""
    reached = needing(walk, _roots(walk, by_layer)) if by_layer else frozenset()
    blocks = again(walk, by_layer)
    inside = {at for block in blocks for at in block.at}
    found = [(block.at[0], walk.storage[name], walk.size_of(name, batch)) for block in blocks for name in block.inputs]
    for at, op in enumerate(walk.ops):
        if op.name in reached and at not in inside:
            found += kept_at(walk, records, by_layer, batch, at, reached)
    return sorted(found, key=lambda item: item[0])


def kept_at(
    walk: Walk, records: Sequence[LayerRecord], by_layer: Mapping[int, Choice], batch: int, at: int, reached: frozenset[str]
) -> list[_Item]:
    """What the operation at one position keeps, where its block is not recomputed, or while it is."""
    op = walk.ops[at]
    choice = by_layer.get(op.layer)
    if choice is not None and choice.method in ("exact", "recompute") and choice.factors == "float32":
        return [(at, walk.storage[op.reads[0]], walk.size_of(op.reads[0], batch))]
    if choice is not None:
        return [(at, f"@{op.name}", kept.input_bytes(records[op.layer], choice, batch))]
    whole = [(at, name, walk.size_of(name, batch)) for name in _needed(walk, op, reached)]
    return [*whole, (at, f"@{op.name}", kept_beside(walk, op, batch))]


def _needed(walk: Walk, op: Op, reached: frozenset[str]) -> tuple[str, ...]:
    """Storages an operation keeps; a product keeps only the factors that a gradient of the others needs."""
    if op.kind == "mul" and len(op.reads) == 2:
        pairs = zip(op.reads, op.reads[::-1], strict=True)
        return tuple(dict.fromkeys(walk.storage[name] for name, other in pairs if other in reached))
    return kept_storages(walk, op)


def _prefix(setting: Setting, first: int) -> _Moment:
    layer = next((op.layer for op in setting.walk.ops[first:] if op.layer >= 0), len(setting.records) - 1)
    return setting.prefix_bytes[layer], 0, 0, "the frozen part"


def _forward(setting: Setting, by_layer: Mapping[int, Choice], first: int, items: Sequence[_Item]) -> list[_Moment]:
    walk, batch = setting.walk, setting.batch
    added = _learning(setting, by_layer.values()) * setting.micro
    found = []
    for at in range(first, len(walk.ops)):
        op = walk.ops[at]
        stored = {key for position, key, _ in items if position <= at}
        work = forward_workspace(setting.records[op.layer], _choice(setting, by_layer, op), batch) if op.layer >= 0 else 0
        kept_bytes = _held(items, at)
        found.append((kept_bytes + setting.bytes_of(setting.live[at] - stored) + work + added, kept_bytes, added, f"{op.name}, forward"))
    total = _held(items) + loss_bytes(walk, batch)
    found.append((total + 8 * batch * walk.classes + added, total, added, "the loss"))
    return found


def _backward(setting: Setting, by_layer: Mapping[int, Choice], first: int, items: Sequence[_Item]) -> list[_Moment]:
    walk, batch = setting.walk, setting.batch
    roots = _roots(walk, by_layer)
    gradients, reached = backward_live(walk, batch, roots), needing(walk, roots)
    inside: dict[int, int] = {}
    for block in again(walk, by_layer):
        inside |= remade(setting, block, by_layer, gradients, reached, first)
    added = _learning(setting, by_layer.values()) * setting.micro
    found = []
    for at in range(len(walk.ops) - 1, first - 1, -1):
        op, kept_bytes = walk.ops[at], _held(items, at)
        choice = by_layer.get(op.layer)
        work = backward_workspace(setting.records[op.layer], _choice(setting, by_layer, op), batch, at == first) if op.layer >= 0 else 0
        here = inside.get(at, gradients[at] + work)
        found.append((kept_bytes + here + added, kept_bytes, added, f"{op.name}, backward"))
        if choice is not None and not setting.micro:
            added += _learning(setting, [choice]) * setting.undo_copies
    if setting.micro:
        added *= 1 + setting.undo_copies
    found.append((added, 0, added, "the update"))
    return found


def remade(
    setting: Setting, block: Block, by_layer: Mapping[int, Choice], gradients: Sequence[int], reached: frozenset[str], first: int
) -> dict[int, int]:
    """Position -> bytes alive in a recomputed block's backward pass, beyond what is kept in front and its inputs.

    Its inside is made again, and kept; its result and that one's gradient stay to the end. The last position has the second forward pass too.
    """
    walk, batch = setting.walk, setting.batch
    given = {walk.storage[name] for name in block.inputs}
    items = [item for at in block.at for item in kept_at(walk, setting.records, by_layer, batch, at, reached) if item[1] not in given]
    result = walk.size_of(block.output, batch)
    y = 0 if walk.storage[block.output] in {*given, *(key for _, key, _ in items)} else result
    found, again_forward = {}, 0
    for at in block.at:
        op, held, stored = walk.ops[at], _held(items, at), given | {key for position, key, _ in items if position <= at}
        choice, layer = _choice(setting, by_layer, op), op.layer >= 0
        ahead = forward_workspace(setting.records[op.layer], choice, batch) if layer else 0
        again_forward = max(again_forward, held + setting.bytes_of(setting.live[at] - stored) + ahead + result)
        back = backward_workspace(setting.records[op.layer], choice, batch, at == first) if layer else 0
        found[at] = held + gradients[at] + back + y + (result if at != block.at[-1] else 0)
    found[block.at[-1]] = max(found[block.at[-1]], again_forward)
    return found


def _choice(setting: Setting, by_layer: Mapping[int, Choice], op: Op) -> Choice:
    """How the layer of this operation learns, or that it does not."""
    if op.layer < 0:
        return Choice("", "freeze")
    return by_layer.get(op.layer) or Choice(setting.records[op.layer].name, "freeze")


def _learning(setting: Setting, choices: Iterable[Choice]) -> int:
    """Bytes of what learns."""
    index = {record.name: record for record in setting.records}
    return sum(kept.learning_bytes(index[c.layer], c) for c in choices)
