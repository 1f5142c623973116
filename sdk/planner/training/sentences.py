"""What was decided for a plan of training, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sdk.planner.training import kept

if TYPE_CHECKING:
    from sdk.planner.training.make import Case, Solved
    from sdk.planner.training.spec import Training


def decisions_of(case: Case, training: Training, solved: Solved, budget: int) -> Iterator[str]:
    """The sentences, in the order in which a plan tells them."""
    learning = [o for o in solved.chosen.options if o.trains]
    first = case.records[solved.chosen.start].name
    if solved.least_bytes > budget:
        yield f"Nothing that was asked for fits {budget:,} bytes; what is shown is the smallest choice there is."
    count = f"{len(learning)} of {len(case.records)} layers"
    yield f"{count} learn, the first is {first}; what lies in front of it stays as it is and runs without a graph, {case.chunk} samples at a time."
    if solved.setting.micro:
        parts = solved.parts
        yield f"A batch of {training.batch} goes through in {parts} parts of {solved.setting.batch}, whose gradients are added up: that fits, or gains, more."
    if solved.fits and (training.layers == "auto" or training.method == "auto"):
        yield _how_good(solved)
    if training.budget_bytes is None:
        yield "No budget was given, so freed memory stays with the process for speed: its heap may hold up to twice what the step itself needs."
    else:
        yield "Freed tensors are given back at once (a fixed mmap threshold), so that the budget holds; new pages make steps slower."
    if any(o.choice.method in ("fixed", "adapter") for o in learning):
        yield "Bases of fixed subspaces and adapters come from the calibration data and are held as constants, whatever the batch."
    if training.factors == "auto" and any(o.choice.factors == "int8" for o in learning):
        yield "What is projected is held in 8 bits, with a scale for each component (factors='float32' holds it whole, in four times the bytes)."
    if any(o.choice.method == "recompute" for o in learning):
        yield "Recomputed layers keep their block's input alone: the rest of the block is computed again when its gradient arrives, so a step takes longer."
    if any(o.choice.method == "channels" for o in learning):
        yield "Where channels learn, they are the first ones of the layer's input; the gain is the share of the gradient's energy seen in them."
    by_batch = [o for o in learning if o.choice.method in ("hosvd", "svd")]
    if any(o.choice.ranks for o in by_batch):
        yield "hosvd and svd are held to the ranks that calibration batches took on average, so that their bytes are known; bases are each batch's own."
    if any(not o.choice.ranks for o in by_batch):
        yield f"hosvd and svd keep as much as each batch needs: their bytes are an expectation, not a bound{_spread(solved)}."


def _spread(solved: Solved) -> str:
    """How much the calibration's batches would keep, least and most, in those layers; nothing where they were not seen."""
    records = {record.name: record for record in solved.setting.records}
    seen = [kept.bytes_by_batch(records[o.choice.layer], o.choice, solved.setting.batch) for o in solved.chosen.options if o.trains]
    totals = [sum(batch) for batch in zip(*filter(None, seen), strict=False)]
    return f" (calibration batches would keep {min(totals):,} to {max(totals):,})" if totals else ""


def _how_good(solved: Solved) -> str:
    """What is known of the choice: it is the best, or how far from the best it can be."""
    allowed = f"Of all selections that were allowed with {solved.setting.batch} samples at a time"
    if solved.chosen.exact:
        return f"{allowed}, none gains more within the budget: the choice is exact, on bytes."
    best = f"this one is within {_percent(solved.chosen.gap)} % of the best possible within the budget"
    return f"{allowed}, {best}: there are too many to compare all; bytes are exact."


def _percent(share: float) -> str:
    """Hundredths of it, rounded up to two digits: 0.00012345 is 0.013."""
    digits = max(1 - math.floor(math.log10(100 * share)), 0)
    return f"{math.ceil(100 * share * 10**digits) / 10**digits:.{digits}f}"
