"""Recomputation with its price: all layers of a block learn exactly, the block keeps its input, and its inside is made again in backward."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from sdk.planner.training import kept
from sdk.planner.training.blocks import Block, Offered
from sdk.planner.training.choose import Chosen, peak_of
from sdk.planner.training.fronts import Joint, Option
from sdk.planner.training.live import kept_beside, kept_storages
from sdk.planner.training.options import Setting, value
from sdk.planner.training.predict import remade
from sdk.planner.training.records import Choice
from sdk.planner.training.work import layer_class, layer_work
from sdk.planner.training.workspace import forward_workspace


def joints(setting: Setting, wanted: frozenset[str] | None) -> tuple[Joint, ...]:
    """What may be recomputed. wanted: the layers that must learn, as for `layer_options`; a block with another layer is left out."""
    names = [record.name for record in setting.records]
    allowed = [o for o in setting.offered if wanted is None or all(names[i] in wanted for i in o.layers)]
    return tuple(joint for joint in (_joint(setting, o) for o in allowed) if _saves(setting, joint))


def without_need(
    setting: Setting, chosen: Chosen, joints: Sequence[Joint], budget_bytes: int, fixed_bytes: int, prefix_bytes: Sequence[int], after_bytes: int
) -> Chosen:
    """The selection without what is recomputed for nothing: a block learns exactly in less time where that fits, the dearest block first.

    The programme keeps, of selections of equal value, the one of least memory; time is looked at here.
    """
    taken = [j for j in joints if chosen.options[j.first : j.end] == j.options]
    exact = {j.first: [setting.option(i, Choice(setting.records[i].name)) for i in range(j.first, j.end)] for j in taken}
    for j in sorted(taken, key=lambda j: sum(o.step_s for o in exact[j.first]) - j.whole.step_s):
        options = (*chosen.options[: j.first], *exact[j.first], *chosen.options[j.end :])
        peak = peak_of(options, fixed_bytes, prefix_bytes, after_bytes)
        if peak <= budget_bytes:
            seconds = sum(o.first_step_s if i == chosen.start else o.step_s for i, o in enumerate(options) if i >= chosen.start)
            chosen = replace(chosen, options=options, peak_bytes=peak, step_s=seconds)
    return chosen


def _saves(setting: Setting, joint: Joint) -> bool:
    """True where recomputing keeps less than the same layers do exactly."""
    each = [setting.option(i, Choice(setting.records[i].name)) for i in range(joint.first, joint.end)]
    return joint.whole.saved_bytes < sum(o.saved_bytes for o in each)


def _joint(setting: Setting, block: Offered) -> Joint:
    """The block's layers, with what it keeps and what is alive in it told by the first of them."""
    shapes = [b for b in (block.first, block.inner) if b]
    tails = {b: _tail(setting, b) for b in shapes}
    least = {b: _given(setting, b) + _beside(setting, tails[b]) for b in shapes}
    saved = max(least.values())  # of both shapes, so that either may be meant; what they keep less is room for transients
    high = max(_transients(setting, b, tails[b], False) + least[b] for b in shapes) - saved
    first = _transients(setting, block.first, tails[block.first], True) + least[block.first] - saved if block.first else high
    options = [_option(setting, i) for i in block.layers]
    options[0] = _option(setting, block.layers[0], saved, max(high, 0), max(first, 0))
    return Joint(block.layers[0], tuple(options), block.first is not None, block.inner is not None)


def _option(setting: Setting, index: int, saved: int = 0, transient: int = 0, first_transient: int = 0) -> Option:
    record, kind = setting.records[index], layer_class(setting.records[index])
    choice = Choice(record.name, "recompute")
    weights = kept.learning_bytes(record, choice) * (setting.held_copies + setting.undo_copies)
    seconds = [setting.rates.seconds(kind, layer_work(record, choice, setting.batch, f) + setting.moved(index, choice)) for f in (False, True)]
    return Option(choice, value(record, choice), saved, 0, weights, transient, seconds[0], first_transient, seconds[1])


def _tail(setting: Setting, block: Block) -> tuple[int, ...]:
    """Positions of what lies behind the block's layers, up to the next one, and belongs to another block."""
    return tuple(at for i in block.layers for at in setting.spans[i] if at not in block.at)


def _given(setting: Setting, block: Block) -> int:
    return sum({setting.walk.storage[name]: setting.walk.size_of(name, setting.batch) for name in block.inputs}.values())


def _stored(setting: Setting, tail: Collection[int]) -> set[str]:
    return {name for at in tail for name in kept_storages(setting.walk, setting.walk.ops[at])}


def _beside(setting: Setting, tail: Collection[int]) -> int:
    """What the operations of `tail` keep where their own block is not recomputed."""
    return sum(kept_beside(setting.walk, setting.walk.ops[at], setting.batch) for at in tail) + setting.bytes_of(_stored(setting, tail))


def _transients(setting: Setting, block: Block, tail: Collection[int], first: bool) -> int:
    """The most bytes alive in the block beyond what it keeps: forward, made again, or back."""
    walk, records, start = setting.walk, setting.records, block.at[0]
    given = {walk.storage[name] for name in block.inputs}
    forward = []
    for at in (*block.at, *tail):
        stored = given | (_stored(setting, tail) if at in tail else set())
        index = walk.ops[at].layer
        work = forward_workspace(records[index], Choice(records[index].name), setting.batch) if index >= 0 and setting.copies else 0
        forward.append(setting.bytes_of(setting.live[at] - stored) + work)
    gradients = list(setting.back)
    if first:
        gradients[start] -= walk.size_of(walk.ops[start].reads[0], setting.batch)
    chosen = {i: Choice(records[i].name, "recompute") for i in block.layers}
    inside = remade(setting, block, chosen, gradients, setting.reached, start if first else -1)
    return max(*forward, *inside.values(), *(setting.back[at] for at in tail), 0)
